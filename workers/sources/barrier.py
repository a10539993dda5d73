"""The commit barrier: how far it is safe to read while others write.

Ids commit out of the order they were drawn in. So a bound is only a candidate when it is drawn; *then* everybody is
listed who holds a lock that writing to the table, or drawing from its sequence, takes and keeps until the transaction
ends; when all of those have ended, every row up to the candidate is there or never will be. No transaction of ours is
open meanwhile.

On a standby neither locks nor sequences can be seen: the primary (`authority`) is asked for them, and a candidate is
final when the standby has replayed what the primary had written by the time the last of its holders had ended.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

import structlog

from config.names import LogEvent
from service.domain.errors import Permanent, Transient
from workers.sources import catalog
from workers.sources.base import Holder, Horizon
from workers.sources.proof import Ceiling, Word, examine
from workers.sources.queries import load
from workers.sources.sql import quote_literal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from workers.sources.base import Key, KnownTables
    from workers.sources.catalog import Member
    from workers.sources.definition import Definition
    from workers.sources.session import Session

_FIRST_POLL_SECONDS = 0.05
_LAST_POLL_SECONDS = 0.25
_AHEAD_COUNTED = 1000
_HOLD_ROWS = frozenset({"r", "f"})
"""Kinds of the tables whose rows are read; the others only name them."""
_BEFORE_RESTART = "-1/"
"""Virtual transaction of one prepared before the server restarted, or on a server that forgets the session's: it may
be any of those we wait for, so it holds every candidate."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Drawn:
    """What the source holds now."""

    key: Key | None
    """The largest that may become a bound."""
    ahead: int = 0
    """Rows above the key's ceiling, counted up to 1,000."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the options of a job say about its barrier."""

    word: Word | None
    """None: candidates are the largest keys, whatever numbers them."""
    timeout_seconds: float | None = None
    """How long a candidate may be held."""
    follows: bool = True
    """The position moves on from run to run, so a table that comes with rows below it is told of, whatever the safety
    is: nobody would read them."""
    looks_back: bool = False
    """`options.late_window` finds rows behind the position, of those that are within it."""


