"""Two live jobs on one folder: the control database decides, whichever processes ask."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from service.domain.errors import Conflict
from service.domain.states import Event, State
from tests.contract.store_cases import StoreCase, case

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["case"]  # fixtures


@pytest.fixture
async def another(case: StoreCase) -> AsyncIterator[StoreCase]:
    """Another process on the same control database."""
    opened = await StoreCase.open(case.dsn)
    yield opened
    await opened.store.close()


FOLDERS: dict[str, list[dict[str, Any]]] = {
    "file": [{"kind": "file", "path": "out"}, {"kind": "file", "path": "out/below"}],
    "hdfs": [
        {"kind": "hdfs", "path": "/out", "url": "http://nn1:9870,nn2:9870", "user": "a"},
        {"kind": "hdfs", "path": "/out/below", "url": "http://nn2:9870", "user": "b"},
    ],
}


async def with_sink(case: StoreCase, sink: dict[str, Any]) -> Any:
    job = await case.create(sink=sink["kind"])
    await case.sql("UPDATE jobs SET spec = jsonb_set(spec, '{sink}', $2::jsonb) WHERE id = $1", job.id, sink)
    return await case.get(job.id)


@pytest.mark.parametrize("kind", sorted(FOLDERS))
async def test_of_many_starts_at_once_in_two_processes_one_wins(case: StoreCase, another: StoreCase, kind: str):
    jobs = [await with_sink(case, sink) for sink in FOLDERS[kind] * 3]
    started = await asyncio.gather(
        *(place.start(job) for job, place in zip(jobs, [case, another] * 3, strict=True)), return_exceptions=True
    )
    refused = [one for one in started if isinstance(one, BaseException)]
    assert len(refused) == len(jobs) - 1, started
    assert {one.code for one in refused if isinstance(one, Conflict)} == {"path_in_use"}
    states = [(await case.get(job.id)).state for job in jobs]
    assert states.count(State.QUEUED) == 1
    assert states.count(State.CREATED) == len(jobs) - 1, "nothing of a refused start is left"


@pytest.mark.parametrize("kind", sorted(FOLDERS))
async def test_the_next_may_start_when_the_one_before_has_ended(case: StoreCase, kind: str):
    first, second = [await with_sink(case, sink) for sink in FOLDERS[kind]]
    await case.start(first)
    with pytest.raises(Conflict) as refused:
        await case.start(second)
    assert refused.value.facts["job"] == first.name
    await case.verb(first, Event.ABORT)
    assert (await case.start(second)).state is State.QUEUED


async def test_one_bucket_and_prefix_may_be_shared(case: StoreCase):
    for _ in range(2):
        job = await with_sink(case, {"kind": "s3", "bucket": "b", "prefix": "p"})
        assert (await case.start(job)).state is State.QUEUED
