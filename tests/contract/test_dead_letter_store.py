"""What `StepStore` and `JobStore` promise of dead letters, on a real Postgres."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from service.domain.dead_letters import Retried, Staying
from service.domain.errors import Cause, Conflict, LeaseLost, NotFound, Permanent
from service.domain.states import Event
from service.domain.steps import StepKind
from service.store import dead_letters
from service.store.transitions import retire
from tests.contract.control_jobs import ANA, LIMIT, RUN_KINDS, Control, chunk, control, control_dsn, dead, settlement

if TYPE_CHECKING:
    from service.domain.dead_letters import KeptLetter
    from service.domain.steps import Lease

__all__ = ["control", "control_dsn"]  # fixtures

TEN: Any = {"dead_letters": {"max_rows": 10}}


async def kept(control: Control, job_id: str, **filters: str) -> list[KeptLetter]:
    page, _ = await control.letters.dead_letters("default", job_id, filters, limit=500, after=None)
    return list(page)


async def keys(control: Control, job_id: str, **filters: str) -> list[str]:
    return [one.key[0] for one in await kept(control, job_id, **filters)]


async def one_split(control: Control, **options: Any) -> tuple[str, Lease]:
    job_id = await control.planned(splits=1, options=options or TEN)
    (lease,) = await control.leases(1)
    return job_id, lease


async def next_owner(control: Control, job_id: str, *kinds: StepKind) -> Lease:
    await control.run_out(job_id)
    await control.store.expire()
    return (await control.claimed(*kinds or (StepKind.SPLIT,), owner="two")).lease


# Kept with a try, final with its settle


async def test_dead_letters_are_seen_when_their_chunk_is_settled_and_not_before(control: Control) -> None:
    job_id, lease = await one_split(control)
    record = chunk(lease, rows=3)
    await control.store.prepare(lease, record, dead("7", "8", message_key=b"m", version=5))
    assert await kept(control, job_id) == []
    await control.store.settle(lease, settlement(record))
    first, second = await kept(control, job_id)
    assert (first.key, second.key, first.code, first.message) == (("7",), ("8",), "row_too_large", "row 7 is too large")
    assert (first.payload, first.payload_bytes, first.message_key, first.version) == (b'{"id":0}', 8, b"m", 5)
    assert (first.run_id, first.generation, first.split, first.retries) == (lease.run_id, 1, 0, 0)
    for table in ("runs", "jobs"):
        row = await control.row(table, job_id)
        prefix = "totals_" if table == "jobs" else ""
        assert [row[f"{prefix}rows_{what}"] for what in ("read", "sent", "dead")] == [5, 3, 2], table
    assert (await control.store.split(lease)).rows_read == 5


async def test_a_prepare_that_is_repeated_keeps_its_dead_letters_once(control: Control) -> None:
    job_id, lease = await one_split(control)
    record = chunk(lease, rows=3)
    for _ in range(2):
        await control.store.prepare(lease, record, dead("7"))
    await control.store.settle(lease, settlement(record))
    assert await keys(control, job_id) == ["7"]


async def test_a_dropped_try_takes_its_dead_letters_along(control: Control) -> None:
    job_id, lease = await one_split(control)
    await control.store.prepare(lease, chunk(lease), dead("7", "8"))
    await control.store.drop_prepared(lease)
    record = chunk(lease, attempt=2, rows=9)
    await control.store.prepare(lease, record, dead("8"))
    await control.store.settle(lease, settlement(record))
    assert await keys(control, job_id) == ["8"]
    assert await control.value("SELECT count(*) FROM dead_letters") == 1
    assert (await control.row("jobs", job_id))["totals_rows_dead"] == 1


@pytest.mark.parametrize("adopted", [0, 1, 2])
async def test_the_dead_letters_of_the_adopted_try_are_final_and_no_others(control: Control, adopted: int) -> None:
    job_id, lease = await one_split(control)
    tries = [chunk(lease, rows=8), chunk(lease, rows=9, attempt=2)]
    found = [dead("7", "8"), dead("8"), dead("6", "7", "8")]
    for record, letters in zip(tries, found, strict=False):
        await control.store.prepare(lease, record, letters)
    new = await next_owner(control, job_id)
    tries.append(chunk(new, rows=7))
    await control.store.prepare(new, tries[2], found[2])
    await control.store.settle(new, settlement(tries[adopted]))
    assert await keys(control, job_id) == [one.key[0] for one in found[adopted]]
    assert await control.value("SELECT count(*) FROM dead_letters") == len(found[adopted])
    job = await control.row("jobs", job_id)
    assert (job["totals_rows_read"], job["totals_rows_sent"]) == (10, tries[adopted].rows)


async def test_rows_that_the_target_refused_count_as_dead_and_not_as_sent(control: Control) -> None:
    job_id, lease = await one_split(control)
    record = chunk(lease, rows=10)
    await control.store.prepare(lease, record, dead("1"))
    await control.store.settle(lease, settlement(record, refused=dead("4", "5", code="mapping_conflict", version=77)))
    assert await keys(control, job_id, code="mapping_conflict") == ["4", "5"]
    assert await keys(control, job_id) == ["1", "4", "5"]
    job = await control.row("jobs", job_id)
    assert [job[f"totals_rows_{what}"] for what in ("read", "sent", "dead")] == [11, 8, 3]
    assert [one.rows async for _, one in control.store.settled_chunks(lease)] == [8]


async def test_rows_that_were_all_set_aside_move_the_position_and_take_no_sequence(control: Control) -> None:
    job_id, lease = await one_split(control)
    directive = await control.store.bury(lease, dead("7", "8"), last_key=("8",), scanned_to=("12",))
    assert directive.valid
    split = await control.store.split(lease)
    assert (split.position, split.scanned_to, split.sequence, split.rows_read) == (("8",), ("12",), 0, 2)
    assert await keys(control, job_id) == ["7", "8"]
    job = await control.row("jobs", job_id)
    assert [job[f"totals_rows_{what}"] for what in ("read", "sent", "dead")] == [2, 0, 2]
    assert job["last_id"] == ["8"]
    record = chunk(lease, 1, last="20")
    await control.store.prepare(lease, record)
    with pytest.raises(Conflict) as refused:
        await control.store.bury(lease, dead("9"), last_key=("9",))
    assert refused.value.code == "chunk_unsettled"


async def test_no_row_of_a_generation_is_dead_twice(control: Control) -> None:
    _, lease = await one_split(control)
    await control.store.bury(lease, dead("7"), last_key=("7",))
    with pytest.raises(asyncpg.UniqueViolationError):
        await control.store.bury(lease, dead("7"), last_key=("8",))
    assert (await control.store.split(lease)).position == ("7",)


# Limits


@pytest.mark.parametrize("write", ["check", "prepare", "prepare_and_settle", "bury", "settle"])
async def test_beyond_the_limit_nothing_is_written_and_the_error_names_it(control: Control, write: str) -> None:
    job_id, lease = await one_split(control, dead_letters={"max_rows": 2})
    record = chunk(lease)
    if write == "settle":
        await control.store.prepare(lease, record, dead("1"))
    acts = {
        "check": lambda: control.store.check_dead_letters(lease, dead=3, read=10),
        "prepare": lambda: control.store.prepare(lease, record, dead("1", "2", "3")),
        "prepare_and_settle": lambda: control.store.prepare_and_settle(lease, settlement(record), dead("1", "2", "3")),
        "bury": lambda: control.store.bury(lease, dead("1", "2", "3"), last_key=("3",)),
        "settle": lambda: control.store.settle(lease, settlement(record, refused=dead("2", "3", "4"))),
    }
    with pytest.raises(Permanent) as refused:
        await acts[write]()
    assert refused.value.code == "dead_letters_exceeded"
    assert refused.value.message == "3 rows of this run can not be delivered, and options.dead_letters.max_rows is 2"
    assert "PATCH" in refused.value.hint
    split = await control.store.split(lease)
    assert (split.sequence, len(split.prepared)) == (0, int(write == "settle"))
    await control.sql(LIMIT, job_id, {"max_rows": 4})
    await acts[write]()  # the limit is the one that holds now


async def test_the_first_rejected_row_is_too_many_unless_the_job_says_otherwise(control: Control) -> None:
    _, lease = await one_split(control, rate={})
    with pytest.raises(Permanent, match=r"^1 row of this run .*max_rows is 0$"):
        await control.store.prepare(lease, chunk(lease), dead("1"))


async def test_a_ratio_is_judged_over_at_least_a_thousand_rows(control: Control) -> None:
    _, lease = await one_split(control, dead_letters={"max_rows": 10_000, "max_ratio": 0.01})
    await control.store.check_dead_letters(lease, dead=10, read=10)
    with pytest.raises(Permanent, match=r"11 rows .* out of 11 read, .*max_ratio is 0.01 of at least 1000 rows"):
        await control.store.check_dead_letters(lease, dead=11, read=11)
    await control.store.check_dead_letters(lease, dead=50, read=5000)
    with pytest.raises(Permanent, match=r"51 rows .* out of 5000 read, .*max_ratio is 0.01$"):
        await control.store.check_dead_letters(lease, dead=51, read=5000)


async def test_two_splits_can_not_both_take_what_is_left(control: Control) -> None:
    await control.planned(splits=2, options={"dead_letters": {"max_rows": 3}})
    one, two = await control.leases(2)
    results = await asyncio.gather(
        control.store.prepare(one, chunk(one), dead("1", "2")),
        control.store.prepare(two, chunk(two, last="150"), dead("101", "102")),
        return_exceptions=True,
    )
    assert [isinstance(result, Permanent) for result in results].count(True) == 1


async def test_limits_count_anew_with_each_run(control: Control) -> None:
    job_id, lease = await one_split(control, dead_letters={"max_rows": 2})
    await control.store.bury(lease, dead("1", "2"), last_key=("2",))
    with pytest.raises(Permanent):
        await control.store.bury(lease, dead("3"), last_key=("3",))
    await control.verb(job_id, Event.STOP)
    await control.store.park(lease)
    await control.verb(job_id, Event.START)
    (again,) = await control.leases(1)
    await control.store.bury(again, dead("3", "4"), last_key=("4",))
    assert await keys(control, job_id) == ["1", "2", "3", "4"]
    assert await keys(control, job_id, run_id=str(again.run_id)) == ["3", "4"]


# Listed and deleted


async def test_pages_end_where_they_hold_enough_payload(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "PAGE_BYTES", 250)
    letters = [replace(one, payload=b"x" * 100, payload_bytes=5000) for one in dead(*map(str, range(10, 20)))]
    job_id = await control.set_aside(*letters)
    found, sizes, after = [], [], None
    while True:
        page, after = await control.letters.dead_letters("default", job_id, {}, limit=4, after=after)
        found += [one.key[0] for one in page]
        sizes.append(len(page))
        if after is None:
            break
    assert found == [str(n) for n in range(10, 20)]
    assert sizes == [2, 2, 2, 2, 2]
    with pytest.raises(ValueError, match=r"^after "):
        await control.letters.dead_letters("default", job_id, {}, limit=4, after="nonsense")


async def test_another_account_sees_and_touches_nothing(control: Control) -> None:
    job_id = await control.set_aside(*dead("7"))
    await control.sql("INSERT INTO accounts (id, name) VALUES (gen_random_uuid(), 'other')")
    assert await control.letters.dead_letters("other", job_id, {}, limit=5, after=None) == ([], None)
    for act in (
        control.letters.retry_dead_letters("other", ANA, job_id, ids=None, origin="source"),
        control.letters.delete_dead_letters("other", ANA, job_id, ids=None),
    ):
        with pytest.raises(NotFound):
            await act
    assert await keys(control, job_id) == ["7"]


async def test_deleted_ones_are_gone_and_stay_counted(control: Control) -> None:
    job_id = await control.set_aside(*dead("7", "8", "9"))
    first = (await kept(control, job_id))[0]
    assert await control.letters.delete_dead_letters("default", ANA, job_id, ids=[first.id, first.id]) == 1
    assert await keys(control, job_id) == ["8", "9"]
    with pytest.raises(NotFound):
        await control.letters.delete_dead_letters("default", ANA, job_id, ids=[first.id])
    assert await control.letters.delete_dead_letters("default", ANA, job_id, ids=None) == 2
    assert (await control.row("jobs", job_id))["totals_rows_dead"] == 3
    events = await control.sql("SELECT details FROM events WHERE event = 'dead_letters_deleted' ORDER BY seq")
    assert [event["details"] for event in events] == [{"dead_letters": 1}, {"dead_letters": 2}]


async def test_they_go_with_their_job(control: Control) -> None:
    job_id = await control.set_aside(*dead("7"))
    await control.verb(job_id, Event.REMOVE)
    await control.sql("DELETE FROM jobs WHERE id = $1", job_id)
    assert await control.value("SELECT count(*) FROM dead_letters") == 0


# Retry


async def retry(control: Control, job_id: str, *, ids: list[str] | None = None, origin: str = "payload") -> int:
    asked = await control.letters.retry_dead_letters("default", ANA, job_id, ids=ids, origin=origin)
    return asked.letters


async def test_a_retry_waits_until_no_run_is_active(control: Control) -> None:
    job_id, lease = await one_split(control)
    await control.store.bury(lease, dead("7"), last_key=("7",))
    with pytest.raises(Conflict) as refused:
        await retry(control, job_id)
    assert refused.value.code == "job_running"
    await control.verb(job_id, Event.STOP)
    with pytest.raises(Conflict):
        await retry(control, job_id)
    await control.store.park(lease)
    assert await retry(control, job_id) == 1
    assert await control.store.claim("one", RUN_KINDS, lease_seconds=30) is None
    step = await control.claimed(StepKind.RETRY)
    assert (step.lease.ordinal, step.lease.generation, step.lease.run_id) == (1, 1, lease.run_id)
    assert await control.state(job_id) == "stopped"
    assert await control.store.retry_origin(step.lease) == "payload"


async def test_while_a_retry_is_under_way_another_and_a_delete_are_refused(control: Control) -> None:
    lease = await control.retrying("7", "8")
    for act in (
        lambda: retry(control, lease.job_id),
        lambda: control.letters.delete_dead_letters("default", ANA, lease.job_id, ids=None),
    ):
        with pytest.raises(Conflict) as refused:
            await act()
        assert refused.value.code == "retry_running"
    await control.store.finish_retry(lease)
    assert await control.letters.delete_dead_letters("default", ANA, lease.job_id, ids=None) == 2


async def test_what_a_retry_sends_leaves_the_list_and_counts_as_sent_in_its_run(control: Control) -> None:
    lease = await control.retrying("7", "8", "9")
    letters = await control.store.letters(lease, limit=10, most_bytes=1000)
    assert [one.key for one in letters] == [("7",), ("8",), ("9",)]
    sent, stays = (letters[0].id, letters[2].id), (Staying(letters[1].id, note="gone"),)
    record = chunk(lease, rows=2, retried=Retried(sent, stays))
    await control.store.prepare(lease, record)
    assert (await control.store.split(lease)).prepared == (record,)
    assert await keys(control, lease.job_id) == ["7", "8", "9"]
    with pytest.raises(Conflict) as refused:
        await control.store.finish_retry(lease)
    assert refused.value.code == "chunk_unsettled"
    await control.store.settle(lease, settlement(record))
    (left,) = await kept(control, lease.job_id)
    assert (left.key, left.retries, left.note, left.retry, left.code) == (("8",), 1, "gone", None, "row_too_large")
    assert await control.store.letters(lease, limit=10, most_bytes=1000) == []
    state = await control.store.split(lease)
    assert (state.sequence, state.prepared, state.ordinal) == (1, (), -1)
    for table in ("runs", "jobs"):
        row = await control.row(table, lease.job_id)
        prefix = "totals_" if table == "jobs" else ""
        assert [row[f"{prefix}rows_{what}"] for what in ("read", "sent", "dead")] == [3, 2, 1], table
    await control.store.finish_retry(lease)
    assert await control.store.claim("one", list(StepKind), lease_seconds=30) is None
    splits = await control.sql("SELECT position FROM splits WHERE job_id = $1", lease.job_id)
    assert [split["position"] for split in splits] == [["9"]]


async def test_a_retry_gets_no_more_payload_at_once_than_it_asks_for(control: Control) -> None:
    lease = await control.retrying("1", "2", "3", "4")  # eight bytes each
    for most, count in ((1, 1), (8, 1), (9, 2), (24, 3), (100, 4)):
        found = await control.store.letters(lease, limit=10, most_bytes=most)
        assert [one.key for one in found] == [(str(n),) for n in range(1, count + 1)], most
    assert len(await control.store.letters(lease, limit=2, most_bytes=100)) == 2


async def test_a_row_that_is_refused_again_stays_with_its_new_reason(control: Control) -> None:
    lease = await control.retrying("7", "8")
    letters = await control.store.letters(lease, limit=10, most_bytes=1000)
    record = chunk(lease, rows=2, retried=Retried(tuple(one.id for one in letters)))
    await control.store.prepare(lease, record)
    await control.store.settle(lease, settlement(record, refused=dead("8", code="mapping_conflict")))
    (left,) = await kept(control, lease.job_id)
    assert (left.key, left.code, left.message, left.retries) == (("8",), "mapping_conflict", "row 8 is too large", 1)
    job = await control.row("jobs", lease.job_id)
    assert (job["totals_rows_sent"], job["totals_rows_dead"]) == (1, 1)


async def test_a_retry_without_a_visible_row_takes_no_sequence(control: Control) -> None:
    lease = await control.retrying("7")
    (one,) = await control.store.letters(lease, limit=10, most_bytes=1000)
    await control.store.keep(lease, [Staying(one.id, "row_too_large", "still", None)])
    assert await control.store.letters(lease, limit=10, most_bytes=1000) == []
    assert (await control.store.split(lease)).sequence == 0
    (left,) = await kept(control, lease.job_id)
    assert (left.message, left.retries) == ("still", 1)


async def test_the_next_owner_of_a_retry_adopts_one_try_and_what_it_did(control: Control) -> None:
    old = await control.retrying("7", "8")
    seven, eight = await control.store.letters(old, limit=10, most_bytes=1000)
    first = chunk(old, rows=2, retried=Retried((seven.id, eight.id)))
    await control.store.prepare(old, first)
    new = await next_owner(control, old.job_id, StepKind.RETRY)
    assert (await control.store.split(new)).prepared == (first,)
    second = chunk(new, rows=1, retried=Retried((seven.id,), (Staying(eight.id, note="gone"),)))
    await control.store.prepare(new, second)
    with pytest.raises(LeaseLost):
        await control.store.settle(old, settlement(first))
    await control.store.settle(new, settlement(second))
    assert await keys(control, old.job_id) == ["8"]


async def test_a_dropped_try_of_a_retry_leaves_its_dead_letters_in_hand(control: Control) -> None:
    lease = await control.retrying("7", "8")
    letters = await control.store.letters(lease, limit=10, most_bytes=1000)
    await control.store.prepare(lease, chunk(lease, rows=2, retried=Retried(tuple(one.id for one in letters))))
    await control.store.drop_prepared(lease)
    assert [one.key for one in await control.store.letters(lease, limit=10, most_bytes=1000)] == [("7",), ("8",)]


async def test_a_retry_that_is_given_up_lets_go_of_what_it_did_not_send(control: Control) -> None:
    lease = await control.retrying("7", "8")
    await control.store.give_up_retry(lease, Cause("sink_refused", "no", await control.now(), retryable=False))
    assert [(one.retries, one.note, one.retry) for one in await kept(control, lease.job_id)] == [
        (1, "sink_refused: no", None)
    ] * 2
    assert await control.state(lease.job_id) == "stopped"
    assert await retry(control, lease.job_id) == 2


async def test_a_chunk_of_unknown_outcome_is_found_out_by_the_next_retry_before_anything_is_sent(
    control: Control,
) -> None:
    lease = await control.retrying("7", "8")
    seven, _ = await control.store.letters(lease, limit=10, most_bytes=1000)
    record = chunk(lease, rows=1, retried=Retried((seven.id,)))
    await control.store.prepare(lease, record)
    await control.store.give_up_retry(lease, Cause("retries_exhausted", "away", await control.now(), retryable=False))
    notes = {one.key[0]: (one.note or "").partition(" ")[0] for one in await kept(control, lease.job_id)}
    assert notes == {"7": "a", "8": "retries_exhausted:"}
    assert await control.store.claim("one", [StepKind.RETRY], lease_seconds=30) is None
    # The job may start meanwhile: what the retry left concerns no split.
    await control.verb(lease.job_id, Event.START)
    await control.verb(lease.job_id, Event.STOP)
    assert await retry(control, lease.job_id) == 1
    leases = [(await control.claimed(StepKind.RETRY)).lease for _ in range(2)]
    first, second = sorted(leases, key=lambda one: one.ordinal)
    assert (first.ordinal, first.epoch, second.ordinal) == (1, lease.epoch + 1, 2)
    assert (await control.store.split(first)).prepared == (record,)
    assert [one.key for one in await control.store.letters(second, limit=9, most_bytes=1000)] == [("8",)]
    await control.store.settle(first, settlement(record))
    assert await keys(control, lease.job_id) == ["8"]


async def test_dead_letters_of_several_generations_are_sent_by_one_retry_each(control: Control) -> None:
    job_id = await control.set_aside(*dead("7"))
    await control.generation(job_id, 2, "keep")
    await control.verb(job_id, Event.START)
    await control.plan(splits=1)
    (lease,) = await control.leases(1)
    await control.store.bury(lease, dead("7"), last_key=("7",))
    await control.verb(job_id, Event.STOP)
    await control.store.park(lease)
    asked = await control.letters.retry_dead_letters("default", ANA, job_id, ids=None, origin="source")
    assert (asked.letters, asked.retries) == (2, [(1, 1), (2, 1)])
    leases = [(await control.claimed(StepKind.RETRY)).lease for _ in range(2)]
    assert sorted(one.generation for one in leases) == [1, 2]


async def test_a_removed_job_takes_its_retries_leases_away(control: Control) -> None:
    lease = await control.retrying("7")
    async with control.pool.transaction() as connection:
        assert await retire(connection, lease.job_id, ANA)
    with pytest.raises(LeaseLost):
        await control.store.letters(lease, limit=1, most_bytes=1000)
    assert not (await control.store.renew([lease], lease_seconds=30))[0].valid
    clean = await control.claimed(StepKind.CLEAN_UP)
    generation = await control.store.generation(clean.lease, 1)
    assert generation.retries == {1: lease.epoch + 1}
