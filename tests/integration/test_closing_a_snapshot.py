"""A chunk that was prepared as of a moment that is gone, and not seen, when a successor closes its generation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from config.names import LogEvent
from service.domain.errors import Permanent
from service.domain.states import State
from tests.support.reconcile import file_rows
from tests.support.workshop import ACCOUNT, Workshop
from workers.signals import Point

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from service.domain.records import Job
    from service.domain.steps import Lease

ROWS = 300
SNAPSHOT: dict[str, Any] = {"snapshot": True, "chunk": {"rows": 100}}


class Breaking:
    """The second chunk is prepared, and then its run ends in error: nobody knows whether it would become visible."""

    def __init__(self) -> None:
        self._prepared = 0

    async def reached(self, point: Point, lease: Lease) -> None:
        del lease
        if point is Point.PREPARED:
            self._prepared += 1
            if self._prepared == 2:
                raise Permanent("broken", "it broke")


@pytest.fixture
async def shop(database: str, control_database: str) -> AsyncIterator[Workshop]:
    async with Workshop(control_database, database) as workshop:
        await workshop.rows(ROWS)
        yield workshop


async def broken(shop: Workshop) -> Job:
    """A job that has delivered a hundred rows of its moment, and has prepared a hundred more of it."""
    await shop.engine(signals=Breaking()).start()
    source = {"datasource": "shop", "table": "public.orders", "columns": ["id", "note"]}
    job = await shop.run(await shop.job("orders", source=source, options=SNAPSHOT))
    assert (job.state, job.errors[0].code, job.totals.rows_sent) == (State.ERROR, "broken", 100)
    return job


def delivered(shop: Workshop) -> Sequence[tuple[int, bool]]:
    """Number of each row, and whether it is as it was changed later."""
    return sorted(
        (int(row.key[0]), b"later" in row.value) for row in file_rows(shop.folder / "files" / ACCOUNT / "orders")
    )


def said(lines: Sequence[Any], event: str) -> list[Any]:
    return [line["generation"] for line in lines if line["event"] == event]


def reading(job: Job, *columns: str, **options: Any) -> dict[str, Any]:
    """The job's definition with other columns, and options."""
    return {**job.spec, "source": {**job.spec["source"], "columns": list(columns)}, "options": SNAPSHOT | options}  # type: ignore[dict-item]


async def test_it_is_written_as_its_rows_are_now_and_the_log_says_so(shop: Workshop) -> None:
    job = await broken(shop)
    await shop.source.execute("UPDATE orders SET note = 'later'")
    with capture_logs() as lines:
        job = await shop.run(job, from_beginning=True)
    assert (job.state, job.generation) == (State.SUCCESSFUL, 2), job.errors
    assert said(lines, LogEvent.CHUNK_OF_ANOTHER_MOMENT) == [1]
    assert not said(lines, LogEvent.NOT_REPEATABLE)
    first = [(number, number > 100) for number in range(1, 201)]
    assert delivered(shop) == sorted([*first, *((number, True) for number in range(1, ROWS + 1))])


async def test_where_its_rows_can_not_be_read_any_more_and_come_anew_it_is_dropped(shop: Workshop) -> None:
    job = await broken(shop)
    await shop.source.execute("ALTER TABLE orders DROP COLUMN note")
    job = await shop.replace(job, reading(job, "id", "amount"), position="reset", changed=False)
    with capture_logs() as lines:
        job = await shop.run(job)
    assert job.state is State.SUCCESSFUL, job.errors
    assert set(said(lines, LogEvent.NOT_REPEATABLE)) == {1}
    assert [number for number, _ in delivered(shop)] == sorted([*range(1, 101), *range(1, ROWS + 1)])


async def test_where_they_do_not_come_anew_the_run_ends_and_goes_on_when_they_are_back(shop: Workshop) -> None:
    job = await broken(shop)
    await shop.source.execute("ALTER TABLE orders RENAME note TO remark")
    job = await shop.replace(job, reading(job, "id", "amount"), position="keep", changed=False)
    with capture_logs() as lines:
        job = await shop.run(job)
    assert (job.state, job.totals.rows_sent) == (State.ERROR, 100)
    assert "note" in job.errors[0].message
    assert set(said(lines, LogEvent.NOT_REPEATABLE)) <= {1}
    await shop.source.execute("ALTER TABLE orders RENAME remark TO note; UPDATE orders SET note = 'later'")
    with capture_logs() as lines:
        job = await shop.run(job)
    assert (job.state, job.totals.rows_sent) == (State.SUCCESSFUL, ROWS), job.errors
    assert said(lines, LogEvent.CHUNK_OF_ANOTHER_MOMENT) == [1]
    second = {number for number, is_later in delivered(shop) if is_later}
    assert second == set(range(101, 201)), "the chunk as it was cut; what follows has no note"
    assert [number for number, _ in delivered(shop)] == list(range(1, ROWS + 1))
