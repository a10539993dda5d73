"""Chunks, rates, memory, read-ahead and back-off, each by itself."""

from __future__ import annotations

import asyncio

import pytest

from service.domain.control import Control
from service.domain.errors import Permanent, Stopped, Transient
from service.domain.options import ChunkOptions
from service.domain.states import State
from service.domain.steps import Condition, Directive, Lease, StepKind
from sinks.base import Fenced, Restage, SinkRefused, SinkUnavailable
from workers.chunks import OpenChunk, batch
from workers.feed import End, Feed
from workers.limits import MemoryBudget, RateLimit
from workers.retrying import FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS, MOST_RESTAGES, Retry, backoff
from workers.sources.base import Page

LEASE = Lease("job", 1, StepKind.SPLIT, 0, 4, "me", "run")


def page(*values: bytes, keys: bool = False) -> Page:
    raw = [str(index).encode() for index in range(len(values))]
    return Page(
        list(values),
        raw,
        list(raw) if keys else None,
        sum(map(len, values)),
        None,
        end=False,
        decode=lambda k: (k.decode(),),
    )


class Job:
    """A control whose store answers what the test says, and a clock that the test moves."""

    def __init__(self, state: State = State.RUNNING, patience: float = 900.0) -> None:
        self.state, self.patience, self.now = state, patience, 0.0
        self.shown: list[Condition] = []
        self.renewals = 0
        self.control = Control(
            LEASE, lease_seconds=1e9, leased_at=0.0, renew=self._renew, report=self._report, monotonic=lambda: self.now
        )
        self.control.apply(self._directive())

    def _directive(self) -> Directive:
        return Directive(LEASE, valid=True, state=self.state, stop_in_seconds=30, rows_per_second=None,
                         bytes_per_second=None, max_without_progress_seconds=self.patience)  # fmt: skip

    async def _renew(self, lease: Lease) -> Directive:
        self.renewals += 1
        return self._directive()

    async def _report(self, lease: Lease, condition: Condition) -> None:
        self.shown.append(condition)


def fill(chunk: OpenChunk, rows: Page) -> list[tuple[int, int]]:
    cuts, done = [], 0
    while done < len(rows.values) and not chunk.full:
        end = chunk.cut(rows, done, None)
        chunk.add(rows, done, batch(rows, done, end), 0.0)
        cuts.append((done, end))
        done = end
    return cuts


def test_a_chunk_closes_exactly_at_its_rows():
    chunk = OpenChunk(ChunkOptions(rows=7), None)
    assert fill(chunk, page(*[b"x"] * 20)) == [(0, 7)]
    assert (chunk.rows, chunk.first_key, chunk.last_key) == (7, ("0",), ("6",))


def test_a_chunk_closes_with_the_row_that_reaches_its_bytes():
    chunk = OpenChunk(ChunkOptions(bytes=1024), None)
    fill(chunk, page(*[b"x" * 400] * 20))
    assert (chunk.rows, chunk.size) == (3, 1200)


def test_a_row_larger_than_a_chunk_is_a_chunk_of_its_own():
    chunk = OpenChunk(ChunkOptions(bytes=1024), None)
    fill(chunk, page(b"x" * 5000, b"y"))
    assert chunk.rows == 1


def test_a_slice_keeps_values_and_message_keys_together():
    rows = batch(page(b"a", b"b", b"c", keys=True), 1, 3)
    assert (rows.values, rows.keys) == ([b"b", b"c"], [b"1", b"2"])


def test_a_rate_lets_a_batch_go_and_delays_the_next():
    now = [0.0]
    rate = RateLimit(lambda: now[0])
    rate.take(100, 1000, rows_per_second=50.0, bytes_per_second=None)
    assert rate.delay() == pytest.approx(2.0)
    rate.take(0, 300, None, bytes_per_second=100.0)
    assert rate.delay() == pytest.approx(5.0)
    now[0] = 10.0
    assert rate.delay() == 0
    rate.take(10, 10, None, None)
    assert rate.delay() == 0


async def test_memory_is_given_in_turn_and_given_back():
    budget = MemoryBudget(100)
    order: list[str] = []
    release = asyncio.Event()

    async def use(name: str, size: int) -> None:
        async with budget.hold(size):
            order.append(name)
            await release.wait()

    first = asyncio.create_task(use("first", 80))
    await asyncio.sleep(0)
    second = asyncio.create_task(use("second", 50))
    third = asyncio.create_task(use("third", 10))
    await asyncio.sleep(0)
    assert order == ["first"]
    assert not budget.fits(10)
    release.set()
    await asyncio.gather(first, second, third)
    assert order == ["first", "second", "third"]
    assert budget.fits(100)


