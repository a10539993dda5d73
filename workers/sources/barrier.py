"""The commit barrier: how far it is safe to read while others write.

Ids commit out of the order they were drawn in. So a bound is only a candidate when it is drawn; *then* everybody is
listed who holds a lock that writing to the table, or drawing from its sequence, takes and keeps until the transaction
ends; when all of those have ended, every row up to the candidate is there or never will be. No transaction of ours is
open meanwhile.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.domain.errors import Permanent
from workers.sources import catalog
from workers.sources.base import Holder, Horizon
from workers.sources.queries import load

if TYPE_CHECKING:
    from collections.abc import Callable

    import asyncpg

    from workers.sources.base import Key
    from workers.sources.catalog import Member
    from workers.sources.connection import Session
    from workers.sources.definition import Definition

_FIRST_POLL_SECONDS = 0.05
_LAST_POLL_SECONDS = 0.25
_MOST_CANDIDATES = 64
"""More would only make the list longer while somebody holds the first."""
_AHEAD_COUNTED = 1000
_NEXTVAL = re.compile(r"^nextval\('(?:[^']|'')+'::regclass\)$")
_BEFORE_RESTART = "-1/"
"""Virtual transaction of one prepared before the server restarted, or on a server that forgets the session's: it may
be any of those we wait for, so it holds every candidate."""
_REMEDY = (
    "set options.safety to delay (with delay_seconds) or none, and know what may be lost; "
    "or key the job by an identity column"
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A bound, and who may still write below it."""

    bound: Key
    holders: frozenset[str]
    drawn_at: float


@dataclass(frozen=True, slots=True)
class Drawn:
    """What the source holds now."""

    key: Key | None
    """The largest that may become a bound."""
    ahead: int = 0
    """Rows above the key's sequence, counted up to 1,000."""


