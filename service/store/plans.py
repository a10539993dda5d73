"""What a plan step writes: the end of the generations before its own, and the splits of its own. Clean-up closes
generations by the same means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.domain.errors import Conflict, NotFound
from service.domain.states import State
from service.domain.steps import GenerationState, OpenRange, StepKind
from service.store.chunks import SQL as CHUNKS
from service.store.chunks import drop_tries, settle_try, show_last_id, split_state, store_try
from service.store.held import SQL as LEASES
from service.store.held import Held, by_holder, end_step, key_in, key_out
from service.store.sql import load
from service.store.transitions import end_if_idle, record_event
from service.store.window import open_window, with_windows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from service.domain.dead_letters import DeadLetter
    from service.domain.records import Key
    from service.domain.steps import ChunkRecord, Lease, Settlement
    from service.store.pool import Connection, Row

SQL = load("plans")


class Plans(Held):
    """The part of `StepStore` that begins and closes generations."""

    def _closing(self, lease: Lease, number: int) -> AbstractAsyncContextManager[tuple[Connection, Row]]:
        if number >= lease.generation and lease.kind is StepKind.PLAN:
            raise Conflict("wrong_generation", f"a plan step of generation {lease.generation} can not close {number}")
        if number != lease.generation and lease.kind is StepKind.CLEAN_UP:
            raise Conflict("wrong_generation", f"the clean-up of generation {lease.generation} can not close {number}")
        return self._held(lease, StepKind.PLAN, StepKind.CLEAN_UP)

    async def generation(self, lease: Lease, number: int) -> GenerationState:
        """As `StepStore.generation`. Raises NotFound."""
        async with self._held(lease) as (connection, _):
            row = await connection.fetchrow(SQL["generation"], lease.job_id, number)
            if row is None:
                raise NotFound("generation", str(number))
            splits = await connection.fetch(CHUNKS["splits"], lease.job_id, number)
            prepared = await connection.fetch(CHUNKS["prepared"], lease.job_id, number, None)
            epochs = await connection.fetch(SQL["epochs"], lease.job_id, number)
            found = [(split_state(split, prepared), split) for split in splits]
            states = await with_windows(connection, lease.job_id, number, None, found)
        ranges = row["ranges"]
        return GenerationState(
            number=row["number"],
            begins=row["begins"],
            ranges=None if ranges is None else [OpenRange(key_out(low), key_out(high)) for low, high in ranges],
            bound=key_out(row["bound"]),
            planned=row["planned"],
            closed=row["closed"],
            spec=row["spec"],
            secrets=self._box.open(row["secrets"]),
            splits=states,
            target=row["target"],
            epochs={epoch["ordinal"]: epoch["epoch"] for epoch in epochs if epoch["kind"] == "split"},
            retries={epoch["ordinal"]: epoch["epoch"] for epoch in epochs if epoch["kind"] == "retry"},
            delivered_at=row["delivered_at"],
        )

    async def settle_closed(self, lease: Lease, number: int, ordinal: int, settlement: Settlement) -> None:
        """As `StepStore.settle_closed`: counted for the plan step's run, in clean-up for the run that prepared it.
        Raises Conflict `chunk_not_prepared`."""
        async with self._closing(lease, number) as (connection, job):
            run_id = await settle_try(connection, (lease.job_id, number, ordinal), settlement, lease.run_id)
            keeps = await connection.fetchval(SQL["keeps_position_of"], lease.job_id, job["generation"], number)
            if keeps:
                await show_last_id(connection, lease.job_id, number, run_id)

    async def drop_closed(self, lease: Lease, number: int, ordinal: int) -> None:
        """As `StepStore.drop_closed`; nothing happens when there is none."""
        async with self._closing(lease, number) as (connection, _):
            await drop_tries(connection, (lease.job_id, number, ordinal))

    async def prepare_closed(
        self, lease: Lease, number: int, ordinal: int, chunk: ChunkRecord, dead: Sequence[DeadLetter] = ()
    ) -> None:
        """As `StepStore.prepare_closed`; the try's epoch is that of `fence_epoch`. Raises Conflict `out_of_sequence`
        or `try_exists`."""
        async with self._closing(lease, number) as (connection, _):
            epoch = await connection.fetchval(SQL["split_epoch"], lease.job_id, number, ordinal)
            await store_try(connection, (lease.job_id, number, ordinal), chunk, dead, epoch=epoch)

    async def fence_epoch(self, lease: Lease, number: int, ordinal: int) -> int:
        """As `StepStore.fence_epoch`. Raises NotFound for a split that does not exist."""
        async with self._closing(lease, number) as (connection, _):
            epoch: int | None = await connection.fetchval(SQL["fence_epoch"], lease.job_id, number, ordinal)
            if epoch is None:
                raise NotFound("split", f"{number}/{ordinal}")
            return epoch

    async def close_generation(self, lease: Lease, number: int, *, fenced: bool) -> None:
        """As `StepStore.close_generation`; the second time does nothing."""
        async with self._closing(lease, number) as (connection, job):
            closed = await connection.execute(SQL["close_generation"], lease.job_id, number, fenced)
            if closed != "UPDATE 0" and not fenced:
                details = {"generation": number}
                await record_event(connection, job, "old_generation_not_fenced", by_holder(lease), details=details)

    async def keep_of_source(
        self, lease: Lease, kept: Mapping[str, object], *, promise: tuple[str, str] | None = None
    ) -> bool:
        """As `StepStore.keep_of_source`; what is there under other names stays."""
        async with self._held(lease, StepKind.PLAN, StepKind.SPLIT) as (connection, _):
            if promise is not None:
                await connection.execute(SQL["promised"], lease.job_id, *promise)
            changed = await connection.execute(SQL["keep_of_source"], lease.job_id, lease.generation, dict(kept))
            return bool(changed != "UPDATE 0")

    async def save_plan(
        self,
        lease: Lease,
        splits: Sequence[OpenRange],
        *,
        bound: Key | None,
        tail: bool,
        estimated_rows: int | None,
        target: Mapping[str, object] | None = None,
        promise: tuple[str, str] | None = None,
        window: bool = False,
        window_of: int | None = None,
        holds: bool = False,
    ) -> None:
        """As `StepStore.save_plan`; ordinals are places in `splits`."""
        async with self._held(lease, StepKind.PLAN) as (connection, job):
            generation = (lease.job_id, lease.generation)
            ranges = [[key_in(split.lower), key_in(split.upper)] for split in splits]
            await connection.execute(SQL["insert_splits"], *generation, ranges, tail)
            await connection.execute(SQL["insert_split_steps"], *generation)
            await connection.execute(SQL["insert_finish_step"], *generation, len(splits))
            await connection.execute(SQL["planned"], *generation, key_in(bound), estimated_rows, dict(target or {}))
            if window:
                await open_window(connection, *generation, of=window_of)
            if promise is not None:
                await connection.execute(SQL["promised"], lease.job_id, *promise)
            await connection.execute(SQL["plan_of_run"], lease.run_id, len(splits), estimated_rows)
            await show_last_id(connection, *generation, lease.run_id)
            await connection.execute(LEASES["note_progress"], lease.job_id)
            if not holds:
                await end_step(connection, lease)
            await end_if_idle(connection, lease.job_id, State(job["state"]), by_holder(lease))

    async def end_plan(self, lease: Lease) -> None:
        """As `StepStore.end_plan`."""
        async with self._held(lease, StepKind.PLAN) as (connection, job):
            await end_step(connection, lease)
            await end_if_idle(connection, lease.job_id, State(job["state"]), by_holder(lease))

    async def split_leased(self, lease: Lease) -> bool:
        """As `StepStore.split_leased`."""
        async with self._held(lease) as (connection, _):
            return bool(await connection.fetchval(SQL["split_leased"], lease.job_id, lease.generation))
