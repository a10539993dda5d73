"""What reads requests of the Siren dialect, whatever is in them; and the words and names that it answers with."""

from __future__ import annotations

import base64
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.api.dialects import siren_auth, siren_jobs, siren_status
from service.api.dialects.siren_answers import Failure
from service.api.problems import Problem
from service.domain.errors import Cause
from service.domain.records import Run
from service.domain.states import FINAL, LIVE, State

AT = datetime(2018, 10, 10, 17, 22, 31, 612_345, tzinfo=UTC)
RUN = Run(
    id="0199a1b2-0000-7000-8000-000000000001",
    number=1,
    job_id="0199a1b2-0000-7000-8000-000000000002",
    job_name="postgresevents",
    generation=1,
    trigger="siren",
    state=State.SUCCESSFUL,
    sink="file",
    datasource="postgres",
    started_at=AT - timedelta(seconds=1),
    ended_at=AT,
    rows_read=3,
    rows_sent=2,
    rows_dead=1,
    rows_maybe_doubled=0,
    rows_late=0,
    bytes_sent=0,
    last_id=("7",),
    splits_done=1,
    splits_total=1,
    estimated_rows=None,
    errors=(),
    labels={},
)
FILTERS = ("start_time_from", "start_time_to", "state", "id")


def test_the_name_of_a_run_in_the_log_is_this_one_for_ever() -> None:
    assert siren_status.document_id(RUN) == "postgresevents11e2553a-ccb1-11e8-91c2-97ecf1dc6691"
    assert siren_status.document_id(replace(RUN, rows_sent=9, labels={"a": "b"})) == siren_status.document_id(RUN)


@given(st.uuids(), st.datetimes(datetime(1970, 1, 1), datetime(5000, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_it_is_a_uuid_of_version_1_whose_time_is_the_runs_end(run_id: uuid.UUID, ended: datetime) -> None:
    name = siren_status.document_id(replace(RUN, id=str(run_id), ended_at=ended))
    made = uuid.UUID(name.removeprefix("postgresevents"))
    assert (made.version, made.variant) == (1, uuid.RFC_4122)
    assert datetime(1582, 10, 15, tzinfo=UTC) + timedelta(microseconds=made.time // 10) == ended
    assert made.node >> 40 & 1


def test_every_state_of_a_run_has_its_words() -> None:
    assert siren_status.SHOWN.keys() == LIVE | FINAL
    assert siren_status.STATES == ("running", "aborting", "aborted", "error", "successful")
    for state in LIVE | FINAL:
        told = siren_status.status(replace(RUN, state=state, ended_at=AT if state in FINAL else None))
        assert told["is_running"] is (state in LIVE)
        assert ("end_time" in told) is (state in FINAL)
        assert ("error" in told) is (state is State.ERROR)
        assert ("is_aborting" in told) is (state in {State.ABORTING, State.ABORTED, State.STOPPED})
        assert (told["count"], told["last_id"]) == (3, "7")


def test_the_datasource_is_named_only_where_the_source_failed() -> None:
    def told(*codes: str) -> list[str]:
        errors = [Cause(code, f"{code} was met", AT, retryable=False) for code in codes]
        found: list[str] = siren_status.status(replace(RUN, state=State.ERROR, errors=errors))["error"]
        return found

    named = "Could not execute datasource query [postgres]."
    assert told("retries_exhausted", "source_unreachable")[:2] == [named, "retries_exhausted was met"]
    assert told("table_unknown")[0] == named
    assert told("retries_exhausted", "sink_unreachable")[0] == "retries_exhausted was met"
    assert told("run_timeout") == ["run_timeout was met"]


@pytest.mark.parametrize(("key", "text"), [(("7",), "7"), (("",), ""), (("é", '"'), '["é","\\""]')])
def test_a_key_is_one_text(key: tuple[str, ...], text: str) -> None:
    assert siren_status.key_text(key) == text


@given(st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=60))
@example("Basic Og==")
@example("ApiKey Ojo=")
@example("Basic ===")
@example("")
def test_whatever_stands_in_the_header_is_read_or_refused(header: str) -> None:
    for given_header in (header, f"Basic {header}", f"ApiKey {header}", f"Bearer {header}"):
        try:
            name, authorization = siren_auth.read(given_header)
        except Problem as problem:
            assert problem.status == 401  # noqa: PT017  a refusal is one of the two answers
            continue
        assert name is None or ":" not in name
        assert " " in authorization


@given(st.from_regex(r"[^:]{0,20}", fullmatch=True), st.text(min_size=1, max_size=40))
def test_a_pair_is_read_as_it_was_written(name: str, token: str) -> None:
    if not token.strip():
        return
    pair = base64.b64encode(f"{name}:{token}".encode("utf-8", "replace")).decode()
    for scheme in ("Basic", "basic", "ApiKey", "APIKEY"):
        found, authorization = siren_auth.read(f"{scheme} {pair}")
        assert (found, authorization) == (
            name.encode("utf-8", "replace").decode(),
            f"Bearer {token.encode('utf-8', 'replace').decode().strip()}",
        )


@given(st.dictionaries(st.sampled_from(FILTERS), st.text(max_size=30) | st.integers().map(str), max_size=4))
@example({"start_time_from": "٣"})
@example({"start_time_to": "253402300799999"})
@example({"start_time_to": "253402300799998", "state": "aborted"})
def test_filters_are_understood_or_refused(filters: dict[str, str]) -> None:
    try:
        read: dict[str, Any] = siren_jobs.filters_of(filters)
    except Failure as failure:
        assert failure.status == 400  # noqa: PT017  a refusal is one of the two answers
        return
    assert read["state"] or filters["state"] in {"running", "aborting"}
    for name in ("started_from", "started_to"):
        assert name not in read or read[name].tzinfo is UTC
