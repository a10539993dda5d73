"""The contract between the runner and a source.

Call order: `inspect` (findings), then `plan` (the plan step) or `reader` (a split). One `Source` serves one step and is
used by one task; `close` at the end, always.

Errors: `Transient` (source unreachable, restarted, conflict with recovery), `Permanent` (unknown table or column,
wrong password, key not unique, a statement that can not be made short enough), `RowsRejected` (a row that can not be
read, by key). The source never retries but for halving a page that takes too long; the runner retries.

Keys are tuples of texts as Postgres writes them, and only Postgres compares them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from service.domain.errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import datetime

    from service.domain.errors import RowferryError
    from service.domain.inspection import Finding, TableColumn
    from sinks.formats.columns import Column
    from workers.sources.cut import Cut

Key = tuple[str, ...]


class SourceChanged(Interrupted):
    """The source has other columns now, and whoever reads it has to begin anew with them: nothing was given out since
    the last page."""

    def __init__(self) -> None:
        """Control flow: it has nothing to say to a person."""
        super().__init__("source_changed", "the source has other columns now")


@dataclass(frozen=True, slots=True)
class KeyColumn:
    """One column of the key."""

    name: str
    type: str
    """As `format_type` writes it; a key text is read back with a cast to it."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is to read, estimated. None: not known."""

    rows: int | None
    bytes: int | None
    connections: int | None = None
    """How many may be held on the datasource at a time, by all jobs of this process together."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a guarantee depends on and no definition tells."""

    barrier: bool | None = None
    """Whether a commit barrier can be kept for the key; None where nobody asks for one."""
    view: bool = False
    """The table is a view: it may join and filter."""
    standby: bool = False
    """The source is a standby, and nobody tells of the writers on its primary."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the catalog says about a definition."""

    key: tuple[KeyColumn, ...]
    columns: tuple[str, ...]
    size: Size
    """Of what the definition lets through, from the beginning."""
    findings: tuple[Finding, ...]
    guarantee_note: str = ""
    """What the reading side can not promise in this mode, in one sentence; empty when nothing is to be said."""
    all_columns: tuple[TableColumn, ...] = ()
    """Those of the table or the query, whatever is selected."""
    index: str | None = None
    """What gives the rows in the key's order; None where the catalog knows of none, as for a query."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A transaction that may still commit a key at or below a candidate bound."""

    pid: int | None
    """None for a prepared transaction."""
    age_seconds: float | None
    query: str | None
    """60 characters, literals masked; None where the role may not see it."""


@dataclass(frozen=True, slots=True)
class Horizon:
    """How far the reader may go now, and what holds the next bound back."""

    bound: Key | None
    held_by: tuple[Holder, ...] = ()
    ahead_of_generator: int = 0


@dataclass(frozen=True, slots=True)
class SplitRange:
    """A key range: above `lower` (None: from the beginning), up to and with `upper` (None: without end)."""

    lower: Key | None
    upper: Key | None


@dataclass(frozen=True, slots=True)
class Plan:
    """The bounds and ranges of a generation or of a further run of it."""

    bound: Key | None
    """The largest key that the run reads; None when there is no row."""
    splits: tuple[SplitRange, ...]
    estimated_rows: int | None = None


@dataclass(slots=True)
class Page:
    """The rows of one short query, cut at whole rows, in key order."""

    values: list[bytes]
    """One encoded record a row, without a line end."""
    raw_keys: Sequence[bytes]
    """One a row: the key columns as the source sent them; `key` reads them."""
    message_keys: list[bytes | None] | None
    """The message key a row, where the sink asked for one."""
    size: int
    """Bytes: the sum of the lengths of `values`."""
    scanned_to: Key | None
    """Every row up to this key was looked at: the last row's key, or further where `where` leaves rows out."""
    end: bool
    """The range is exhausted at the moment of the query."""
    decode: Callable[[bytes], Key] = field(repr=False)

    def key(self, index: int) -> Key:
        """The key of row `index`."""
        return self.decode(self.raw_keys[index])


@dataclass(slots=True)
class KnownTables:
    """The tables whose rows were read so far, from run to run and from lease to lease: one that came meanwhile may hold
    rows at or below the position."""

    oids: frozenset[int] | None
    """None: nobody has kept them."""
    keep: Callable[[frozenset[int]], Awaitable[object]]
    """Told of others before anything is read under them."""