class Barrier:
    """Draws candidates and watches their holders. `generated`: a candidate is never above the key's sequences, which
    must be provable; otherwise it is the largest key there is."""

    def __init__(self, session: Session, definition: Definition, *, generated: bool) -> None:
        self._session = session
        self._definition = definition
        self._generated = generated
        self._members: tuple[Member, ...] = ()
        self._sequences: tuple[int, ...] = ()
        self._activity_at = 0.0
        self._activity: dict[int, tuple[float | None, str | None]] = {}

    async def refresh(self) -> None:
        """Look the relation set up anew: a partition may have come. Raises Permanent `safety_not_provable`."""
        members = await catalog.relation_set(self._session, self._definition.relations)
        if members == self._members:
            return
        if self._generated:
            reasons, self._sequences = await provable(self._session, self._definition, members)
            if reasons:
                raise Permanent("safety_not_provable", _refusal(self._definition, reasons), hint=_REMEDY)
        self._members = members

    async def draw(self, position: Key | None) -> Drawn:
        """The largest key above `position` that may become a bound. Raises Permanent `key_went_back`."""
        await self.refresh()
        return await (self._below_sequences(position) if self._generated else self._largest(position))

    async def _largest(self, position: Key | None) -> Drawn:
        key = self._definition.key
        query = self._definition.rows_sql(key.texts(), position, None, order=key.order("DESC"), filtered=False)
        row = await self._session.fetchrow(f"{query} LIMIT 1")
        return Drawn(None if row is None else tuple(row.values()))

    async def _below_sequences(self, position: Key | None) -> Drawn:
        key, source = self._definition.key, self._definition.source_sql
        column = key.columns()[0]
        back = f"last < {key.literal(0, position[0])}" if position else "false"
        above = "".join(f" AND {condition}" for condition in key.between(position, None))
        row = await self._session.fetchrow(
            "WITH drawn AS MATERIALIZED (SELECT coalesce(CASE WHEN bool_and(v IS NOT NULL) THEN min(v) END,"
            " -9223372036854775808) AS last FROM (SELECT pg_sequence_last_value(oid::regclass) AS v"
            " FROM unnest($1::int8[]::oid[]) AS oid) AS s)"
            f" SELECT {back} AS went_back, drawn.last::text AS last,"
            f" (SELECT count(*) FROM (SELECT FROM {source} WHERE {column} > (SELECT last FROM drawn)"
            f" LIMIT {_AHEAD_COUNTED}) AS a) AS ahead, k.*"
            f" FROM drawn LEFT JOIN (SELECT {key.texts()} FROM {source}"
            f" WHERE {column} <= (SELECT last FROM drawn){above}"
            f" ORDER BY {key.order('DESC')} LIMIT 1) AS k ON true",
            list(self._sequences),
        )
        assert row is not None
        went_back, last, ahead, *texts = row.values()
        if went_back and position:
            raise Permanent(
                "key_went_back",
                f"{self._definition.what}: the sequence of {key.names[0]} stands at {last}, below the position"
                f" {position[0]}: rows it numbers from now on would be taken for delivered",
                hint="after RESTART, setval or CYCLE: put the checkpoint below the new keys, or start from=beginning",
            )
        return Drawn(None if texts[0] is None else tuple(texts), ahead)

    async def holders(self) -> dict[str, int | None]:
        """Who may write now, by virtual transaction, with the pid."""
        oids = [member.oid for member in self._members] + list(self._sequences)
        rows = await self._session.fetch(load("holders"), oids)
        return {row["vxid"]: row["pid"] for row in rows}

    async def described(self, holders: dict[str, int | None]) -> tuple[Holder, ...]:
        """Holders as they are shown to a person; looked up at most once a second."""
        now = time.monotonic()
        pids = [pid for pid in holders.values() if pid is not None]
        if now - self._activity_at > 1 or not set(pids) <= self._activity.keys():
            rows = await self._session.fetch(load("activity"), pids)
            self._activity = {row["pid"]: (row["age_seconds"], masked(row["query"])) for row in rows}
            self._activity_at = now
        return tuple(
            Holder(pid, *self._activity.get(pid or 0, (None, None))) for pid in sorted(holders.values(), key=_last)
        )

    async def wait(self, waiting: Callable[[Horizon | None], None]) -> None:
        """Until everybody has ended who may write at this moment. Holds no transaction between its looks."""
        awaited = frozenset(await self.holders())
        poll = _FIRST_POLL_SECONDS
        told = False
        try:
            while awaited:
                now = await self.holders()
                left = still_held(awaited, now)
                if not left:
                    return
                waiting(Horizon(None, await self.described(left)))
                told = True
                await asyncio.sleep(poll)
                poll = min(_LAST_POLL_SECONDS, poll * 1.5)
        finally:
            if told:
                waiting(None)


class CommitFrontier:
    """The moving bound: a queue of candidates, one a poll, let go from the front.

    Virtual transactions keep their names however often our own connection is opened anew. A restart of the server
    ends all of them but the prepared ones, and those hold every candidate.
    """

    def __init__(self, barrier: Barrier, position: Key | None) -> None:
        self._barrier = barrier
        self._bound = position
        self._queue: deque[Candidate] = deque()

    async def advance(self) -> Horizon:
        """One look: three short statements, two when nothing was written."""
        newest = self._queue[-1].bound if self._queue else self._bound
        drawn = await self._barrier.draw(newest)
        if drawn.key is None and not self._queue:
            return Horizon(self._bound, (), drawn.ahead)
        now = await self._barrier.holders()
        if drawn.key is not None and len(self._queue) < _MOST_CANDIDATES:
            self._queue.append(Candidate(drawn.key, frozenset(now), time.monotonic()))
        while self._queue and not still_held(self._queue[0].holders, now):
            self._bound = self._queue.popleft().bound
        if not self._queue:
            return Horizon(self._bound, (), drawn.ahead)
        held = await self._barrier.described(still_held(self._queue[0].holders, now))
        return Horizon(self._bound, held, drawn.ahead)

    async def close(self) -> None:
        """Nothing is held."""


