"""What a retry of dead letters writes under its lease: which of them were sent, which stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.domain.dead_letters import Retried, Staying
from service.domain.steps import StepKind
from service.store.held import Held, by_holder, end_step, refuse_prepared, show_condition, split_key, step_key
from service.store.letters import letter_of
from service.store.sql import load
from service.store.transitions import record_event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.domain.dead_letters import DeadLetter, KeptLetter
    from service.domain.errors import Cause
    from service.domain.steps import Lease
    from service.store.letters import Place
    from service.store.pool import Connection, Row

SQL = load("retries")

OUTCOME_UNKNOWN = "a retry has sent it and does not know whether it became visible; the next one finds out first"


class Retries(Held):
    """The part of `StepStore` that sends dead letters again. Chunks are prepared and settled as those of a split."""

    async def retry_origin(self, lease: Lease) -> str:
        """As `StepStore.retry_origin`."""
        async with self._held(lease, StepKind.RETRY) as (connection, _):
            origin: str = await connection.fetchval(SQL["origin"], *split_key(lease))
            return origin

    async def letters(
        self, lease: Lease, *, ids: Sequence[str] | None = None, limit: int, most_bytes: int
    ) -> Sequence[KeptLetter]:
        """As `StepStore.letters`."""
        async with self._held(lease, StepKind.RETRY) as (connection, _):
            rows = await connection.fetch(SQL["in_hand"], *split_key(lease), ids, limit, most_bytes)
            return [letter_of(row) for row in rows]

    async def keep(self, lease: Lease, stays: Sequence[Staying]) -> None:
        """As `StepStore.keep`."""
        async with self._held(lease, StepKind.RETRY) as (connection, _):
            await _stay(connection, lease.job_id, stays)

    async def finish_retry(self, lease: Lease) -> None:
        """As `StepStore.finish_retry`."""
        async with self._held(lease, StepKind.RETRY) as (connection, job):
            await refuse_prepared(connection, lease)
            await connection.execute(SQL["let_go"], *split_key(lease), None)
            await self._ended(connection, job, lease)
            await end_step(connection, lease)

    async def give_up_retry(self, lease: Lease, cause: Cause) -> None:
        """As `StepStore.give_up_retry`."""
        async with self._held(lease, StepKind.RETRY) as (connection, job):
            await give_up(connection, job, lease, cause)

    async def _ended(self, connection: Connection, job: Row, lease: Lease) -> None:
        asked = await connection.fetchval(SQL["end_retry"], *split_key(lease))
        details = {"generation": lease.generation, "retry": lease.ordinal, "dead_letters": asked}
        await record_event(connection, job, "dead_letters_retried", by_holder(lease), details=details)


async def give_up(connection: Connection, job: Row, lease: Lease, cause: Cause) -> None:
    """As `StepStore.give_up_retry`, for a lease that is known to be held."""
    place = split_key(lease)
    await connection.execute(SQL["let_go"], *place, f"{cause.code}: {cause.message}")
    unknown = await connection.execute(SQL["note_unknown"], *place, OUTCOME_UNKNOWN) != "UPDATE 0"
    if unknown:
        await connection.execute(SQL["step_waits"], *step_key(lease))
        await show_condition(connection, lease.job_id)
    else:
        await connection.execute(SQL["end_retry"], *place)
        await end_step(connection, lease)
    details = {"generation": lease.generation, "retry": lease.ordinal, "code": cause.code, "message": cause.message}
    await record_event(connection, job, "dead_letters_retry_failed", by_holder(lease), details=details)


async def settle(connection: Connection, place: Place, row: Row, sequence: int, refused: Sequence[DeadLetter]) -> None:
    """What becomes of the dead letters of a try that was just settled: `row` as `settle_chunk` returns it. `refused`
    are rows that the target has refused once more, by their keys."""
    retried, job_id = Retried.of(row["letters"]), place[0]
    again = await _again(connection, place, retried, refused)
    left = {one.id for one in again}
    gone = await connection.fetchval(SQL["sent"], job_id, [one for one in retried.sent if one not in left])
    await _stay(connection, job_id, [*retried.stays, *again])
    await connection.execute(SQL["advance"], *place, sequence)
    await connection.execute(SQL["count_sent"], job_id, row["rows"], gone, row["bytes"])
    await connection.execute(SQL["count_bytes"], row["run_id"], row["bytes"])


async def _again(
    connection: Connection, place: Place, retried: Retried, refused: Sequence[DeadLetter]
) -> list[Staying]:
    if not refused:
        return []
    rows = await connection.fetch(SQL["keys"], place[0], list(retried.sent))
    ids = {tuple(row["key"]): row["id"] for row in rows}
    return [Staying(ids[one.key], one.code, one.message) for one in refused if one.key in ids]


async def _stay(connection: Connection, job_id: str, stays: Sequence[Staying]) -> None:
    if stays:
        columns = zip(*(one.to_json() for one in stays), strict=True)
        await connection.execute(SQL["stay"], job_id, *(list(column) for column in columns))
