"""Answers that are kept while a job is the same: in every language what is told is what is so, whoever changed it."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from service.api import present
from service.api.dialects import devo_jobs, siren_status
from service.api.routes import Role
from service.domain.records import Actor
from service.store.store import Store
from tests.integration.api_cases import ADMIN
from tests.integration.devo_cases import KEY, SECRET, DevoCase
from tests.integration.siren_cases import basic

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.domain.records import Job
    from tests.integration.api_cases import Reply

ACTOR = Actor("test", "test")
OF_THE_CLOCK = ("rows_per_second", "eta_seconds")
CHANGES = (
    "UPDATE jobs SET state = 'running', desired = 'run' WHERE id = $1",
    (
        "UPDATE jobs SET state = 'error', errors = jsonb_build_array(jsonb_build_object('code', 'c', 'message', 'm', "
        "'retryable', false, 'at', '2026-01-01T00:00:00+00:00')) WHERE id = $1"
    ),
    "UPDATE jobs SET state = 'successful', errors = '[]' WHERE id = $1",
    "UPDATE jobs SET totals_rows_sent = totals_rows_sent + 1, last_id = '[\"5\"]' WHERE id = $1",
    "UPDATE jobs SET spec = jsonb_set(spec, '{labels}', '{\"a\": \"b\"}') WHERE id = $1",
    'UPDATE jobs SET horizon = \'{"bound": ["7"], "held_by": [{"pid": 1, "query": "q"}]}\' WHERE id = $1',
    "UPDATE jobs SET next_run_at = now() WHERE id = $1",
    "UPDATE runs SET rows_sent = rows_sent + 1, rows_read = rows_read + 2 WHERE job_id = $1",
    "UPDATE runs SET ended_at = now(), state = 'successful' WHERE job_id = $1",
    "UPDATE runs SET ended_at = NULL, state = 'running' WHERE job_id = $1",
    "UPDATE splits SET position = '[\"3\"]', done_at = now() WHERE job_id = $1",
    "UPDATE splits SET position = NULL, done_at = NULL WHERE job_id = $1",
)
"""What other processes do, each by itself: whatever a service would never do alone is seen too."""


@pytest.fixture
async def case(control_database: str, database: str) -> AsyncIterator[DevoCase]:
    async with DevoCase(control_database, database, rate_limit=100_000) as opened:
        yield opened


@pytest.fixture
async def other(case: DevoCase) -> AsyncIterator[Store]:
    """The store of another process."""
    opened = await Store.open(case.control_dsn, box=case.store._box, size=2)
    yield opened
    await opened.close()


async def asked(case: DevoCase, job: Job, token: str = ADMIN) -> dict[str, Reply]:
    """One job in every language."""
    bearer, siren = {"Authorization": f"Bearer {token}"}, {"Authorization": basic(token=token)}
    return {
        "/v1": await case.send("GET", f"/v1/jobs/{job.id}", b"", bearer),
        "Devo": await case.send("GET", f"/search/job/{job.id}", b"", case.headers()),
        "Siren": await case.send("GET", f"/_siren/connector/jobs/ingestion/{job.name}", b"", siren),
    }


def told(job: Job, role: Role) -> dict[str, Any]:
    """What is to be told of it, written anew."""
    return {
        "/v1": without_clock(json.loads(present.job(job, role).model_dump_json(by_alias=True))),
        "Devo": devo_jobs.presented(job),
        "Siren": siren_status.envelope(job.name, job.run),
    }


def without_clock(shown: dict[str, Any]) -> dict[str, Any]:
    if shown["run"] is not None and shown["run"]["ended_at"] is None:
        shown["run"] |= dict.fromkeys(OF_THE_CLOCK)
    return shown


def read(replies: dict[str, Reply]) -> dict[str, Any]:
    assert {reply.status for reply in replies.values()} == {200}, replies
    bodies = {name: reply.body for name, reply in replies.items()}
    return {"/v1": without_clock(bodies["/v1"]), "Devo": bodies["Devo"]["object"], "Siren": bodies["Siren"]}


async def stored(case: DevoCase, other: Store, name: str) -> Job:
    """A job that has run, in one split, with no worker near it."""
    answer = await case.call("POST", "/v1/jobs", {
        "name": name, "source": {"datasource": "shop", "table": "public.orders"}, "sink": {"kind": "donothing"},
    })  # fmt: skip
    assert answer.status == 201, answer
    async with other._pool.connection() as connection:
        await connection.execute(
            "WITH g AS (INSERT INTO generations (job_id, number, begins, spec) SELECT id, 1, 'beginning', spec"
            " FROM jobs WHERE name = $1 RETURNING job_id),"
            " r AS (INSERT INTO runs (id, account_id, job_id, job_name, number, generation, trigger, state, mode, sink,"
            " datasource, ended_at) SELECT gen_random_uuid(), account_id, id, name, 1, 1, 'api', 'successful', mode,"
            " sink_kind, datasource, now() FROM jobs WHERE name = $1 RETURNING id)"
            " UPDATE jobs SET generation = 1, run_id = (SELECT id FROM r) WHERE name = $1",
            name,
        )
        await connection.execute(
            "INSERT INTO splits (job_id, generation, ordinal) SELECT id, 1, 0 FROM jobs WHERE name = $1", name
        )
    job = await other.get("default", name)
    assert job is not None
    return job


async def change(other: Store, job: Job, statement: str) -> None:
    """What another process does to it."""
    async with other._pool.connection() as connection:
        await connection.execute(statement, job.id)


async def test_whatever_others_change_the_next_answer_in_every_language_is_as_if_written_anew(
    case: DevoCase, other: Store
) -> None:
    drawn = random.Random(5)
    jobs = [await stored(case, other, f"job-{number}") for number in range(3)]
    for _ in range(60):
        job = drawn.choice(jobs)
        for _ in range(drawn.randrange(3)):
            await change(other, job, drawn.choice(CHANGES))
        other.__dict__.pop("_kept", None)  # as who has never read it
        there = await other.get("default", job.id)
        assert there is not None
        assert read(await asked(case, job)) == told(there, Role.ADMIN)
    assert case.store._kept.size > 0


async def test_an_unchanged_job_is_told_in_the_same_words_and_written_once(
    case: DevoCase, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await stored(case, other, "job")
    first = await asked(case, job)

    def again(*_: object) -> None:
        raise AssertionError("it was written already")

    monkeypatch.setattr(present, "job", again)
    monkeypatch.setattr(devo_jobs, "presented", again)
    monkeypatch.setattr(siren_status, "envelope", again)
    second = await asked(case, job)
    assert read(second) == read(first)
    assert second["Devo"].body["cid"] != first["Devo"].body["cid"]
    assert second["/v1"].headers["X-Request-ID"] != first["/v1"].headers["X-Request-ID"]


async def test_the_rate_of_a_run_that_has_not_ended_is_that_of_now(case: DevoCase, other: Store) -> None:
    job = await stored(case, other, "job")
    began = "UPDATE runs SET state = 'running', ended_at = NULL, rows_read = 1000000000, started_at = now() - "
    await change(other, job, began + "interval '1 second' WHERE job_id = $1")
    rates = [(await asked(case, job))["/v1"].body["run"]["rows_per_second"] for _ in range(2)]
    assert rates[1] < rates[0]


async def test_a_viewer_never_gets_what_was_written_for_an_operator(case: DevoCase, other: Store) -> None:
    job = await stored(case, other, "job")
    held = '{"bound": ["7"], "held_by": [{"pid": 1, "query": "select 1"}]}'
    await change(other, job, f"UPDATE jobs SET horizon = '{held}' WHERE id = $1")
    viewer = (await case.call("POST", "/v1/tokens", {"name": "eye", "role": "viewer"})).body["token"]
    for token, seen in ((ADMIN, "select 1"), (viewer, None), (ADMIN, "select 1"), (viewer, None)):
        reply = await case.call("GET", f"/v1/jobs/{job.id}", token=token)
        assert [one["query"] for one in reply.body["horizon"]["held_by"]] == [seen]


async def test_a_removed_job_is_not_there_in_any_language(case: DevoCase, other: Store) -> None:
    job = await stored(case, other, "job")
    read(await asked(case, job))
    assert await other.remove("default", ACTOR, job.id)
    assert {name: reply.status for name, reply in (await asked(case, job)).items()} == {
        "/v1": 404,
        "Devo": 404,
        "Siren": 404,
    }


async def test_another_account_is_never_given_a_kept_answer(case: DevoCase, other: Store) -> None:
    job = await stored(case, other, "job")
    read(await asked(case, job))
    made = await case.call("POST", "/v1/tokens", {"name": "theirs", "role": "admin"}, X_Rowferry_Account="theirs")
    assert made.status == 201, made
    theirs = {"Authorization": f"Bearer {made.body['token']}"}
    await case.key("their-key-0123456789", SECRET, "admin", "theirs")
    signed = case.headers(key="their-key-0123456789")
    siren = {"Authorization": basic("theirs", made.body["token"])}
    for path, headers in (
        (f"/v1/jobs/{job.id}", theirs),
        ("/v1/jobs/job", theirs),
        (f"/search/job/{job.id}", signed),
        ("/_siren/connector/jobs/ingestion/job", siren),
    ):
        assert (await case.send("GET", path, b"", headers)).status == 404, path


async def test_what_another_process_has_revoked_opens_nothing_in_the_next_request(case: DevoCase, other: Store) -> None:
    job = await stored(case, other, "job")
    token = (await case.call("POST", "/v1/tokens", {"name": "eye", "role": "viewer"})).body["token"]
    bearer, siren = {"Authorization": f"Bearer {token}"}, {"Authorization": basic("eye", token)}

    async def statuses() -> list[int]:
        return [
            (await case.send("GET", path, b"", headers)).status
            for path, headers in (
                (f"/v1/jobs/{job.id}", bearer),
                ("/_siren/connector/jobs/ingestion/job", siren),
                (f"/search/job/{job.id}", case.headers()),
            )
        ]

    assert await statuses() == [200, 200, 200]
    assert await other.delete_token("default", ACTOR, "eye")
    assert await statuses() == [401, 401, 200]
    assert await other.delete_key("default", ACTOR, KEY)
    assert await statuses() == [401, 401, 401]


async def test_what_another_process_makes_of_a_key_holds_in_the_next_request(case: DevoCase, other: Store) -> None:
    job = await stored(case, other, "job")

    async def asked_by(verb: str, secret: str = SECRET) -> int:
        return (await case.send("GET", f"/search/job/{verb}{job.id}", b"", case.headers(secret=secret))).status

    assert [await asked_by(""), await asked_by("stop/")] == [200, 200]
    await other.ensure_account("theirs")
    sealed = other._box.seal({"secret": "another secret of theirs"})
    for change, arguments, statuses in (
        ("role = 'viewer'", (), [200, 403]),
        ("secret = $2", (sealed,), [401, 401]),
        ("account_id = (SELECT id FROM accounts WHERE name = 'theirs'), role = 'operator'", (), [401, 401]),
    ):
        async with other._pool.connection() as connection:
            await connection.execute(f"UPDATE keys SET {change} WHERE key = $1", KEY, *arguments)
        assert [await asked_by(""), await asked_by("stop/")] == statuses, change
    assert await asked_by("", "another secret of theirs") == 404, "a key of theirs now: it sees theirs"


async def test_a_signed_status_is_one_trip_to_the_control_database(
    case: DevoCase, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await stored(case, other, "job")
    read(await asked(case, job))
    trips = 0
    connection = case.store._pool.connection

    def counted() -> Any:
        nonlocal trips
        trips += 1
        return connection()

    gathered = case.store._by_key_and_id
    monkeypatch.setattr(gathered, "_opened", counted)
    for name in ("_by_id", "_row_by_key"):
        monkeypatch.setattr(getattr(case.store, name), "_opened", counted)
    assert (await case.devo("GET", f"/search/job/{job.id}")).status == 200
    assert trips == 1