class Barrier:
    """Draws candidates and watches their holders."""

    def __init__(
        self,
        session: Session,
        definition: Definition,
        rules: Rules,
        *,
        authority: Session | None = None,
        tables: KnownTables | None = None,
    ) -> None:
        """`authority` knows the writers where `session` is of a standby. `tables`: what was read before."""
        self._tables = tables
        self._session = session
        self._authority = authority or session
        self._definition = definition
        self._rules = rules
        self._members: tuple[Member, ...] = ()
        self._ceiling = Ceiling()
        self._highest: int | None = None
        self._activity_at = 0.0
        self._activity: dict[int, tuple[float | None, str | None]] = {}

    async def refresh(self, final: Key | None = None) -> None:
        """Look the relation set up anew: a partition may have come, and with it rows at or below `final`. Raises
        Permanent `safety_not_provable`, `partition_attached`."""
        members = await catalog.relation_set(self._session, self._definition.relations)
        if members == self._members:
            return
        if self._rules.word is not None:
            proof = await examine(self._session, self._definition, members, self._rules.word, authority=self._authority)
            if proof.reasons:
                raise proof.refusal(self._definition.what)
            self._ceiling = proof.ceiling
        if self._rules.follows:
            await self._compare(members, final)
        self._members = members

    async def _compare(self, members: Sequence[Member], final: Key | None) -> None:
        """Tell of tables that came or went since the last look: our own, or that of who read before us."""
        before = {member.oid for member in self._members}
        now = frozenset(member.oid for member in members if member.kind in _HOLD_ROWS)
        if not before and self._tables is not None:
            before = set(self._tables.oids or ())
        if self._tables is not None and self._tables.oids != now:
            await self._tables.keep(now)
            self._tables.oids = now
        if not before:
            return
        if gone := before - {member.oid for member in members}:
            rows = await self._session.fetch(load("names"), sorted(gone))
            for row in rows:
                log.warning(LogEvent.PARTITION_DETACHED, table=row["name"])
        for member in members:
            if member.oid in now - before and final is not None:
                await self._came(member, final)

    async def _came(self, member: Member, final: Key) -> None:
        """A partition or child that was not there before."""
        rows = None
        if self._definition.relation is not None:
            try:
                rows = await self._below(member.name, final)
            except Permanent as error:
                if error.code != "permission_denied":
                    raise
                rows = await self._below_through_parent(member, final)
        log.warning(LogEvent.PARTITION_ATTACHED, table=member.name, rows_below=rows)
        if rows:
            passed_over = "starting again passes them over"
            if self._rules.looks_back:
                passed_over += ", but for those that options.late_window still reaches"
            raise Permanent(
                "partition_attached",
                f"{self._definition.what}: {member.name} was attached with {rows} rows (counted to {_AHEAD_COUNTED:,})"
                f" at or below {', '.join(final)}, which is read already: they would be passed over",
                hint=f"deliver them by a checkpoint below them or a job of their own; {passed_over}",
            )

    async def _below(self, table: str, final: Key, condition: str = "true") -> int:
        """Rows of a table at or below `final`, counted up to 1,000."""
        key, name = self._definition.key, self._definition.qualifier
        rows: int = await self._session.fetchval(
            f"SELECT count(*) FROM (SELECT FROM {table} AS {name} WHERE ({condition}) AND {key.compared('<=', final)}"
            f" LIMIT {_AHEAD_COUNTED}) AS a"
        )
        return rows

    async def _below_through_parent(self, member: Member, final: Key) -> int | None:
        """Who reads the whole table may read no part of it by itself: the part's own bounds choose it out of the whole.
        None where it has none, or where that takes too long."""
        bounds = await self._session.fetchval("SELECT pg_get_partition_constraintdef($1)", member.oid)
        if bounds is None:
            return None
        try:
            return await self._below(self._definition.source_sql, final, bounds)
        except Transient as error:
            if error.code != "source_timeout":
                raise
            return None

    async def draw(self, position: Key | None, final: Key | None = None) -> Drawn:
        """The largest key above `position` that may become a bound. `final`: up to where everything counts as read.
        Raises Permanent `key_went_back`, and what `refresh` raises."""
        await self.refresh(final)
        return await (self._below_ceiling(position) if self._ceiling.expression else self._largest(position))

    async def _largest(self, position: Key | None) -> Drawn:
        key = self._definition.key
        query = self._definition.rows_sql(key.texts(), position, None, order=key.order("DESC"), filtered=False)
        row = await self._session.fetchrow(f"{query} LIMIT 1")
        return Drawn(None if row is None else tuple(row.values()))

    async def _below_ceiling(self, position: Key | None) -> Drawn:
        key, source, ceiling = self._definition.key, self._definition.source_sql, self._ceiling
        column = key.columns()[0]
        expression = await self._ceiling_now()
        above = "".join(f" AND {condition}" for condition in key.between(position, None))
        beyond = ">" if ceiling.operator == "<=" else ">="
        row = await self._session.fetchrow(
            f"WITH drawn AS MATERIALIZED (SELECT {expression} AS last)"
            f" SELECT drawn.last::text AS last, (SELECT count(*) FROM (SELECT FROM {source}"
            f" WHERE {column} {beyond} (SELECT last FROM drawn) LIMIT {_AHEAD_COUNTED}) AS a) AS ahead, k.*"
            f" FROM drawn LEFT JOIN (SELECT {key.texts()} FROM {source}"
            f" WHERE {column} {ceiling.operator} (SELECT last FROM drawn){above}"
            f" ORDER BY {key.order('DESC')} LIMIT 1) AS k ON true"
        )
        assert row is not None
        last, ahead, *texts = row.values()
        if ceiling.numbered:
            self._refuse_going_back(int(last), position)
        return Drawn(None if texts[0] is None else tuple(texts), ahead)

    async def _ceiling_now(self) -> str:
        """SQL for the ceiling; of a standby the primary's answer."""
        if self._authority is self._session:
            return self._ceiling.expression
        text = await self._authority.fetchval(f"SELECT ({self._ceiling.expression})::text")
        kind = "bigint" if self._ceiling.numbered else self._definition.key.parts[0].type
        return f"{quote_literal(text)}::{kind}"

    def _refuse_going_back(self, last: int, position: Key | None) -> None:
        """A sequence that stands below what it has numbered will number it again."""
        reached = last if position is None else Decimal(position[0])
        if last < max(self._highest or last, reached):
            raise Permanent(
                "key_went_back",
                f"{self._definition.what}: the sequence of {self._definition.key.names[0]} stands at {last}, below the"
                f" position {max(self._highest or last, reached)}: rows it numbers from now on would be taken for"
                " delivered",
                hint="after RESTART, setval or CYCLE: put the checkpoint below the new keys, or start from=beginning",
            )
        self._highest = last

    async def holders(self) -> dict[str, int | None]:
        """Who may write now, by virtual transaction, with the pid."""
        oids = [*(member.oid for member in self._members), *self._ceiling.sequences]
        rows = await self._authority.fetch(load("holders"), oids)
        return {row["vxid"]: row["pid"] for row in rows}

    async def described(self, holders: dict[str, int | None]) -> tuple[Holder, ...]:
        """Holders as they are shown to a person; looked up at most once a second."""
        now = time.monotonic()
        pids = [pid for pid in holders.values() if pid is not None]
        if now - self._activity_at > 1 or not set(pids) <= self._activity.keys():
            rows = await self._authority.fetch(load("activity"), [str(pid) for pid in pids])
            self._activity = {row["pid"]: (row["age_seconds"], masked(row["query"])) for row in rows}
            self._activity_at = now
        return tuple(
            Holder(pid, *self._activity.get(pid or 0, (None, None))) for pid in sorted(holders.values(), key=_last)
        )

    async def written(self) -> str | None:
        """How far the primary has written by now; None where the source is the primary itself."""
        if self._authority is self._session:
            return None
        return str(await self._authority.fetchval("SELECT pg_current_wal_insert_lsn()::text"))

    async def replayed(self, written: str | None) -> bool:
        """Whether the source shows everything that was `written`."""
        return written is None or bool(
            await self._session.fetchval("SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", written)
        )

    async def wait(self, waiting: Callable[[Horizon | None], None]) -> None:
        """Until everybody has ended who may write at this moment, and the source shows it. Holds no transaction
        between its looks. Raises Permanent `barrier_timeout`."""
        awaited = frozenset(await self.holders())
        poll, told, began = _FIRST_POLL_SECONDS, False, time.monotonic()
        written = None if awaited else await self.written()
        try:
            while True:
                held: tuple[Holder, ...] = ()
                if awaited:
                    left = still_held(awaited, await self.holders())
                    if left:
                        held = await self.described(left)
                    else:
                        awaited, written = frozenset(), await self.written()
                if not awaited and await self.replayed(written):
                    return
                waiting(Horizon(None, held))
                told = True
                self.refuse_waiting(began, held)
                await asyncio.sleep(poll)
                poll = min(_LAST_POLL_SECONDS, poll * 1.5)
        finally:
            if told:
                waiting(None)

    def refuse_waiting(self, since: float, held: tuple[Holder, ...]) -> None:
        """Raises Permanent `barrier_timeout` when a candidate has been held for too long."""
        limit = self._rules.timeout_seconds
        if limit is None or time.monotonic() - since <= limit:
            return
        who = ", ".join("a prepared transaction" if one.pid is None else f"pid {one.pid}" for one in held)
        raise Permanent(
            "barrier_timeout",
            f"{self._definition.what}: rows have waited for over {limit:g} s (options.barrier_timeout_seconds) for the"
            f" end of {who or 'the replay on the standby'}",
            hint="end those transactions if they were forgotten, or raise options.barrier_timeout_seconds, and start",
        )


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


def _last(pid: int | None) -> int:
    return pid if pid is not None else 2**31