class DelayFrontier:
    """A candidate is final a fixed time after it was drawn; zero: at once."""

    def __init__(
        self, barrier: Barrier, position: Key | None, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._barrier = barrier
        self._bound = position
        self._seconds = seconds
        self._clock = clock
        self._queue: deque[Candidate] = deque()

    async def advance(self) -> Horizon:
        """One look at the largest key."""
        newest = self._queue[-1].bound if self._queue else self._bound
        # the candidates of a long delay would pile up: one for each 64th of it is enough
        if not self._queue or self._clock() - self._queue[-1].drawn_at >= self._seconds / _MOST_CANDIDATES:
            drawn = await self._barrier.draw(newest)
            if drawn.key is not None:
                self._queue.append(Candidate(drawn.key, frozenset(), self._clock()))
        while self._queue and self._clock() - self._queue[0].drawn_at >= self._seconds:
            self._bound = self._queue.popleft().bound
        return Horizon(self._bound)

    async def close(self) -> None:
        """Nothing is held."""


async def provable(
    session: Session, definition: Definition, members: tuple[Member, ...]
) -> tuple[list[str], tuple[int, ...]]:
    """Why the commit barrier can not vouch for this source (empty: it can), and the sequences that feed its key."""
    relation = definition.relation
    if relation is None or relation.kind not in {"r", "p"}:
        kinds = {"v": "a view", "m": "a materialised view", "f": "a foreign table"}
        return [f"it is {kinds[relation.kind] if relation else 'a query'}, not a table"], ()
    reasons = []
    if await session.fetchval("SELECT pg_is_in_recovery()"):
        reasons.append("the datasource is a standby, where the locks of writers can not be seen")
    for member in members:
        if member.subscribed:
            reasons.append(f"{member.name} is filled by a logical replication subscription")
        if member.kind == "f":
            reasons.append(f"{member.name} is a foreign table, whose writers can not be seen")
    column = definition.key.names[0]
    rows = await session.fetch(load("feeds"), [member.oid for member in members], column)
    for row in rows:
        reasons += _feed_reasons(row, column, relation.oid)
    sequences = {row["sequence"] for row in rows if row["sequence"] is not None}
    return list(dict.fromkeys(reasons)), tuple(sorted(sequences))


def _feed_reasons(row: asyncpg.Record, column: str, relation: int) -> list[str]:
    """Why one sequence, or a column without one, does not number rows in a way the locks show."""
    where = f"{column} of {row['relation_name']}"
    if row["sequence"] is None:
        if row["default_text"] or row["relation"] == relation:
            return [f"{where} is neither an identity column nor numbered by nextval of a sequence"]
        return []  # a child without a default: its rows are numbered by the parent, or by hand
    reasons = []
    if row["default_text"] and not row["identity"] and not _NEXTVAL.match(row["default_text"]):
        reasons.append(f"the default of {where} is more than nextval of a sequence: {row['default_text']}")
    if row["cache"] != 1:
        reasons.append(f"sequence {row['sequence_name']} has CACHE {row['cache']}: sessions keep numbers aside")
    if row["increment"] < 0 or row["cycle"]:
        reasons.append(f"sequence {row['sequence_name']} does not only rise")
    if not row["readable"]:
        reasons.append(f"sequence {row['sequence_name']} may not be read: GRANT SELECT ON SEQUENCE it to the role")
    return reasons


def still_held(awaited: frozenset[str], now: dict[str, int | None]) -> dict[str, int | None]:
    """Of the awaited, those that have not ended."""
    return {vxid: pid for vxid, pid in now.items() if vxid in awaited or vxid.startswith(_BEFORE_RESTART)}


def masked(query: str | None) -> str | None:
    """60 characters of a statement, its literals hidden."""
    if not query or query.startswith("<insufficient privilege>"):
        return None
    text = re.sub(r"\$(\w*)\$.*?(\$\1\$|$)", "?", query, flags=re.DOTALL)
    text = re.sub(r"'(?:[^']|'')*(?:'|$)", "?", text)
    text = re.sub(r"(?<![\w$])[-+]?\d[\w.]*", "?", text)
    return " ".join(text.split())[:60]


def refusal(definition: Definition, reasons: list[str]) -> tuple[str, str]:
    """Message and remedy of `safety_not_provable`."""
    return _refusal(definition, reasons), _REMEDY


def _refusal(definition: Definition, reasons: list[str]) -> str:
    return f"safety commit can not be kept for {definition.what}: {'; '.join(reasons)}"


def _last(pid: int | None) -> int:
    return pid if pid is not None else 2**31