async def test_a_cancelled_wait_for_memory_takes_nothing():
    budget = MemoryBudget(10)
    async with budget.hold(10):
        waiting = asyncio.create_task(budget.hold(5).__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert budget.fits(10)


async def test_one_request_above_the_whole_budget_still_gets_its_turn():
    budget = MemoryBudget(10)
    async with budget.hold(50):
        assert not budget.fits(1)
    assert budget.fits(10)


async def test_the_feed_reads_ahead_a_bounded_number_of_pages():
    read: list[int] = []

    async def pages():
        for number in range(100):
            read.append(number)
            yield page(b"x")
        yield End()

    feed = Feed(pages())
    job = Job()
    try:
        await feed.next(job.control, None)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(read) <= 3
    finally:
        await feed.close()


async def test_the_feed_raises_what_the_reader_raised_after_the_pages_before_it():
    async def pages():
        yield page(b"x")
        raise Transient("source_unreachable", "gone")

    feed = Feed(pages())
    job = Job()
    assert isinstance(await feed.next(job.control, None), Page)
    with pytest.raises(Transient, match="gone"):
        await feed.next(job.control, None)
    await feed.close()


async def test_a_stop_and_a_time_limit_end_the_wait_for_a_page_and_lose_none():
    more = asyncio.Event()

    async def pages():
        await more.wait()
        yield page(b"late")

    feed = Feed(pages())
    job = Job()
    assert await feed.next(job.control, 0.001) is None
    more.set()
    item = await feed.next(job.control, None)
    assert isinstance(item, Page)
    waiting = asyncio.create_task(feed.next(job.control, None))
    job.control.park(10)
    assert await waiting is None
    await feed.close()


def test_back_off_doubles_up_to_its_cap_and_keeps_half_as_jitter():
    assert backoff(1, lambda: 0.0) == FIRST_DELAY_SECONDS / 2
    assert backoff(2, lambda: 1.0) == 2 * FIRST_DELAY_SECONDS
    assert backoff(50, lambda: 1.0) == LONGEST_DELAY_SECONDS


@pytest.fixture
def no_delay(monkeypatch):
    monkeypatch.setattr("workers.retrying.backoff", lambda attempt: 0.0)


async def test_transient_errors_are_retried_and_shown_until_it_works(no_delay):
    job = Job()
    retry = Retry(job.control, lambda: job.now)
    errors = [SinkUnavailable("sink_unreachable", "away"), Transient("source_unreachable", "away too")]

    async def work() -> str:
        if errors:
            raise errors.pop(0)
        await retry.recovered()
        return "done"

    assert await retry.run(work) == "done"
    assert [c.retrying and c.retrying["cause"]["code"] for c in job.shown] == [
        "sink_unreachable",
        "source_unreachable",
        None,
    ]
    assert [c.retrying["attempt"] for c in job.shown if c.retrying] == [1, 2]


async def test_retries_end_when_nothing_progressed_for_too_long(no_delay):
    job = Job(patience=60)
    retry = Retry(job.control, lambda: job.now)

    async def work() -> None:
        job.now += 25
        raise SinkUnavailable("sink_unreachable", "away")

    with pytest.raises(Permanent) as caught:
        await retry.run(work)
    assert caught.value.code == "retries_exhausted"
    assert isinstance(caught.value.__cause__, Transient)
    assert job.now == 75


async def test_progress_starts_the_count_anew(no_delay):
    job = Job(patience=60)
    retry = Retry(job.control, lambda: job.now)
    rounds = 0

    async def work() -> None:
        nonlocal rounds
        rounds += 1
        job.now += 50
        retry.progressed()
        if rounds < 10:
            raise Transient("source_unreachable", "away")

    await retry.run(work)
    assert {c.retrying["attempt"] for c in job.shown if c.retrying} == {1}


async def test_a_fencing_error_asks_the_store_before_anything_else(no_delay):
    job = Job()
    tries = [Fenced("fenced", "somebody else")]

    async def work() -> None:
        if tries:
            raise tries.pop()

    await Retry(job.control, lambda: job.now).run(work)
    assert job.renewals == 1


async def test_permanent_sink_errors_are_not_retried():
    job = Job()

    async def work() -> None:
        raise SinkRefused("topic_missing", "no such topic")

    with pytest.raises(Permanent) as caught:
        await Retry(job.control).run(work)
    assert caught.value.code == "topic_missing"


async def test_restaging_is_immediate_and_does_not_go_on_for_ever():
    job = Job()
    rounds = 0

    async def work() -> None:
        nonlocal rounds
        rounds += 1
        raise Restage("batch_too_large", "halved")

    with pytest.raises(Permanent):
        await Retry(job.control).run(work)
    assert rounds == MOST_RESTAGES + 1
    assert not job.shown


async def test_a_stop_cuts_a_back_off_short():
    job = Job()
    job.control.park(30)

    async def work() -> None:
        raise Transient("source_unreachable", "away")

    with pytest.raises(Stopped):
        await Retry(job.control).run(work)
