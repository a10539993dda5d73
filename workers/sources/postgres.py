"""The Postgres source: one definition, one connection that is opened when needed.

Reader, frontier and questions share the connection, one statement at a time: a job never waits for a second connection
while it holds a first.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import structlog

from config.names import LogEvent
from service.domain.errors import Permanent
from service.domain.inspection import Finding, TableColumn
from workers.sources import catalog, drift, failures, key_reader, snapshot
from workers.sources.base import Inspection, Plan, Size, SourceChanged, SplitRange
from workers.sources.checks import check_datasource
from workers.sources.connection import STATEMENT_SECONDS, Session
from workers.sources.cut_reader import CutReader, Tables
from workers.sources.definition import MessageKey
from workers.sources.estimate import estimate
from workers.sources.lag import lag
from workers.sources.outlook import load_not_visible, slow_beginning, unseen_holders
from workers.sources.queries import load
from workers.sources.reader import PostgresReader
from workers.sources.resolver import Resolver
from workers.sources.safety import Safety
from workers.sources.shaping import SALT_SETTING
from workers.sources.splits import split

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from service.domain.datasource import Datasource
    from service.domain.errors import RowferryError
    from service.domain.spec import Options, SourceSpec
    from sinks.formats.columns import Column
    from sinks.guarded import Guard
    from workers.sources.base import Facts, Frontier, Horizon, Key, KnownTables
    from workers.sources.budget import ConnectionBudget
    from workers.sources.csv_page import Dialect
    from workers.sources.cut import Cut
    from workers.sources.definition import Definition

__all__ = ["PostgresSource", "check_datasource"]

log = structlog.get_logger(__name__)

_LONG_SECONDS = 300.0
"""A statement of a query whose owner said `allow_long_statements`."""

_MOST_LOOKS = 4
"""At a table that is changed while it is looked at."""


class PostgresSource:
    """The Source over one Postgres datasource. `waiting` is told when a connection has to be waited for."""

    def __init__(
        self,
        datasource: Datasource,
        spec: SourceSpec,
        *,
        mode: str,
        options: Options,
        message_key: Sequence[str] | None,
        message_key_field: str = "key",
        application_name: str,
        connections: ConnectionBudget,
        csv: Dialect | None = None,
        columns: Sequence[Column] = (),
        renews: bool = False,
        salts: Mapping[str, str] | None = None,
        origin: Mapping[str, object] | None = None,
        guard: Guard | None = None,
        waiting: Callable[[bool], None] | None = None,
        cut: Cut | None = None,
    ) -> None:
        """`csv`: rows are CSV records, else JSON. `columns`: those that the generation was planned with; `renews`: who
        reads begins anew where they change and the job goes on. `salts`: of each credential that a mask names.
        `origin`: what the step says of itself in an envelope; None: rows are bare. `cut`: the moment whose rows these
        are; None: each page shows its own."""
        self._salts = {name: SALT_SETTING.format(number) for number, name in enumerate(sorted(salts or {}))}
        private = {self._salts[name]: salt for name, salt in (salts or {}).items()}
        self._datasource = datasource = replace(datasource, private=private)
        self._spec, self._csv, self._origin = spec, csv, origin
        self._columns, self._renews = columns, renews
        self._options = options
        self._connections = connections.limit(datasource)
        self._message_key = MessageKey(tuple(message_key or ()), f"/sink/{message_key_field}")
        long = options.allow_long_statements and (spec.query is not None or options.key_is_unique)
        session = partial(
            Session, application_name=application_name, connections=connections, guard=guard, waiting=waiting
        )
        self._session = session(
            datasource,
            seconds=_LONG_SECONDS if long else STATEMENT_SECONDS,
            long_is_permanent=spec.query is not None,
            row_security=options.row_security,
            cut=cut,
        )
        self._tables = None if cut is None else Tables(self._session)
        self._session.what = spec.table or "the query"
        self._authority = self._session
        if datasource.barrier is not None:
            self._authority = session(datasource.barrier)
            self._authority.what = f"{self._session.what}, barrier datasource {datasource.barrier.name!r}"
        self._safety = Safety(
            self._session, self._authority, options=options, mode=mode, zone=datasource.time_zone or "UTC"
        )
        self._definition: Definition | None = None
        self._resolving = asyncio.Lock()

    async def get_ready(self) -> None:
        """See the protocol."""
        await self._resolved()

    async def inspect(self) -> Inspection:
        """See the protocol."""
        definition = await self._resolved()
        findings = list(definition.findings)
        size = Size(None, None)
        if not definition.refused:
            findings += await self._safety.findings(definition)
            findings += self._shape_findings(definition)
            if not any(finding.severity == "error" for finding in findings):
                size = await estimate(self._session, definition, None, None)
                findings += await self._outlook(definition, size)
        return Inspection(
            tuple(part.public for part in definition.key.parts),
            tuple(column.name for column in definition.columns),
            size,
            tuple(findings),
            self._safety.note(definition) if not definition.refused else "",
            tuple(TableColumn(one.name, one.type, not one.not_null) for one in definition.columns),
            definition.index,
        )

    async def _outlook(self, definition: Definition, size: Size) -> list[Finding]:
        """What may be slow, and what a person will not see."""
        found = []
        if self._options.ease is not None and await self._session.fetchval(load("active_sessions")) is None:
            found.append(load_not_visible(self._datasource))
        if not self._options.allow_long_statements:
            found += await slow_beginning(self._session, definition, size, self._options.max_row_bytes)
        if self._options.safety.kind == "commit":
            found += await unseen_holders(self._session, self._datasource, "/source/datasource")
        if self._options.snapshot:
            seconds = self._options.snapshot_max_age_seconds
            found += await snapshot.findings(self._session, self._datasource, self._connections, seconds)
        return found

    async def facts(self) -> Facts:
        """See the protocol."""
        return await self._safety.facts(await self._required())

    async def columns(self, *, of_now: bool = False) -> tuple[Column, ...]:
        """See the protocol."""
        definition = await (self._resolve(()) if of_now else self._resolved())
        definition.require()
        return tuple(one.column.exact for one in definition.outputs)

    async def all_columns(self) -> tuple[Column, ...]:
        """See the protocol."""
        definition = await self._resolved()
        if not definition.columns:
            definition.require()
        return _exact(definition)

    async def plan(
        self,
        lower: Key | None,
        splits: int | Callable[[Size], int],
        *,
        waiting: Callable[[Horizon | None], None],
        given_upper: Key | None = None,
        tables: KnownTables | None = None,
    ) -> Plan:
        """See the protocol. With `given_upper` the bound was taken, and its barrier passed, before."""
        definition = await self._required()
        await self._safety.refuse(definition)
        await self._refuse_null_keys(definition)
        bound = given_upper or await self._safety.bound(definition, lower, waiting, tables)
        if self._tables is not None:  # an emptied table has no bound
            await self._tables.look(definition)
        if bound is None:
            return Plan(None, (), 0)
        ranges: list[SplitRange] = [SplitRange(lower, bound)]
        size = await estimate(self._session, definition, lower, bound)
        if self._spec.limit is None:
            if not isinstance(splits, int):  # rows that `where` leaves out are work too
                whole = await estimate(self._session, definition, lower, bound, filtered=False)
                splits = splits(replace(whole, connections=self._connections))
            ranges = await split(self._session, definition, lower, bound, splits)
        return Plan(bound, tuple(ranges), size.rows)

    def reader(self) -> PostgresReader:
        """See the protocol."""
        made = PostgresReader if self._tables is None else partial(CutReader, self._tables)
        return made(
            self._session,
            self._required,
            page_bytes=self._options.page_bytes,
            max_row_bytes=self._options.max_row_bytes,
            single_row_seconds=self._options.single_row_timeout_seconds,
            changed=self._changed,
        )

    def frontier(self, position: Key | None = None, tables: KnownTables | None = None) -> _LazyFrontier:
        """See the protocol."""
        return _LazyFrontier(self, position, tables)

    async def make_frontier(self, position: Key | None, tables: KnownTables | None) -> Frontier:
        """The frontier that `safety` asks for."""
        return await self._safety.frontier(await self._required(), position, tables)

    async def lost(self, cause: Permanent) -> None:
        """A statement that is no page met a change: raises what a page would, with the change named."""
        if cause.code == failures.SCHEMA_CHANGED and self._definition is not None:
            await self._changed(self._definition, cause)
            raise SourceChanged from cause

    async def later(self, one: Key, other: Key) -> Key:
        """See the protocol."""
        key = (await self._required()).key
        return one if await self._session.fetchval(f"SELECT {key.row(one)} >= {key.row(other)}") else other

    async def back(self, lower: Key | None, upper: Key, rows: int) -> Key | None:
        """See the protocol."""
        return await key_reader.back(self._session, await self._required(), lower, upper, rows)

    async def at_or_below(self, keys: Sequence[Key], bound: Key) -> list[bool]:
        """See the protocol."""
        return await key_reader.at_or_below(self._session, (await self._required()).key, keys, bound)

    async def check_keys(self, keys: Sequence[Key]) -> None:
        """See the protocol."""
        definition = await self._required()
        parts = definition.key.parts
        for key in keys:
            if len(key) != len(parts):
                raise Permanent(
                    "key_invalid",
                    f"{definition.what}: {list(key)} has {len(key)} values, the key has {len(parts)}",
                    hint=f"the key is ({', '.join(definition.key.names)})",
                )
            for index, text in enumerate(key):
                await self._check_text(definition, index, text)
        for one, other in pairwise(keys):
            if not await self._session.fetchval(f"SELECT {definition.key.row(one)} < {definition.key.row(other)}"):
                raise Permanent(
                    "key_invalid", f"{definition.what}: the keys {list(one)} and {list(other)} are not in rising order"
                )

    async def _check_text(self, definition: Definition, index: int, text: str) -> None:
        part = definition.key.parts[index]
        try:
            await self._session.fetchval(f"SELECT {definition.key.value(index, text)}::text")
        except (Permanent, ValueError) as error:
            state = failures.sqlstate(error.__cause__) if error.__cause__ else "22"
            if state is not None and state.startswith("22"):
                raise Permanent(
                    "key_invalid", f"{definition.what}: {text!r} can not be read as {part.type} ({part.name})"
                ) from error
            raise

    async def lag(self, after: Key | None) -> tuple[int | None, float | None]:
        """See the protocol."""
        return await lag(self._session, await self._required(), self._spec.time, after)

    async def active_sessions(self) -> int:
        """See the protocol."""
        active: int | None = await self._session.fetchval(load("active_sessions"))
        if active is None:
            finding = load_not_visible(self._datasource)
            raise Permanent(finding.code, finding.message, hint=finding.hint)
        return active

    async def now(self) -> datetime:
        """See the protocol."""
        moment: datetime = await self._session.fetchval("SELECT clock_timestamp()")
        return moment

    async def close(self) -> None:
        """See the protocol."""
        await self._session.close()
        if self._authority is not self._session:
            await self._authority.close()

    async def _resolved(self) -> Definition:
        async with self._resolving:
            if self._definition is None:
                definition = await self._resolve(self._columns if self._csv is not None else ())
                if not definition.refused:
                    definition.guard = await drift.guard(self._session, definition)
                self._definition = definition
                self._session.what = self._definition.what
                self._session.reading = True
                if self._definition.unwalked:
                    self._session.long_is_permanent = True
            return self._definition

    async def _resolve(self, fixed: Sequence[Column]) -> Definition:
        """The definition, looked up anew where the table was changed between two looks at it."""
        for _ in range(_MOST_LOOKS):
            definition = await self._resolve_once(fixed)
            relation = definition.relation
            if not definition.refused or relation is None:
                break
            if await catalog.columns_of(self._session, relation.oid) == definition.columns:
                break
        return definition

    async def _resolve_once(self, fixed: Sequence[Column]) -> Definition:
        resolver = Resolver(
            self._session,
            self._datasource,
            self._spec,
            self._message_key,
            csv=self._csv,
            fixed=fixed,
            salts=self._salts,
            origin=self._origin,
            key_is_unique=self._options.key_is_unique,
        )
        return await resolver.resolve()

    async def _changed(self, before: Definition, cause: RowferryError) -> None:
        """The source is not what `before` was made of: the next page is read from what it is now, or the run ends.
        Raises SourceChanged where that is another file's business."""
        if self._definition is before:
            self._definition, self._session.reading = None, False
        now = await self._resolved()
        if drift.reads_alike(before, now) and not now.refused:
            return
        if now.columns and self._renews and self._options.schema_change == "continue":
            raise SourceChanged from cause
        said = "; ".join(drift.differences(_exact(before), _exact(now))) if now.columns else ""
        if not now.columns and before.relation is not None:
            said = await drift.whereabouts(self._session, before)
        message = f"{before.what} has changed while it was read: {said or 'another table bears its name'}"
        if self._options.schema_change == "fail" or now.refused:
            hint = failures.GO_ON
            if now.refused and (why := next(one for one in now.findings if one.severity == "error")):
                message, hint = f"{message}; {why.message}", failures.PUT_BACK
            self._definition = before
            raise Permanent(failures.SCHEMA_CHANGED, message, hint=hint) from cause
        log.warning(LogEvent.SCHEMA_CHANGED, table=before.what, cause=said)

    async def _required(self) -> Definition:
        definition = self._definition or await self._resolved()
        definition.require()
        return definition

    async def _refuse_null_keys(self, definition: Definition) -> None:
        """Rows without a key stand outside every range and would be left out without a word."""
        if definition.key.proven:
            return
        nulls = " OR ".join(f"{column} IS NULL" for column in definition.key.columns())
        filters = "".join(f" AND {condition}" for condition in definition.filters)
        found = await self._session.fetchval(
            f"SELECT EXISTS (SELECT FROM {definition.source_sql} WHERE ({nulls}){filters})"
        )
        if found:
            raise Permanent(
                "key_is_null",
                f"{definition.what}: a row has NULL in its key ({', '.join(definition.key.names)})",
                hint="leave such rows out in `where`, or name another key",
            )

    def _shape_findings(self, definition: Definition) -> list[Finding]:
        findings = []
        if not definition.key.proven:
            findings.append(
                Finding(
                    "/source/key",
                    "info",
                    "key_checked_while_reading",
                    "no index proves this key unique; the reader checks every row and fails the run at a repeated key",
                    "an index that proves it saves the surprise",
                )
            )
        return findings


def _exact(definition: Definition) -> tuple[Column, ...]:
    return tuple(one.exact for one in definition.columns)


class _LazyFrontier:
    """The frontier as the protocol hands it out: looked up on the first advance."""

    def __init__(self, source: PostgresSource, position: Key | None, tables: KnownTables | None) -> None:
        self._source = source
        self._position, self._tables = position, tables
        self._frontier: Frontier | None = None

    async def advance(self) -> Horizon:
        """See the protocol."""
        if self._frontier is None:
            self._frontier = await self._source.make_frontier(self._position, self._tables)
        try:
            return await self._frontier.advance()
        except Permanent as error:
            await self._source.lost(error)
            raise

    async def close(self) -> None:
        """See the protocol."""
