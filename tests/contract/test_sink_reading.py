"""The contract of a verification, on every sink that keeps rows, with real servers: what is intact shows no difference,
what another client has damaged shows exactly that, and what changed in the source is no fault of the sink."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.verify_cases import CASES, CHUNK, ROWS, SPLITS
from tests.integration.api_cases import ApiCase, definition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.contract.verify_cases import VerifyCase

KINDS = ("missing", "doubled", "foreign", "checksum", "gone", "not_verifiable", "source_changed")
OPTIONS = {"splits": SPLITS, "chunk": {"rows": CHUNK}}


@pytest.fixture
async def api(control_database: str, database: str) -> AsyncIterator[ApiCase]:
    async with ApiCase(control_database, database) as made:
        await made.shop()
        await made.rows(ROWS)
        yield made


@pytest.fixture(params=sorted(CASES))
async def case(request: pytest.FixtureRequest, api: ApiCase) -> AsyncIterator[VerifyCase]:
    """With the job `j`, which has delivered all rows."""
    made = CASES[request.param](request)
    await made.start(api)
    given = definition(sink=made.sink(), options=OPTIONS)
    if made.form is not None:
        given["format"] = made.form
    await api.engine.start()
    await api.ok("POST", "/v1/jobs?start=true", given, 201)
    ended = await api.until_state("j", "successful", "error")
    assert ended["state"] == "successful", ended["errors"]
    yield made
    await made.stop()


async def verified(api: ApiCase, **body: Any) -> dict[str, Any]:
    """A verification that has ended well."""
    ended = await api.verified(**body)
    assert ended["state"] == "successful", ended["errors"]
    return ended


def counts(found: dict[str, Any]) -> dict[str, int]:
    """The kinds that were found."""
    return {kind: found[kind] for kind in KINDS if found[kind]}


def keys(found: dict[str, Any], kind: str) -> list[str]:
    return sorted(one["key"] for one in found["differences"] if one["kind"] == kind and one["key"] is not None)


@pytest.mark.parametrize("checksums", [False, True])
async def test_what_is_intact_shows_no_difference(case: VerifyCase, checksums: bool):
    found = await verified(case.api, checksums=checksums)
    assert counts(found) == {}
    assert found["differences"] == []
    assert (found["progress"], found["rows_done"], found["chunks_done"]) == (1.0, ROWS, found["chunks_total"])
    assert [split["ordinal"] for split in found["splits"]] == list(range(SPLITS))
    for side in ("rows_source", "rows_sink", "rows_recorded"):
        assert sum(split[side] for split in found["splits"]) == ROWS
    assert found["splits"][-1]["last_id"] == str(ROWS)


async def test_every_damage_is_found_and_nothing_else(case: VerifyCase):
    wrong = {}
    job = await case.api.ok("GET", "/v1/jobs/j")
    for name, damage in case.damages.items():
        expected = await damage()
        found = await verified(case.api)
        told = counts(found)
        exact = {kind: count for kind, count in expected.items() if count >= 0}
        if told.keys() - expected.keys() or any(told.get(kind) != count for kind, count in exact.items()):
            wrong[name] = (told, expected)
        await case.api.ok("POST", "/v1/jobs/j/start?from=beginning&wait=30")
        assert (await case.api.until_state("j", "successful", "error"))["state"] == "successful", name
    assert wrong == {}
    assert job["state"] == "successful"


async def test_rows_that_changed_in_the_source_are_no_fault_of_the_sink(case: VerifyCase):
    source = case.api.source
    await source.execute("DELETE FROM orders WHERE id = 150")
    await source.execute("UPDATE orders SET id = 100000 WHERE id = 250")
    await source.execute("UPDATE orders SET note = 'later' WHERE id = 350")
    await source.execute("INSERT INTO orders (amount, note) VALUES (1, 'after the run')")
    found = await verified(case.api)
    assert counts(found).keys() == {"source_changed"}
    assert counts(found)["source_changed"] == 2


async def test_a_damage_among_changes_of_the_source_is_told_as_what_is_certain(case: VerifyCase):
    await case.damages[case.loses_one]()
    await case.api.source.execute("DELETE FROM orders WHERE id = 43")
    assert counts(await verified(case.api)) == case.after_loss
