"""What finds a run in the job log: its labels, the codes and the words of its cause chain, and what it did."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from service.domain.errors import Cause
from service.domain.states import Event, State
from tests.contract.store_cases import ACCOUNT, ANA, StoreCase, case
from tests.integration.api_cases import ApiCase

__all__ = ["case"]  # fixtures

AT = datetime(2026, 1, 1, tzinfo=UTC)


async def failed(case: StoreCase, name: str, *messages: str, code: str = "sink_refused", **more: Any) -> None:
    """A run that ended with this chain."""
    job = await case.create(name, **more)
    await case.start(job)
    lease = await case.lease(job)
    await case.store.fail(lease, [Cause(f"{code}_{n}", text, AT, retryable=False) for n, text in enumerate(messages)])


async def found(case: StoreCase, **filters: Any) -> list[str]:
    runs, _ = await case.store.runs(ACCOUNT, filters, limit=50, after=None)
    assert await case.store.count_runs(ACCOUNT, filters) == len(runs)
    return [run.job_name for run in runs]


async def test_a_run_is_found_by_the_text_of_any_cause(case: StoreCase) -> None:
    await failed(
        case, "pool", "Could not execute query [shop].", "connect timed out", "Verbindung zur Börse: 10.0.0.5:5432"
    )
    await failed(case, "disk", "no space left on device", "timed 50%_out")
    await case.start(await case.create("fine"))
    assert await found(case, q="timed out") == ["pool"]
    assert await found(case, q="TIMED") == ["disk", "pool"]
    assert await found(case, q="query [shop]") == ["pool"]
    assert await found(case, q="börse") == ["pool"]
    assert await found(case, q="10.0.0.5:5432") == ["pool"]
    assert await found(case, q="50%_out") == ["disk"], "no wildcards"
    assert await found(case, q="timed %out") == []
    assert await found(case, q="out timed") == [], "in this order"
    assert await found(case, q="device timed") == [], "not over two causes"
    assert await found(case, q="imed ou") == [], "whole words"
    assert await found(case, q="timed", sink="kafka") == []
    assert await found(case, q="timed", job="disk") == ["disk"]
    assert await found(case, q="timed", error="sink_refused_2") == ["pool"]


@pytest.mark.parametrize("q", ["%", "...", " ", "'"])
async def test_a_text_without_a_word_is_refused(case: StoreCase, q: str) -> None:
    with pytest.raises(ValueError, match=r"^q "):
        await case.store.runs(ACCOUNT, {"q": q}, limit=50, after=None)


@pytest.mark.parametrize("q", ["x'; DROP TABLE runs; --", "word:x", "\\", "a" * 128])
async def test_a_text_is_only_a_text(case: StoreCase, q: str) -> None:
    await failed(case, "one", "x y z")
    try:
        assert await found(case, q=q) == []
    except ValueError as refused:
        assert "no word" in str(refused)  # noqa: PT017 -- of those that have none
    assert await found(case) == ["one"]


async def test_a_run_is_found_by_its_labels_all_of_them(case: StoreCase) -> None:
    await case.start(await case.create("a", labels={"team": "shop", "site": "north"}))
    await case.start(await case.create("b", labels={"team": "shop:x", "team:shop": "x", "ünï": "✓"}))
    await case.start(await case.create("c", labels={"team": "y" * 5000}))
    assert await found(case, label=[("team", "shop")]) == ["a"]
    assert await found(case, label=[("team", "shop"), ("site", "north")]) == ["a"]
    assert await found(case, label=[("team", "shop"), ("site", "south")]) == []
    assert await found(case, label=[("team", "shop"), ("team", "shop:x")]) == []
    assert await found(case, label=[("team", "shop:x")]) == ["b"]
    assert await found(case, label=[("ünï", "✓")]) == ["b"]
    assert await found(case, label=[("team", "y" * 5000)]) == ["c"]
    assert await found(case, label=[("team", "y" * 4999)]) == [], "terms are cut off, runs are compared"
    assert await found(case, label=[]) == ["c", "b", "a"]


async def test_runs_are_found_by_mode_and_by_states_together(case: StoreCase) -> None:
    await case.in_state(State.RUNNING, name="once")
    await case.in_state(State.ABORTED, name="full", mode="full")
    await case.in_state(State.ERROR, name="incremental", mode="incremental")
    assert await found(case, mode="full") == ["full"]
    assert await found(case, state=[State.ERROR, State.RUNNING]) == ["incremental", "once"]
    assert await found(case, state=[State.ERROR, State.ERROR]) == ["incremental"]
    assert await found(case, state=[State.ERROR], mode="full") == []
    assert await found(case, state=[]) == []


async def test_what_a_run_is_found_by_goes_with_it(case: StoreCase) -> None:
    await failed(case, "gone", "a rare quokka", labels={"team": "shop"})
    job = await case.store.get(ACCOUNT, "gone")
    assert job is not None
    await case.store.remove(ACCOUNT, ANA, job.id)
    assert await found(case, q="quokka") == ["gone"], "after its job"
    await case.sql("UPDATE runs SET errors = '[]'")
    assert await found(case, q="quokka") == []
    assert await found(case, label=[("team", "shop")]) == ["gone"]
    await case.sql("DELETE FROM runs")
    assert (await case.sql("SELECT count(*) FROM run_terms"))[0][0] == 0


async def test_an_error_is_found_while_its_run_is_still_failing_and_counts_change_no_term(case: StoreCase) -> None:
    job = await case.in_state(State.FAILING, name="failing")
    assert await found(case, error="root") == ["failing"]
    before = await case.sql("SELECT xmin::text, term FROM run_terms ORDER BY term")
    await case.sql("UPDATE runs SET rows_sent = rows_sent + 1")
    assert await case.sql("SELECT xmin::text, term FROM run_terms ORDER BY term") == before
    await case.verb(job, Event.ABORT)
    assert await found(case, error="root") == ["failing"]


async def test_another_accounts_runs_are_found_by_nothing(case: StoreCase) -> None:
    await failed(case, "mine", "a rare quokka", labels={"team": "shop"})
    await case.store.ensure_account("other")
    for filters in ({}, {"q": "quokka"}, {"label": [("team", "shop")]}, {"state": [State.ERROR]}, {"job": "mine"}):
        assert await case.store.runs("other", filters, limit=50, after=None) == ([], None)
        assert await case.store.count_runs("other", filters) == 0


async def test_the_search_over_http(control_database: str, database: str) -> None:
    async with ApiCase(control_database, database) as api:
        await api.ok("GET", "/v1/runs?label=team:shop&label=site:north&mode=full&q=timed%20out&state=error,aborted")
        for query in ("q=%25", "q=", "label=team", "mode=a&mode=b", "text=x"):
            reply = await api.call("GET", f"/v1/runs?{query}")
            assert (reply.status, reply.body["status"]) == (422, 422), query
        await api.refused("GET", "/v1/runs?q=%25", None, 422, "invalid_parameter")
