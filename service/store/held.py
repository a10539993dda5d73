"""What every write of a step shares: the job's lock, the check of the lease, and records in and out of rows."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from service.domain.errors import Conflict, LeaseLost
from service.domain.records import Actor
from service.domain.states import State
from service.domain.steps import Directive, StepKind
from service.store.sql import load
from service.store.transitions import end_if_idle, lock_job

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from service.domain.records import Key
    from service.domain.steps import Lease
    from service.store.pool import Connection, Pool, Row
    from service.store.secretbox import SecretBox

SQL = load("leases")

_WAITS = ("connections", "memory", "horizon", "source", "rate")
"""What a job waits for, worst first: what somebody may have to mend stands before what is meant so."""
_PATIENCE_SECONDS = 900.0


class Held:
    """Base of the parts of the step store."""

    def __init__(self, pool: Pool, box: SecretBox) -> None:
        self._pool = pool
        self._box = box

    @asynccontextmanager
    async def _held(self, lease: Lease, *kinds: StepKind) -> AsyncIterator[tuple[Connection, Row]]:
        """A transaction with the lease's job locked, and its row. Raises LeaseLost before anything is written when
        the step has another epoch or owner; Conflict `wrong_step` when the step is not of `kinds` (if any)."""
        if kinds and lease.kind not in kinds:
            raise Conflict("wrong_step", f"a {lease.kind.value} step can not do this")
        async with self._pool.transaction() as connection:
            job = await lock_job(connection, lease.job_id)
            if job is None or not await connection.fetchval(SQL["holds"], *step_key(lease), lease.epoch, lease.owner):
                raise LeaseLost
            yield connection, job


def step_key(lease: Lease) -> tuple[str, int, str, int]:
    """The step's key in `steps`."""
    return lease.job_id, lease.generation, lease.kind.value, lease.ordinal


def split_key(lease: Lease) -> tuple[str, int, int]:
    """Under what the lease's own chunks stand: the key of its split in `splits`; of a retry the negative number."""
    ordinal = -lease.ordinal if lease.kind is StepKind.RETRY else lease.ordinal
    return lease.job_id, lease.generation, ordinal


def by_holder(lease: Lease) -> Actor:
    """The process that holds the lease, for events."""
    return Actor("", lease.owner)


def key_in(key: Key | None) -> list[str] | None:
    """A key for a jsonb column."""
    return None if key is None else list(key)


def key_out(value: Sequence[str] | None) -> Key | None:
    """A key from a jsonb column."""
    return None if value is None else tuple(value)


def directive(lease: Lease, row: Row) -> Directive:
    """A row of `renew` or `directive`."""
    # Nobody's splits are leased in a plan or finish step: it has the whole.
    share = row["own"] / row["of_all"] if lease.kind is StepKind.SPLIT and row["own"] else 1.0
    valid: bool = row["valid"]
    in_time = row["stop_in"]
    return Directive(
        lease=lease,
        valid=valid,
        ended=row["ended"],
        # A verification is no part of the run: what becomes of that does not end it.
        state=State(row["state"]) if valid and lease.kind is not StepKind.VERIFY else None,
        stop_in_seconds=None if in_time is None or row["state"] != "stopping" else max(0.0, in_time),
        rows_per_second=_part(row["rows_per_second"], share),
        bytes_per_second=_part(row["bytes_per_second"], share),
        max_without_progress_seconds=_PATIENCE_SECONDS if row["patience"] is None else row["patience"],
        active_sessions=row["active_sessions"],
    )


def _part(limit: float | None, share: float) -> float | None:
    return None if limit is None else limit * share


async def give_back(
    connection: Connection, job: Row, lease: Lease, *, seconds: float | None = None, reason: str | None = None
) -> None:
    """The step is ready again, in `seconds` where given; the job shows what is left of its condition, and ends when
    it was waiting for this."""
    await connection.execute(SQL["give_back"], *step_key(lease), seconds)
    await show_condition(connection, lease.job_id)
    await end_if_idle(connection, lease.job_id, State(job["state"]), by_holder(lease), reason=reason)


async def refuse_prepared(connection: Connection, lease: Lease) -> None:
    """Raises Conflict `chunk_unsettled` when the lease's split, or retry, has a prepared chunk."""
    if lease.kind in {StepKind.SPLIT, StepKind.RETRY} and await connection.fetchval(
        SQL["prepared_left"], *split_key(lease)
    ):
        raise Conflict("chunk_unsettled", "a prepared chunk of this split is neither settled nor dropped")


async def end_step(connection: Connection, lease: Lease) -> None:
    """The step is done for good."""
    await connection.execute(SQL["end_step"], *step_key(lease))
    await show_condition(connection, lease.job_id)


async def show_condition(connection: Connection, job_id: str) -> None:
    """Let the job show the worst of its leased steps."""
    rows = await connection.fetch(SQL["conditions"], job_id)
    shown = worst([row["condition"] for row in rows])
    await connection.execute(
        SQL["show_condition"], job_id, shown["waiting_for"], shown["retrying"], shown["horizon"], shown["lag"]
    )


def worst(conditions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One condition out of several: the longest retry hides every wait; the longest lag."""
    retries = [c["retrying"] for c in conditions if c.get("retrying")]
    waits = [c["waiting_for"] for c in conditions if c.get("waiting_for")]
    lags = [c["lag"] for c in conditions if c.get("lag")]
    return {
        "retrying": max(retries, key=lambda r: r.get("attempt") or 0, default=None),
        "waiting_for": None if retries else min(waits, key=_severity, default=None),
        "horizon": next((c["horizon"] for c in conditions if c.get("horizon")), None),
        "lag": max(lags, key=lambda lag: (lag.get("rows") or 0, lag.get("seconds") or 0), default=None),
    }


def _severity(wait: str) -> int:
    return _WAITS.index(wait) if wait in _WAITS else len(_WAITS)