class Reader(Protocol):
    """Reads one split in key order; owns one connection, given back by `close`."""

    async def read(self, after: Key | None, upper: Key | None, *, max_rows: int | None = None) -> Page:
        """The next rows above `after` (None: from the range's beginning) and up to `upper` (None: no upper bound).

        One short read-only transaction; nothing is held between calls. At most `page_bytes` and `max_rows`, at least
        one row unless `end`. An empty page that is not `end` moves `scanned_to`.
        Raises Permanent `key_not_unique` when two rows have the same key, before either is given out.
        """

    async def one(self, key: Key) -> Page:
        """The row with this key as a page of its own, by itself; empty where there is none, or none that the definition
        lets through. Raises as `read`."""

    async def keys(self, after: Key | None, upper: Key) -> Page:
        """The next keys above `after` and up to `upper`, of whatever rows are there, as a page whose values are b"t"
        where the definition lets the row through. At least one unless `end`. Raises as `read`."""

    async def among(self, keys: Sequence[Key], after: Key | None = None) -> Page:
        """The rows that have one of these keys, above `after`: pages as `read` gives them. Raises as `read`."""

    async def close(self) -> None:
        """Give the connection back; cancels a running query. Never raises."""


class Frontier(Protocol):
    """The moving bound of a `continuous` job: a queue of candidates, one a poll
    (docs/decisions/0018-commit-barrier.md)."""

    async def advance(self) -> Horizon:
        """Draw a candidate when the last is old enough, let go of those that are final, and say how far it is safe
        to read. The bound never goes back. Raises Permanent `key_went_back`."""

    async def close(self) -> None:
        """Give the connection back. Never raises."""


class Snapshot(Protocol):
    """One moment of a source, held open for all who read it."""

    cut: Cut
    """What they enter it by."""

    async def over(self) -> RowferryError:
        """Returns when nobody can enter any more, with why: `snapshot_lost`, or `snapshot_expired` when it is as old as
        it may become."""

    async def close(self) -> None:
        """Let go of the moment and of its connection. Never raises; more often does nothing."""


class Source(Protocol):
    """One definition's source."""

    async def get_ready(self) -> None:
        """Connect and look at the catalog, so that what is asked next need not wait for it. May be cancelled; what it
        raises, the next call raises again."""

    async def inspect(self) -> Inspection:
        """Look at the catalog, change nothing. What makes a run impossible is a finding of severity `error`; raises
        only when the source can not be reached or asked."""

    async def facts(self) -> Facts:
        """What the job's guarantee depends on, by the catalog of now. Refuses (Permanent) what inspection calls an
        error."""

    async def columns(self, *, of_now: bool = False) -> Sequence[Column]:
        """What a row consists of, in order: for the generation that is planned. `of_now`: as if none were, whatever
        columns the generation has. Of a query the types are known without their modifiers. Refuses (Permanent) what
        inspection calls an error."""

    async def all_columns(self) -> Sequence[Column]:
        """What the source consists of, whatever a definition gives out of it, in order. Refuses (Permanent) only what
        keeps it from being looked at."""

    async def plan(
        self,
        lower: Key | None,
        splits: int | Callable[[Size], int],
        *,
        waiting: Callable[[Horizon | None], None],
        given_upper: Key | None = None,
        tables: KnownTables | None = None,
    ) -> Plan:
        """Bound and at most so many ranges above `lower`, as many as the size of what is to be read is worth where
        `splits` is asked about it. Passes the commit barrier where the mode asks for one, telling `waiting`
        what it waits for (None: no longer); waits without holding a transaction. Cancellation is safe at any time.
        Refuses (Permanent) what inspection calls an error, and in modes that follow a table one that is none of
        `tables` and holds rows at or below `lower` (`partition_attached`)."""

    def reader(self) -> Reader:
        """A reader for one split."""

    def frontier(self, position: Key | None = None, tables: KnownTables | None = None) -> Frontier:
        """The moving bound, for `continuous`; it begins at `position`, where reading stands. A sequence below it is
        Permanent `key_went_back` on the first `advance`, a table that is none of `tables` and holds rows at or below
        it `partition_attached`."""

    async def later(self, one: Key, other: Key) -> Key:
        """The larger of two keys, compared by Postgres with the key's own types and collations."""

    async def back(self, lower: Key | None, upper: Key, rows: int) -> Key | None:
        """The key above `lower` that has so many rows above it, up to `upper`, whatever `where` says of them; None
        where there are no more."""

    async def at_or_below(self, keys: Sequence[Key], bound: Key) -> list[bool]:
        """Of each key whether it is not above `bound`, compared as `later` does."""

    async def check_keys(self, keys: Sequence[Key]) -> None:
        """Raises Permanent `key_invalid`, naming the text and the type, unless every key can be read as the key's
        types and the keys are in increasing order."""

    async def lag(self, after: Key | None) -> tuple[int | None, float | None]:
        """Estimated rows above `after`, and the seconds by which the newest is ahead where a time column is known."""

    async def active_sessions(self) -> int:
        """Statements that others than this product's sessions run on the source's server now. Raises Permanent
        `load_not_visible` where the role may not see them."""

    async def now(self) -> datetime:
        """The source's clock."""

    async def close(self) -> None:
        """Give everything back. Never raises."""
