"""The contract between the runner and every sink.

Call order, for one split under one lease::

    writer = sink.writer(owner)
    await writer.open()                      fences every older owner of the split
    mark = await writer.visible(prepared)    what readers of the target can already see
    [await writer.anchor(sequence)]          only where `Sink.needs_anchor`
    loop:
        await writer.stage(batch) ...        nothing becomes visible
        prepared = await writer.prepare(cut) everything staged is acknowledged by the target
        (the runner stores `prepared`)
        receipt = await writer.make_visible(prepared)
        (the runner settles)
    await writer.discard()                   drops what is staged, never what was sent to become visible
    await writer.close()

Who retries: always the runner. A writer that raised anything from `open` to `make_visible` is used up: the runner
closes it, makes a new one with the same owner and begins at `open` again. An exception or a time-out of
`make_visible` means *unknown*, never *failed*. The one exception is RowRejected of `stage`: nothing of that batch was
staged and the writer stays as it was; the runner stages the batch again without the row.

Errors::

    SinkError
     +- SinkUnavailable      back off and try again (the target is away, slow, restarting)
     +- SinkRefused          permanent: someone has to mend the target, the rights or the definition
         +- TargetGone       what was delivered is gone with its target; a new beginning needs nothing of it
     +- PositionConflict     permanent: the target shows what this split can not have written
     +- Fenced               somebody opened the same split after us; only the store says who is right
     +- Restage              begin the chunk again at once, the writer's sink has adapted itself
     +- RowRejected          one row can not be delivered, the others can
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from datetime import date

    from sinks.reading import ContentReader, KeyReader, Wanted

Key = tuple[str, ...]
"""A row's key: the text of each key column, as Postgres writes it. Never compared in Python."""


class SinkError(Exception):
    """Root of what a sink raises. `code` is stable, `message` names the remedy and never holds a secret."""

    retryable = False

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class SinkUnavailable(SinkError):
    """The target can not be reached or does not answer in time; the same call may succeed later."""

    retryable = True


class SinkRefused(SinkError):
    """The target said no, and will say no again: rights, missing topic, full quota, unreadable folder."""


class TargetGone(SinkRefused):
    """The target is missing, or another one bears its name: what was delivered can neither be seen nor added to. A
    generation that begins by itself may follow all the same."""


class PositionConflict(SinkError):
    """The target shows a position or a name that this split can not have written. Remedy: a checkpoint PUT."""


class Fenced(SinkError):
    """Another owner opened the split. Not proof of a lost lease: ask the store."""

    retryable = True


class Restage(SinkError):
    """What was staged is dropped and must be staged again at once; the sink has lowered a size of its own."""

    retryable = True


class RowRejected(SinkError):
    """One row can not be delivered. `index` counts within the batch given to `stage`, of which nothing was staged."""

    def __init__(self, code: str, message: str, index: int, *, others: Sequence[RowRejected] = ()) -> None:
        """`others`: further rows of the same batch, as far as they are known already."""
        super().__init__(code, message)
        self.index = index
        self.others = tuple(others)


class Guarantee(Enum):
    """What a job delivers; the values are the API's words."""

    EXACTLY_ONCE = "exactly_once"
    EXACTLY_ONCE_UNFENCED = "exactly_once_unfenced"
    IDEMPOTENT = "idempotent"
    AT_LEAST_ONCE = "at_least_once"
    COUNTS = "counts"


@dataclass(frozen=True, slots=True)
class Promise:
    """The guarantee of a sink as configured, and one sentence that says what it rests on."""

    guarantee: Guarantee
    note: str


class Shows(Enum):
    """How a new owner learns what its predecessors made visible."""

    POSITION = "position"
    """The target itself holds (generation, epoch, sequence); a prepared chunk not shown is dropped for good."""
    NAMES = "names"
    """A prepared chunk has a name; the name is there or not, and a repeat uses the same name."""
    NOTHING = "nothing"
    """The target can not tell; a prepared chunk is read and sent again."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who writes: one split of one generation of one job, under one lease."""

    account: str
    job_id: str
    job_name: str
    run_id: str
    generation: int
    split: str
    """The ordinal as text, or `retry-<n>`."""
    epoch: int


