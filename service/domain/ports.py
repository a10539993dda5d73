"""What the inside asks of the outside, split by who asks.

`StepStore` is for the engine and the runner, `JobStore` for the HTTP side. What is about one subject stands with the
records of that subject: `Registry` in `named`, `ScheduleStore` in `schedules`, `Inspector` in `inspection`, the past in
`history`, and so on in `dead_letters`, `verification` and `window`. `tests/contract/` holds what they promise.

Promises of every method that writes: one transaction; the job's row is locked first; a transition writes its event row
in the same transaction; a write of a step names job, step and epoch and raises `LeaseLost` when the epoch is not the
step's own any more, before anything is written. Raises `Transient("store_unreachable")` when the control database is
away; nothing is retried here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from service.domain.dead_letters import DeadLetterSteps, DeadLetterStore
from service.domain.history import History
from service.domain.verification import Verifications, VerifySteps
from service.domain.window import WindowSteps

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from datetime import date

    from service.domain.dead_letters import DeadLetter
    from service.domain.errors import Cause
    from service.domain.records import Actor, Job, Key
    from service.domain.states import Event
    from service.domain.steps import (
        ChunkRecord,
        Condition,
        Directive,
        GenerationState,
        Lease,
        OpenRange,
        Settlement,
        SplitState,
        Step,
        StepKind,
    )


class StepStore(DeadLetterSteps, VerifySteps, WindowSteps, Protocol):
    """Leases and what is written under them. Times are the database's."""

    async def claim(
        self, owner: str, kinds: Sequence[StepKind], *, lease_seconds: float, only_jobs: Sequence[str] | None = None
    ) -> Step | None:
        """Lease one ready step of a job that wants to run (or a clean-up), oldest first; epoch + 1. A queued job
        becomes running. `only_jobs` limits everything but clean-ups to these ids. None when there is none."""

    async def renew(self, leases: Sequence[Lease], *, lease_seconds: float) -> Sequence[Directive]:
        """Extend the leases that are still held by their owner and epoch, and bring directives; one statement."""

    async def expire(self) -> int:
        """Free leases that have run out, release what outstayed `stop_timeout_seconds`, end runs beyond
        `timeout_seconds` (error `run_timeout`), and move stopping, aborting and failing jobs without a leased step
        to their end. Returns how many rows changed. Safe to call from every process at any time."""

    async def park(self, lease: Lease) -> None:
        """Give the lease back with no prepared chunk left unsettled. The step is ready again."""

    async def release(self, lease: Lease, reason: str | None = None) -> None:
        """Give the lease back; a prepared chunk may remain. `reason` is shown on the job."""

    async def fail(self, lease: Lease, errors: Sequence[Cause]) -> None:
        """Give the lease back with a permanent error: the job is failing, and in error once no step is leased."""

    async def report(self, lease: Lease, condition: Condition) -> None:
        """Replace what stands beside the state for this step; the job shows the worst of its steps."""

    async def generation(self, lease: Lease, number: int) -> GenerationState:
        """A generation of the lease's job, with its splits; for the plan step and clean-up."""

    async def settle_closed(self, lease: Lease, number: int, ordinal: int, settlement: Settlement) -> None:
        """The plan step of a successor settles a chunk of generation `number` that turned out to be visible."""

    async def drop_closed(self, lease: Lease, number: int, ordinal: int) -> None:
        """The plan step of a successor found that a prepared chunk can not become visible any more."""

    async def prepare_closed(
        self, lease: Lease, number: int, ordinal: int, chunk: ChunkRecord, dead: Sequence[DeadLetter] = ()
    ) -> None:
        """The plan step of a successor repeats a prepared chunk as cut: a further try of it, whatever the limits."""

    async def fence_epoch(self, lease: Lease, number: int, ordinal: int) -> int:
        """Raise and return the epoch of a split of generation `number`, for the fencing of a closed generation."""

    async def close_generation(self, lease: Lease, number: int, *, fenced: bool) -> None:
        """Mark a predecessor closed; not fenced: event `old_generation_not_fenced`."""

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
        """The plan step is done: splits and their steps exist (`tail`: the last one waits until the others are done);
        without any split the finish step is ready. `target` is kept for the sinks of later steps; `promise` is the
        job's guarantee and its note from here on. `window`: the last split remembers what it reads, from its lower
        bound on, or goes on with what generation `window_of` remembers; all else that was remembered is forgotten.
        `holds`: the step stays leased, for the sake of what its holder keeps open, and is done with its last split (a
        directive that has `ended`)."""

    async def end_plan(self, lease: Lease) -> None:
        """The generation was planned before, and nothing has to be kept open for it any more: the step is done."""

    async def split_leased(self, lease: Lease) -> bool:
        """Whether anybody works on a split of the lease's generation now."""

    async def keep_of_source(
        self, lease: Lease, kept: Mapping[str, object], *, promise: tuple[str, str] | None = None
    ) -> bool:
        """Put what the holder of a split, or of the plan, saw of the source into the generation's `target`, for later
        leases; `promise` as for `save_plan`. False when it was there already."""

    async def split(self, lease: Lease) -> SplitState:
        """Where the leased split stands. A retry stands as a split without a range, its ordinal negative."""

    async def anchored(self, lease: Lease) -> None:
        """The sink's own position was written now."""

    async def draw_version(self, lease: Lease) -> int:
        """A number above every one drawn before, by any lease of any job: what orders the chunks of sinks that compare
        versions. Whoever leases the split after this draws a larger one."""

    async def draw_number(self, lease: Lease, sequence: int) -> int:
        """The number that the chunk `sequence` of the leased split has over the whole life of the job: 1, 2, 3 … in the
        order they are first asked for. The same chunk has the same number whoever asks."""

    async def prepare(self, lease: Lease, chunk: ChunkRecord, dead: Sequence[DeadLetter] = ()) -> None:
        """Store one try of the next chunk (sequence = settled + 1), with the rows of its range that are not in it.
        Raises Permanent `dead_letters_exceeded`."""

    async def settle(self, lease: Lease, settlement: Settlement) -> Directive:
        """Make a prepared chunk final: position, scanned_to, sequence, counts of split, run and job, last_id, and the
        dead letters of the try. Raises Permanent `dead_letters_exceeded` when it brings refused rows."""

    async def prepare_and_settle(
        self, lease: Lease, settlement: Settlement, dead: Sequence[DeadLetter] = ()
    ) -> Directive:
        """Both in one transaction, for sinks that only count."""

    async def drop_prepared(self, lease: Lease, *, maybe_doubled: int = 0) -> None:
        """The prepared chunk is known not to be visible, or can not be known and will be sent again
        (`maybe_doubled` rows are counted)."""

    async def scan(self, lease: Lease, scanned_to: Key, *, rows_read: int = 0) -> None:
        """Move `scanned_to` while no chunk is open or prepared."""

    async def finish_split(self, lease: Lease, scanned_to: Key | None) -> None:
        """The split is done. With the last one the tail, or else the finish step, is ready."""

    def settled_chunks(self, lease: Lease) -> AsyncIterator[tuple[int, ChunkRecord]]:
        """(ordinal, chunk) of every settled chunk of the lease's generation, in order; in pages."""

    async def day_to_list(self, lease: Lease, number: int, *, today: bool = False) -> date | None:
        """The oldest day (UTC, by the settle) of generation `number` that has settled chunks and is not listed: one
        that is over, or with `today` also the present one, for a generation in which nothing is settled any more. Of
        the splits of a generation only the first that is leased is told."""

    def chunks_of_day(self, lease: Lease, number: int, day: date) -> AsyncIterator[ChunkRecord]:
        """What was settled on a day that is over, in the order of the settles; in pages."""

    async def day_listed(self, lease: Lease, number: int, day: date) -> None:
        """Every day up to this one is listed: its chunk records may go with retention."""

    async def finish_run(self, lease: Lease) -> None:
        """The finish step is settled: run and job are successful."""

    async def cleaned_up(self, lease: Lease, outcome: str) -> None:
        """The clean-up ended (`done`, or why it was given up): event, and the kept job row goes."""

    async def postpone(self, lease: Lease, seconds: float, cause: Cause) -> None:
        """Give a clean-up step back, to be tried again in `seconds`."""


