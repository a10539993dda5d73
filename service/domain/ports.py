"""What the inside asks of the outside, split by who asks.

`StepStore` is for the engine and the runner, `JobStore` for the HTTP side, `Registry` for named things. One class over
asyncpg implements them; `tests/contract/test_job_store.py` holds what they promise.

Promises of every method that writes: one transaction; the job's row is locked first; a transition writes its event row
in the same transaction; a write of a step names job, step and epoch and raises `LeaseLost` when the epoch is not the
step's own any more, before anything is written. Raises `Transient("store_unreachable")` when the control database is
away; nothing is retried here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from service.domain.dead_letters import DeadLetterSteps, DeadLetterStore
from service.domain.verification import Verifications, VerifySteps
from service.domain.window import WindowSteps

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
    from datetime import date, datetime

    from service.domain.datasource import Datasource
    from service.domain.dead_letters import DeadLetter
    from service.domain.errors import Cause
    from service.domain.inspection import Finding, Outlook, Preview, RowsPage, Sample, SourceShape, TableInfo
    from service.domain.records import (
        Actor,
        ChunkRecord,
        Condition,
        Directive,
        DueJob,
        EventRecord,
        GenerationState,
        Job,
        Key,
        Lease,
        LogLine,
        OpenRange,
        Output,
        PublicTable,
        Run,
        Settlement,
        SigningKey,
        SplitState,
        Step,
        StepKind,
        StoredCredential,
        StoredDatasource,
        Tick,
        Token,
    )
    from service.domain.states import Event


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

    async def keep_of_source(self, lease: Lease, kept: Mapping[str, object]) -> bool:
        """Put what the holder of a split, or of the plan, saw of the source into the generation's `target`, for later
        leases. False when it was there already."""

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


class JobStore(DeadLetterStore, Verifications, Protocol):
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

    async def run(self, account: str, run_id: str) -> Run | None:
        """One run of the job log."""

    async def runs(
        self, account: str, filters: Mapping[str, Any], *, limit: int, after: str | None
    ) -> tuple[Sequence[Run], str | None]:
        """Newest first; removed jobs' runs too. `filters` has the query's names: `state` is a list, `label` a list of
        pairs, `job` a name, `job_id` an id, `error` the code of any link of the cause chain, `q` a text in one of
        their messages that begins and ends where words do."""

    async def count_runs(self, account: str, filters: Mapping[str, Any]) -> int:
        """How many there are. Takes as long as there are many: a page does not."""

    async def outputs(
        self, account: str, job_id: str, *, limit: int, after: str | None
    ) -> tuple[Sequence[Output], str | None]:
        """Visible chunks in the order they were settled."""

    async def output_targets(self, account: str, job_ids: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """The names of what each of these jobs has made visible, in the order it was settled."""

    async def delivered_ranges(self, account: str, job_id: str) -> Sequence[OpenRange]:
        """Key ranges of the current generation whose rows are durable in the sink, or may be: a chunk that is prepared
        and not settled counts."""

    async def log_lines(
        self, account: str, filters: Mapping[str, Any], *, limit: int, after: int | None
    ) -> tuple[Sequence[LogLine], int | None]:
        """Oldest first from `after` (a `seq`)."""

    async def events(
        self, account: str, filters: Mapping[str, Any], *, limit: int, after: int | None
    ) -> tuple[Sequence[EventRecord], int | None]:
        """Oldest first from `after` (a `seq`)."""

    async def last_seq(self) -> tuple[int, int]:
        """The `seq` of the newest log line and of the newest event of any account: where following from now on
        begins."""

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


class ScheduleStore(Protocol):
    """What is due. Times are the database's, so services whose own clocks differ agree on them."""

    async def due(self, limit: int) -> Sequence[DueJob]:
        """The jobs whose next run is due, the longest due first."""

    async def until_due(self) -> float | None:
        """Seconds until the next one is, below zero when one is already; None when no job has a next run."""

    async def tick(self, due: DueJob, by: Actor) -> Tick | None:
        """Take the tick: start the job, or say in an event why not (`schedule_skipped`: it can not start, or another
        job writes into its folder; `schedule_missed`: nobody was there, and its policy is `skip`), and move on to the
        next. None when somebody else took it or the schedule was changed. However many ticks have passed, at most one
        run."""