@dataclass(frozen=True, slots=True)
class Mark:
    """The highest chunk of this split that readers of the target can see."""

    generation: int
    epoch: int
    sequence: int
    attempt: int | None = None
    """The try whose content is there, where the target lets tries be told apart."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Encoded rows in key order, as columns of equal length."""

    values: list[bytes]
    """One record each, without a line end, on one line. Empty (only `registry.TAKES_TOMBSTONES`): the row is gone."""
    keys: list[bytes | None] | None = None
    """The message key of each row, where the sink asked for key columns (Elasticsearch: its routing)."""
    ids: list[bytes] | None = None
    """Each row's own key as canonical JSON, where `Sink.upserts`: an array of the key columns' texts, without blanks,
    as UTF-8 (`["219"]`)."""
    size: int = field(init=False)
    """Bytes: the sum of the lengths of `values`, counted once for all who want it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", sum(map(len, self.values)))

    @property
    def rows(self) -> int:
        """How many rows."""
        return len(self.values)


@dataclass(frozen=True, slots=True)
class Cut:
    """What the runner knows of a chunk when it closes it."""

    sequence: int
    attempt: int
    """Counts from 1 within (sequence, epoch)."""
    rows: int
    first_key: Key | None
    """None only in a repeat that found no row left."""
    last_key: Key
    """The upper end of the chunk's range, also where that row is gone when the chunk is repeated."""
    lower: Key | None
    """The settled position the chunk begins after; None at the very beginning."""
    repeat_of: Prepared | None = None
    """Set when this cut repeats a prepared chunk: target and format are the ones of that chunk, whatever the
    definition says now."""
    version: int | None = None
    """Only where `Sink.upserts`: larger than that of every chunk that was prepared before, of any split and job."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """One try of a chunk, complete in the target but not visible. Stored by the runner before `make_visible`."""

    sequence: int
    epoch: int
    attempt: int
    rows: int
    bytes: int
    """Bytes as written: compressed size for files and objects, key and value bytes for Kafka."""
    first_key: Key | None
    last_key: Key
    lower: Key | None
    target: str
    """Topic, object name or path relative to the account's folder."""
    checksum: str | None = None
    """`sha256:<hex>` of the bytes as written, where the target keeps bytes."""
    details: dict[str, object] = field(default_factory=dict)
    """JSON that only the sink reads: format, temporary name, offsets."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """One row that the target refused by itself while the others of its chunk became visible."""

    id: str
    """Its key as in `Batch.ids`."""
    code: str
    reason: str
    value: bytes | None = field(default=None, repr=False)
    """The row as it was staged, to be kept as a dead letter; `key` is its entry in `Batch.keys`."""
    key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a visible chunk looks like from outside; becomes one entry of the job's outputs."""

    target: str
    partition: int | None = None
    first_offset: int | None = None
    last_offset: int | None = None
    etag: str | None = None
    rejected: tuple[Rejected, ...] = ()
    """Rows that are not visible and never will be, only from sinks that learn of it here (Elasticsearch): they are
    dead letters with the settle. Beyond the run's limits the chunk stays prepared."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that validation has to say about the sink. `severity`: error, warning or info."""

    pointer: str
    severity: str
    code: str
    message: str
    hint: str = ""


class Writer(Protocol):
    """Writes the chunks of one split for one owner. Not safe for concurrent calls, except `close` and `discard`
    after the running call was cancelled. Every method is bounded in time by the writer itself."""

    async def open(self) -> None:
        """Connect and fence: when this returns, no older owner of the split can make anything visible."""

    async def visible(self, prepared: Sequence[Prepared]) -> Mark | None:
        """What readers can see of this split's generation.

        `prepared` are the stored tries of the one unsettled chunk, empty when there is none. `Shows.POSITION` reads
        the target's own record and ignores them; `Shows.NAMES` looks for their name and tells which try is there,
        raising `PositionConflict` when the name is taken and no try matches; `Shows.NOTHING` answers None.
        """

    async def anchor(self, sequence: int) -> None:
        """Write `sequence` as the target's position without any row, so that silence later means lost knowledge.
        Called only where `Sink.needs_anchor`, before the first prepare and after a day without a chunk."""

    async def stage(self, batch: Batch) -> None:
        """Send rows so that nothing is visible. Returns when memory for the next batch is free: this is the
        backpressure. Raises RowRejected for a row that can not be encoded or that the target will never take: then
        nothing of this batch was staged, what was staged before still is, and the writer goes on."""

    async def prepare(self, cut: Cut) -> Prepared:
        """Wait until everything staged since the last chunk is acknowledged, complete and durable, and fix name,
        size and checksum. After it returns, only `make_visible` is missing."""

    async def make_visible(self, prepared: Prepared) -> Receipt:
        """Let readers see the whole chunk at once. Any exception means: unknown whether they do."""

    async def discard(self) -> None:
        """Drop what is staged. Never raises, at most a second; a chunk whose `make_visible` was called stays."""

    async def close(self) -> None:
        """Give back connections and memory. Never raises, at most a second, may be called at any time, twice."""


