"""Whether the commit barrier can vouch for a source, and what no candidate may be above.

| the key's first column | its ceiling |
|---|---|
| numbered by sequences, provably | the smallest `last_value` of all that feed it |
| at the owner's word, with `barrier_sequences` | the smallest `last_value` of those |
| at the owner's word, a time set by the server | the server's clock, and the beginning of the oldest transaction |
| at the owner's word, anything else | none: the largest key there is |
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from service.domain.errors import Permanent
from workers.sources import catalog, origins
from workers.sources.origins import Origin
from workers.sources.queries import load
from workers.sources.sql import quote_literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from workers.sources.catalog import Member
    from workers.sources.definition import Definition
    from workers.sources.session import Session

CLOCK_MARGIN_SECONDS: Final = 0.25
"""A transaction has its time a moment before others can see that it has begun."""
NUMBERS: Final = frozenset({"smallint", "integer", "bigint", "numeric"})
TIMES: Final = frozenset({"timestamp with time zone", "timestamp without time zone"})
_NEXTVAL = r"^nextval\('(?:[^']|'')+'::regclass\)$"
_OWN_WORD = (
    "or, where its keys do rise in the order of commits, say so with options.key_is_monotonic (and barrier_sequences)"
)
REMEDY: Final = (
    "set options.safety to delay (with delay_seconds) or none, or options.late_window, and know what may be lost; key "
    f"the job by an identity column; {_OWN_WORD}"
)


@dataclass(frozen=True, slots=True)
class Word:
    """What the owner of a job says of its key."""

    monotonic: bool = False
    sequences: tuple[str, ...] = ()
    zone: str = "UTC"
    """In which the source writes times without a zone."""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What the first column of a candidate may not be above."""

    expression: str = ""
    """SQL for it; empty: nothing bounds it."""
    operator: str = "<="
    sequences: tuple[int, ...] = ()
    """Whoever draws from these may still write below it."""

    @property
    def numbered(self) -> bool:
        """It is a sequence's last value, which never goes back by itself."""
        return bool(self.sequences)


@dataclass(frozen=True, slots=True)
class Proof:
    """Nothing in `reasons`: the barrier holds for this source."""

    reasons: tuple[str, ...] = ()
    remedies: tuple[str, ...] = ()
    ceiling: Ceiling = Ceiling()
    key_alone: bool = False
    """Nothing stands against it but what numbers the key: a window may stand in for the barrier."""

    def refusal(self, what: str) -> Permanent:
        """The error that says all of it."""
        return Permanent(
            "safety_not_provable",
            f"safety commit can not be kept for {what}: {'; '.join(self.reasons)}",
            hint="; ".join((*self.remedies, REMEDY)),
        )