class Registry(Protocol):
    """Named things and who may use them."""

    async def datasource(self, account: str, name: str) -> StoredDatasource | None:
        """With the password decrypted, references unresolved."""

    async def datasources(self, account: str) -> Sequence[StoredDatasource]:
        """All, by name."""

    async def put_datasource(
        self, account: str, actor: Actor, name: str, definition: Mapping[str, object], password: str | None
    ) -> tuple[StoredDatasource, bool]:
        """Store; True when it was created."""

    async def delete_datasource(self, account: str, actor: Actor, name: str) -> bool:
        """Raises Conflict `datasource_in_use` naming a job that uses it."""

    async def credential(self, account: str, name: str) -> StoredCredential | None:
        """With the secrets decrypted, references unresolved."""

    async def credentials(self, account: str) -> Sequence[StoredCredential]:
        """All, by name."""

    async def put_credential(
        self, account: str, actor: Actor, name: str, secrets: Mapping[str, str]
    ) -> tuple[StoredCredential, bool]:
        """Store; True when it was created."""

    async def delete_credential(self, account: str, actor: Actor, name: str) -> bool:
        """Raises Conflict `credential_in_use` naming a job that uses it."""

    async def token(self, digest: bytes) -> Token | None:
        """By SHA-256 of the token; expired ones are None."""

    async def tokens(self, account: str) -> Sequence[Token]:
        """All of the account, without what they open."""

    async def create_token(
        self, account: str, actor: Actor, name: str, role: str, digest: bytes, expires_at: datetime | None
    ) -> Token:
        """Raises Conflict `name_taken`."""

    async def delete_token(self, account: str, actor: Actor, ref: str) -> bool:
        """By id or name."""

    async def table(self, account: str, name: str) -> PublicTable | None:
        """By its public name."""

    async def tables(self, account: str) -> Sequence[PublicTable]:
        """All, by name."""

    async def put_table(
        self, account: str, actor: Actor, name: str, definition: Mapping[str, object]
    ) -> tuple[PublicTable, bool]:
        """Store; True when it was created. `definition` has the fields of `PublicTable` from `datasource` to
        `key_is_monotonic`. Raises Conflict `datasource_unknown` when that was removed meanwhile."""

    async def delete_table(self, account: str, actor: Actor, name: str) -> bool:
        """False when there was none."""

    async def key(self, key: str) -> SigningKey | None:
        """By its public part, of any account; with the secret decrypted."""

    async def signed(self, key: str, job_id: str) -> tuple[SigningKey, Job] | None:
        """A key as `key` finds it, and the job of its account with this id, as `JobStore.get` finds it: both read in
        one go, after this call. None where one of them is not there: ask for each then. It says nothing of whether
        whoever asks has the key's secret."""

    async def keys(self, account: str) -> Sequence[SigningKey]:
        """All of the account by name, without their secrets."""

    async def create_key(
        self, account: str, actor: Actor, name: str, role: str, *, key: str, secret: str
    ) -> SigningKey:
        """Makes the account unless it exists. Raises Conflict `name_taken`."""

    async def delete_key(self, account: str, actor: Actor, ref: str) -> bool:
        """By name or by its public part."""

    async def any_token(self) -> bool:
        """Whether anybody could come in."""

    async def ensure_account(self, name: str) -> None:
        """Make the account unless it exists."""


class LogStore(Protocol):
    """Takes the lines of the job log in batches."""

    async def write(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Append; lines of unknown jobs are kept without one."""


class Engine(Protocol):
    """Decides who works on a step; what it does twice, the epoch refuses."""

    async def start(self) -> None:
        """Take up interrupted runs and go on; returns at once."""

    async def wake(self, job_id: str) -> None:
        """Something was started, stopped or aborted: look now rather than at the next tick."""

    async def stop(self, timeout_seconds: float) -> None:
        """Park every running step within the time, then release. Idempotent, safe before start."""


class Inspector(Protocol):
    """Looks at sources and sinks for the HTTP side, which knows no driver. Changes nothing outside and keeps nothing
    open after a call. `spec` is a definition as stored (JSON, secrets left out), `secrets` its values by JSON
    pointer, decrypted; the inspector looks up the account's datasource and credential and resolves references.

    Every method that connects checks destinations first and ends within 15 seconds. What is wrong with the
    definition is a finding; raises `Transient` when the source or the sink can not be reached where rows or keys are
    asked for, `Permanent` when it refuses.
    """

    def check(self, spec: Mapping[str, object]) -> Sequence[Finding]:
        """Without connecting: user SQL by Postgres's grammar (code `sql_refused`, the message names the offset),
        safety against mode, format against sink. Create and replace refuse what has severity `error`."""

    def promise(self, spec: Mapping[str, object]) -> tuple[str, str]:
        """Guarantee (the API's word) and note of a definition, without connecting."""

    async def validate(self, account: str, spec: Mapping[str, object], secrets: Mapping[str, str]) -> Outlook:
        """`check`, and then look at source and sink: catalog, key, rights, size, reachability, destinations. Never
        raises for what it finds; an unreachable source is a finding."""

    async def preview(
        self, account: str, spec: Mapping[str, object], secrets: Mapping[str, str], *, limit: int
    ) -> Preview:
        """The first `limit` rows as the sink would get them, and what the source has to say. Raises Permanent for a
        definition that can not be read."""

    def rows(self, account: str, spec: Mapping[str, object]) -> AsyncGenerator[RowsPage, None]:
        """Every row of a definition in key order, page by page; of a continuous one without end, with empty pages while
        there is nothing. Closing the generator cancels what the source is doing for it. Raises Transient, Permanent and
        RowsRejected, and nothing is read again."""

    async def describe(self, account: str, spec: Mapping[str, object]) -> SourceShape:
        """Look at the source alone: columns and key. Raises Permanent for what makes a run impossible."""

    async def check_ranges(
        self, account: str, spec: Mapping[str, object], secrets: Mapping[str, str], ranges: Sequence[OpenRange]
    ) -> None:
        """Raises Permanent `key_invalid`, naming text and type, unless every bound can be read as the key's types,
        lower < upper in each range, and the ranges are in increasing order without overlap."""

    async def repeats(
        self,
        account: str,
        spec: Mapping[str, object],
        secrets: Mapping[str, str],
        *,
        delivered: Sequence[OpenRange],
        ranges: Sequence[OpenRange],
    ) -> Sequence[OpenRange]:
        """The parts of `delivered` that lie in `ranges`, in increasing order, compared by Postgres."""

    async def check_datasource(self, datasource: Datasource) -> Sequence[Finding]:
        """Connect and look: reachability, password, version, superuser, what the role may see."""

    async def tables(self, datasource: Datasource, *, limit: int, after: str | None) -> Sequence[TableInfo]:
        """Tables and views the role may read, ordered by name, those after the name `after`."""

    async def sample(self, datasource: Datasource, query: str, *, rows: int, characters: int) -> Sample:
        """The first rows of a query, values cut off at `characters`. The query is user SQL like that of a job: raises
        Permanent, with the offset, for what is not exactly one SELECT that changes nothing."""