@runtime_checkable
class Numbered(Protocol):
    """A writer that has to name a chunk before it is cut (S3: an upload has its name from its first part on)."""

    def begin_after(self, sequence: int) -> None:
        """Called after `visible`: `sequence` is settled, and each chunk that is cut from here on is the next."""


@runtime_checkable
class CountsOverJob(Protocol):
    """A writer whose definition may name files by a number that counts over the whole life of the job."""

    def number_by(self, draw: Callable[[int], Awaitable[int]]) -> None:
        """Called before the first chunk is staged. `draw` gives the number of a chunk by its sequence, and gives it
        again whoever asks."""


@runtime_checkable
class ListsDays(Protocol):
    """A sink that names what it delivered in manifests (files, objects): for a generation without an end, one a day."""

    async def list_day(self, owner: Owner, day: date, chunks: AsyncIterator[Prepared]) -> None:
        """Write the manifest of `day` (UTC), which is over: every chunk of the generation that became final on it, in
        the form of `finish`'s manifest. Nothing is compared: who takes files away after the day is no concern of this.
        Repeatable, by several at a time: the same chunks give the same bytes, and a manifest that is there with these
        bytes is left as it is."""


class Sink(Protocol):
    """A target as one job's definition describes it; makes the writers. Cheap to construct: connects on use."""

    kind: str
    shows: Shows
    needs_anchor: bool
    settles_with_prepare: bool
    """True where `make_visible` has no effect outside (donothing): the runner may store prepare and settle in one
    transaction and then call `make_visible` for the receipt alone. False: prepare is stored before, settle after."""
    upserts: bool
    """True where rows are put by their key and the larger version wins (Elasticsearch): batches carry `ids`, cuts a
    `version`, and what is sent again replaces instead of doubling."""

    def promise(self) -> Promise:
        """The guarantee that this definition has, and why."""

    async def check(self) -> list[Finding]:
        """Connect, look, change nothing: reachability, existence, rights. Never raises SinkError."""

    async def prepare_target(self) -> Mapping[str, object]:
        """Before the first split of a generation: create what the definition asks to be created (a topic, a
        folder) and refuse what is impossible (a topic that is missing, limits that do not fit). What it returns is
        kept with the generation and given to every sink made for it later (`registry.Context.target`): how a target
        that was deleted and made again is told from the one that rows went to."""

    def writer(self, owner: Owner) -> Writer:
        """A writer for one split under one lease."""

    def receipt(self, prepared: Prepared) -> Receipt:
        """The receipt of a chunk that another owner made visible and did not live to settle, from its record alone."""

    def reader(self, owner: Owner, wanted: Wanted) -> ContentReader | KeyReader | None:
        """What reads back the generation that `owner` names, for a verification: see `sinks.reading`. None: nothing is
        kept."""

    async def finish(self, owner: Owner, chunks: AsyncIterator[Prepared]) -> None:
        """The finish step: compare what is in the target with the settled chunks of the generation (size and
        checksum) and write what closes it. Repeatable. Raises PositionConflict when something is gone or differs."""

    async def clean_up(self, owners: Sequence[Owner]) -> None:
        """After removal: fence these splits and delete what only they left (temporary files, open uploads, consumer
        groups). Delivered rows stay. Repeatable."""

    async def close(self) -> None:
        """Give back what the sink itself holds. Never raises."""