class JobStore(DeadLetterStore, History, Verifications, Protocol):
    """What the HTTP side asks. `account` is the account's name; another account's objects do not exist."""

    async def create(
        self,
        account: str,
        actor: Actor,
        spec: Mapping[str, object],
        secrets: Mapping[str, str],
        *,
        guarantee: str,
        guarantee_note: str,
    ) -> Job:
        """Raises Conflict `name_taken`."""

    async def replace(
        self,
        account: str,
        actor: Actor,
        job_id: str,
        spec: Mapping[str, object],
        secrets: Mapping[str, str],
        *,
        guarantee: str,
        guarantee_note: str,
        if_revision: int | None,
        position: str | None,
        target_changed: bool,
    ) -> Job:
        """Raises Conflict `job_running`, `revision_changed`, or `position_incompatible` when `target_changed` on a
        job with a position and `position` is None. `keep` and `reset` make a new generation."""

    async def patch(
        self,
        account: str,
        actor: Actor,
        job_id: str,
        spec: Mapping[str, object],
        *,
        if_revision: int | None = None,
        event: str = "patch",
    ) -> Job:
        """Replace the definition's live parts (labels, schedule, options.rate, options.retry, options.dead_letters), in
        any state, at once in force; `event` is what is told of it. Raises Conflict `revision_changed` unless
        `if_revision` is None or the present spec revision: a merge is made from a definition that was read before."""

    async def secrets(self, account: str, job_id: str) -> Mapping[str, str]:
        """The definition's secrets by JSON pointer, decrypted: to be kept by an update, taken by a clone, used by
        validate and preview. Empty when there are none or no such job."""

    async def get(self, account: str, ref: str) -> Job | None:
        """By id or name, as it is now. While nothing of a job changes it may be the same object as before: nobody
        changes what is in it."""

    async def list(
        self, account: str, filters: Mapping[str, Any], *, sort: str, limit: int, after: str | None
    ) -> tuple[Sequence[Job], str | None]:
        """A page and the opaque token of the next. `filters` has the query's names (`state` is a list, `label` a
        list of pairs)."""

    async def verb(
        self, account: str, actor: Actor, job_id: str, event: Event, *, trigger: str, from_beginning: bool = False
    ) -> tuple[Job, bool]:
        """Apply start, stop or abort; the job afterwards and whether anything was set in motion. Raises Conflict
        `verb_refused` with state and verbs."""

    async def remove(self, account: str, actor: Actor, job_id: str) -> bool:
        """Free the name and leave a clean-up step behind, unless the job is live: then False."""

    async def remove_when_aborted(self, account: str, actor: Actor, job_id: str) -> None:
        """Abort now, remove as soon as the abort has ended (done by whoever ends it)."""

    async def put_checkpoint(
        self,
        account: str,
        actor: Actor,
        job_id: str,
        *,
        seen_generation: int,
        ranges: Sequence[OpenRange],
        reason: str,
    ) -> Job:
        """A new generation that begins with these ranges. Raises Conflict `job_running`, `generation_changed`."""

    async def delivered_ranges(self, account: str, job_id: str) -> Sequence[OpenRange]:
        """Key ranges of the current generation whose rows are durable in the sink, or may be: a chunk that is prepared
        and not settled counts."""

    async def wait_changed(self, timeout_seconds: float) -> None:
        """Return as soon as any job of any account changed, or when the time is over. For `?wait=` and streams."""

    async def begin_request(self, account: str, key: str, fingerprint: str) -> Mapping[str, Any] | None:
        """Idempotency-Key: None when the caller may go on, else the stored answer. Raises Conflict
        `idempotency_key_reused` (another body) or `request_in_progress`."""

    async def end_request(
        self, account: str, key: str, *, status: int, headers: Mapping[str, str], body: bytes, keep: bool
    ) -> None:
        """Store the answer for 24 hours, or forget the key."""

    async def ping(self) -> None:
        """Answer while the control database does."""


class Engine(Protocol):
    """Decides who works on a step; what it does twice, the epoch refuses."""

    async def start(self) -> None:
        """Take up interrupted runs and go on; returns at once."""

    async def wake(self, job_id: str) -> None:
        """Something was started, stopped or aborted: look now rather than at the next tick."""

    async def stop(self, timeout_seconds: float) -> None:
        """Park every running step within the time, then release. Idempotent, safe before start."""