class _Reasons:
    """What stands against it, each once, with what helps."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def add(self, reason: str, remedy: str = "") -> None:
        self.found.setdefault(reason, remedy)

    def proof(self, ceiling: Ceiling, *, seen: bool) -> Proof:
        remedies = tuple(dict.fromkeys(remedy for remedy in self.found.values() if remedy))
        return Proof(tuple(self.found), remedies, ceiling, key_alone=seen and bool(self.found))


async def examine(
    session: Session, definition: Definition, members: Sequence[Member], word: Word, *, authority: Session
) -> Proof:
    """Look at everything that a job reads. `authority` is asked for writers and sequences: the source itself, or the
    primary of a standby. What nobody can see is refused whatever the owner says."""
    reasons = _Reasons()
    await _unseen(session, definition, members, reasons, authority)
    seen = not reasons.found
    generated, ceiling = await _generated(session, definition)
    if not generated.found:
        return reasons.proof(ceiling, seen=seen)
    if not word.monotonic:
        for reason, remedy in generated.found.items():
            reasons.add(reason, remedy)
        return reasons.proof(Ceiling(), seen=seen)
    return reasons.proof(await _at_your_word(session, definition, word, reasons, authority), seen=seen)


async def _unseen(
    session: Session, definition: Definition, members: Sequence[Member], reasons: _Reasons, authority: Session
) -> None:
    """Rows that come without a lock that could be waited for."""
    if await authority.fetchval("SELECT pg_is_in_recovery()"):
        reasons.add(
            "the datasource is a standby, where the locks of writers can not be seen",
            "name a datasource of the primary in `barrier` of this datasource",
        )
    for member in members:
        if member.subscribed:
            reasons.add(f"{member.name} is filled by a logical replication subscription", "read from the publisher")
        if member.kind == "f":
            reasons.add(
                f"{member.name} is a foreign table, whose writers can not be seen",
                "read it where it is, with a datasource of that server",
            )
        if member.kind == "m":
            reasons.add(f"{member.name} is a materialised view, whose rows come with REFRESH", "use mode full")
    scans = definition.query is not None and definition.query.function_scan
    for member in members:
        scans = scans or (member.kind == "v" and await origins.scans_functions(session, member.oid))
    if scans:
        reasons.add("it reads the rows of a function, whose sources can not be seen", "read the tables themselves")


async def _generated(session: Session, definition: Definition) -> tuple[_Reasons, Ceiling]:
    """Whether sequences number the key in a way that the locks show."""
    reasons, column = _Reasons(), definition.key.names[0]
    origin = await _origin(session, definition, column)
    if origin is None:
        what = "a view" if definition.query is None else "a query"
        with_what = [] if definition.query is None else origins.clauses(definition.query.text)
        reasons.add(
            f"it is {what}{' with ' + ', '.join(with_what) if with_what else ''}, whose {column} is not simply a column"
            " of one table",
            "read the table, or a query of its rows with JOIN and WHERE alone" if with_what else "",
        )
        return reasons, Ceiling()
    rows = await _feeds(session, origin)
    for row in rows:
        _judge(row, origin, reasons)
    return reasons, _of_sequences([row for row in rows if row["sequence"] is not None])


async def numbering(session: Session, definition: Definition) -> list[str]:
    """The sequences that number the key's first column, each in words; none where it is not a column of one table, or
    nothing numbers it."""
    origin = await _origin(session, definition, definition.key.names[0])
    rows = [] if origin is None else await _feeds(session, origin)
    told = {
        row["sequence_name"]: f"{row['sequence_name']} (cache {row['cache']}, increment {row['increment']},"
        f" {'owned by ' + row['owned_by'] if row['owned_by'] else 'owned by no column'})"
        for row in rows
        if row["sequence"] is not None
    }
    return list(told.values())


async def _feeds(session: Session, origin: Origin) -> list[asyncpg.Record]:
    """A row for each sequence behind a column, in each table of its tree."""
    members = await catalog.relation_set(session, (origin.relation,))
    return await session.fetch(load("feeds"), [member.oid for member in members], origin.column)


async def _origin(session: Session, definition: Definition, column: str) -> Origin | None:
    relation = definition.relation
    if relation is not None and relation.kind in {"r", "p"}:
        return Origin(relation.oid, column)
    if relation is not None and relation.kind == "v":
        return await origins.of_view(session, relation.oid, column)
    if definition.query is not None:
        return await origins.of_query(session, definition.query.text, column)
    return None


def _judge(row: asyncpg.Record, origin: Origin, reasons: _Reasons) -> None:
    """Why one sequence, or a column without one, does not number rows in a way that the locks show."""
    where = f"{origin.column} of {row['relation_name']}"
    if row["sequence"] is None:
        # a child without a default: its rows are numbered by the parent, or by hand
        if row["default_text"] or row["relation"] == origin.relation:
            reasons.add(f"{where} is neither an identity column nor numbered by nextval of a sequence")
        return
    name = row["sequence_name"]
    if row["default_text"] and not row["identity"] and not re.match(_NEXTVAL, row["default_text"]):
        reasons.add(f"the default of {where} is more than nextval of a sequence: {row['default_text']}")
    if row["cache"] != 1:
        reasons.add(
            f"sequence {name} has CACHE {row['cache']}: sessions keep numbers aside", f"ALTER SEQUENCE {name} CACHE 1"
        )
    if row["increment"] < 0 or row["cycle"]:
        reasons.add(f"sequence {name} does not only rise")
    if not row["readable"]:
        reasons.add(
            f"sequence {name} may not be read: GRANT SELECT ON SEQUENCE it to the role",
            f"GRANT SELECT ON SEQUENCE {name} TO the datasource's role",
        )


async def _at_your_word(
    session: Session, definition: Definition, word: Word, reasons: _Reasons, authority: Session
) -> Ceiling:
    """The owner says that keys only rise in the order of commits."""
    kind = definition.key.parts[0].type
    if word.sequences:
        if kind not in NUMBERS:
            reasons.add(f"barrier_sequences can not bound {definition.key.names[0]}, which is {kind}")
        rows = await session.fetch(load("named_sequences"), list(word.sequences))
        for row in rows:
            if row["sequence"] is None:
                reasons.add(f"barrier_sequences: there is no sequence {row['sequence_name']}", "write schema.sequence")
            elif not row["readable"]:
                reasons.add(f"sequence {row['sequence_name']} may not be read", "GRANT SELECT ON SEQUENCE it")
        return _of_sequences([row for row in rows if row["sequence"] is not None])
    if kind not in TIMES:
        return Ceiling()
    if not await authority.fetchval("SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')"):
        reasons.add(
            "the role does not see when transactions began, which a key of times depends on",
            "GRANT pg_read_all_stats TO the datasource's role",
        )
    clock = f"least(clock_timestamp() - interval '{CLOCK_MARGIN_SECONDS:g} seconds', ({load('oldest')}))"
    if kind == "timestamp without time zone":
        if _changes(word.zone):
            reasons.add(
                f"clocks of {word.zone} are set back each year: a time without a zone comes twice",
                "use timestamp with time zone, or a time_zone of the datasource without summer time",
            )
        clock = f"({clock}) AT TIME ZONE {quote_literal(word.zone)}"
    return Ceiling(clock, "<")


def _of_sequences(rows: Sequence[asyncpg.Record]) -> Ceiling:
    """The smallest value that any of them has given out. One that was never used, or was restarted, stands one step
    below its next value."""
    values = {}
    for row in rows:
        oid, name, step = row["sequence"], row["sequence_name"], row["increment"]
        values[oid] = (
            f"SELECT CASE WHEN is_called THEN last_value ELSE last_value - ({step}) END AS v FROM {name}"
            if row["selectable"]
            else "SELECT coalesce(pg_sequence_last_value(seqrelid::regclass), seqstart - seqincrement)"
            f" FROM pg_sequence WHERE seqrelid = {oid}"
        )
    union = " UNION ALL ".join(values.values())
    return Ceiling(f"(SELECT min(v) FROM ({union}) AS s (v))" if values else "", "<=", tuple(sorted(values)))


def _changes(zone: str) -> bool:
    """Whether clocks of a zone are set twice a year."""
    known = ZoneInfo(zone)
    year = datetime.now(UTC).year
    return len({datetime(year, month, 1, tzinfo=known).utcoffset() for month in range(1, 13)}) > 1
