"""Jobs whose query is rendered once a run, over real Postgres: where each run begins, and by which text it reads."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from service.domain.spec import JobSpec
from service.domain.states import Event, State
from tests.support.workshop import Workshop
from workers.signals import Point

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.domain.records import Job
    from service.domain.steps import Lease

EVENTS = """
CREATE TABLE happenings (id bigint PRIMARY KEY, lat double precision, lon double precision, tag text, note text);
INSERT INTO happenings SELECT n, n % 90, n % 180, 'tag ' || n, CASE WHEN n % 2 = 0 THEN 'even' END
FROM generate_series(0, 299) AS n
"""
DOCUMENTED = "select * from happenings {{#max_primary_key}}WHERE id>{{max_primary_key}}{{/max_primary_key}}"


class Held:
    """Holds the worker for good once it has settled so many chunks; nothing but an abort frees it."""

    def __init__(self, settled: int) -> None:
        self._left = settled
        self.there = asyncio.Event()

    async def reached(self, point: Point, lease: Lease) -> None:
        """See `workers.signals.Signals`."""
        if point is Point.SETTLED and lease.generation == 1:
            self._left -= 1
            if self._left == 0:
                self.there.set()
                await asyncio.Event().wait()


@pytest.fixture
async def shop(database: str, control_database: str) -> AsyncIterator[Workshop]:
    async with Workshop(control_database, database) as workshop:
        await workshop.source.execute(EVENTS)
        yield workshop


async def job(shop: Workshop, template: str, *, name: str = "told", mode: str = "incremental", **source: Any) -> Job:
    chunk = {"rows": source.pop("rows", 50)}
    given = {"datasource": "shop", "template": template, "key": ["id"], **source}
    JobSpec.model_validate({"name": name, "source": given, "sink": {"kind": "file"}, "mode": mode})
    options = {"chunk": chunk, "safety": {"kind": "none"}}
    return await shop.job(name, mode=mode, source=given, options=options)


def records(shop: Workshop, name: str = "told") -> list[dict[str, Any]]:
    """Every line of every file of the job, in the order of their keys."""
    lines = [
        json.loads(line)
        for path in (shop.folder / "files" / "default" / name).rglob("*.json*")
        if "manifest" not in path.name
        for line in path.read_text().splitlines()
    ]
    return sorted(lines, key=lambda record: record["id"])


def ids(shop: Workshop) -> list[int]:
    return [record["id"] for record in records(shop)]


async def ran(shop: Workshop, made: Job) -> tuple[int, object]:
    """One run that ends well: its rows and its last_id."""
    done = await shop.run(made)
    assert done.state is State.SUCCESSFUL, done.errors
    assert done.run is not None
    return done.run.rows_sent, done.run.last_id


async def texts(control: str, made: Job) -> list[str]:
    """What each generation reads by."""
    connection = await asyncpg.connect(control)
    query = "SELECT target -> 'rendered' ->> 'text' FROM rowferry.generations WHERE job_id = $1 ORDER BY number"
    try:
        return [row[0] for row in await connection.fetch(query, made.id)]
    finally:
        await connection.close()


async def test_every_run_goes_on_after_the_last_key_and_keeps_the_text_that_it_read_by(
    shop: Workshop, control_database: str
):
    made = await job(shop, DOCUMENTED)
    await shop.engine().start()
    assert await ran(shop, made) == (300, ("299",))
    await shop.source.execute("INSERT INTO happenings (id) SELECT n FROM generate_series(300, 309) AS n")
    assert await ran(shop, made) == (10, ("309",))
    assert await ran(shop, made) == (0, None)
    await shop.source.execute("INSERT INTO happenings (id) VALUES (310)")
    assert await ran(shop, made) == (1, ("310",))
    assert ids(shop) == list(range(311))
    assert await texts(control_database, made) == [
        "SELECT * FROM happenings",
        "SELECT * FROM happenings WHERE id > '299'",
        "SELECT * FROM happenings WHERE id > '309'",
        "SELECT * FROM happenings WHERE id > '309'",
    ]


async def test_a_limit_is_that_of_a_run_by_key_and_no_row_is_lost_to_it(shop: Workshop):
    made = await job(shop, f"{DOCUMENTED} order by lat desc limit 120")
    await shop.engine().start()
    assert [await ran(shop, made) for _ in range(4)] == [(120, ("119",)), (120, ("239",)), (60, ("299",)), (0, None)]
    assert ids(shop) == list(range(300))


async def test_the_limit_of_a_query_loses_no_row_between_its_runs(shop: Workshop):
    source = {"datasource": "shop", "query": "SELECT * FROM happenings", "key": ["id"], "limit": 120}
    options = {"chunk": {"rows": 50}, "safety": {"kind": "none"}}
    made = await shop.job("told", mode="incremental", source=source, options=options)
    await shop.engine().start()
    assert [await ran(shop, made) for _ in range(3)] == [(120, ("119",)), (120, ("239",)), (60, ("299",))]
    assert ids(shop) == list(range(300))


async def test_after_an_abort_the_next_run_has_a_whole_limit_from_where_that_one_came_to(
    shop: Workshop, control_database: str
):
    held = Held(2)
    made = await job(shop, f"{DOCUMENTED} limit 200")
    await shop.engine(signals=held).start()
    await shop.verb(made, Event.START)
    async with asyncio.timeout(20):
        await held.there.wait()
    await shop.verb(made, Event.ABORT)
    aborted = await shop.state(made, State.ABORTED)
    assert aborted.run is not None
    assert (aborted.run.rows_sent, aborted.run.last_id) == (100, ("99",))
    assert await ran(shop, made) == (200, ("299",))
    assert ids(shop) == list(range(300))
    assert (await texts(control_database, made))[-1] == "SELECT * FROM happenings WHERE id > '99' LIMIT 200"


async def test_the_last_record_and_its_time_are_there_from_the_second_run_on(shop: Workshop):
    template = (
        "SELECT *, '{{last_record.3}}' AS before, nullif('{{last_record.4}}', '') AS empty,"
        " nullif('{{last_record_timestamp}}', '') AS at FROM happenings"
        " {{#last_record}}{{/last_record}}{{#last_record_timestamp}}WHERE now() > timestamptz"
        " '{{last_record_timestamp}}'{{/last_record_timestamp}}"
    )
    await shop.source.execute("UPDATE happenings SET tag = 'O''Hara''); DROP TABLE happenings; --' WHERE id = 299")
    made = await job(shop, template)
    await shop.engine().start()
    await ran(shop, made)
    assert await ran(shop, made) == (0, None)
    await shop.source.execute("INSERT INTO happenings (id) VALUES (300)")
    await ran(shop, made)
    last = records(shop)[-1]
    assert last["before"] == "O'Hara'); DROP TABLE happenings; --"
    assert last["empty"] is None
    assert last["at"] is not None
    assert last["at"].endswith("Z")
    assert records(shop)[0]["at"] is None
    await shop.source.execute("DELETE FROM happenings WHERE id = 300")
    await shop.source.execute("INSERT INTO happenings (id) VALUES (301)")
    await ran(shop, made)
    assert records(shop)[-1]["before"] == ""


async def test_columns_are_made_by_the_database(shop: Workshop):
    transforms = [
        {"input": ["id"], "output": "id"},
        {"input": ["lat", "lon"], "output": "place", "kind": "geo_point"},
        {"input": ["tag", "note"], "output": "both", "kind": "array"},
        {"input": ["tag"], "output": "note"},
    ]
    await shop.source.execute("UPDATE happenings SET lat = NULL WHERE id = 1")
    made = await job(shop, f"{DOCUMENTED} LIMIT 2", transforms=transforms)
    await shop.engine().start()
    await ran(shop, made)
    first, second = records(shop)
    assert first == {
        "id": 0,
        "lat": 0,
        "lon": 0,
        "tag": "tag 0",
        "note": "tag 0",
        "both": ["tag 0", "even"],
        "place": {"lat": 0, "lon": 0},
    }
    assert (second["place"], second["both"]) == (None, ["tag 1", None])


async def test_a_full_run_reads_all_again_by_the_primary_key_where_none_is_named(shop: Workshop):
    made = await job(shop, f"{DOCUMENTED} limit 40", mode="full", key=None)
    await shop.engine().start()
    assert [await ran(shop, made) for _ in range(2)] == [(40, ("39",)), (40, ("39",))]


async def test_a_template_that_a_later_run_can_not_read_fails_it_by_name(shop: Workshop):
    made = await job(shop, "select * from happenings {{#last_record}}where id > {{last_record.9}}{{/last_record}}")
    await shop.engine().start()
    await ran(shop, made)
    failed = await shop.run(made)
    assert (failed.state, failed.errors[0].code) == (State.ERROR, "template_refused")
