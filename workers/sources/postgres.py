"""The Postgres source: one definition, one connection that is opened when needed.

Reader, frontier and questions share the connection, one statement at a time: a job never waits for a second connection
while it holds a first.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from service.domain.errors import Permanent
from service.domain.inspection import TableColumn
from workers.sources import key_reader, snapshot
from workers.sources.base import Inspection, Plan, Size, SplitRange
from workers.sources.connection import STATEMENT_SECONDS
from workers.sources.current import CurrentDefinition, exact_columns
from workers.sources.cut_reader import CutReader, Tables
from workers.sources.estimate import estimate
from workers.sources.frontiers import LazyFrontier
from workers.sources.lag import lag
from workers.sources.outlook import load_not_visible, slow_beginning, unproven_key
from workers.sources.queries import load
from workers.sources.reader import PostgresReader
from workers.sources.safety import Safety
from workers.sources.session import Session
from workers.sources.splits import split
from workers.sources.wishes import RowWishes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from service.domain.datasource import Datasource
    from service.domain.inspection import Finding
    from service.domain.options import Options
    from service.domain.spec import SourceSpec
    from sinks.formats.columns import Column
    from sinks.guarded import Guard
    from workers.sources.base import Facts, Frontier, Horizon, Key, KnownTables
    from workers.sources.budget import ConnectionBudget
    from workers.sources.cut import Cut
    from workers.sources.definition import Definition

_LONG_SECONDS = 300.0
"""A statement of a query whose owner said `allow_long_statements`."""
_NONE = RowWishes()


class PostgresSource:
    """The Source over one Postgres datasource. `waiting` is told when a connection has to be waited for."""

    def __init__(
        self,
        datasource: Datasource,
        spec: SourceSpec,
        wishes: RowWishes = _NONE,
        *,
        mode: str,
        options: Options,
        application_name: str,
        connections: ConnectionBudget,
        guard: Guard | None = None,
        waiting: Callable[[bool], None] | None = None,
        cut: Cut | None = None,
    ) -> None:
        """`cut`: the moment whose rows these are; None: each page shows its own."""
        self._datasource = datasource = replace(datasource, private=wishes.private())
        self._spec, self._options = spec, options
        self._connections = connections.limit(datasource)
        long = options.allow_long_statements and (spec.query is not None or options.key_is_unique)
        session = partial(
            Session, application_name=application_name, connections=connections, guard=guard, waiting=waiting
        )
        self._session = session(
            datasource,
            what=spec.table or "the query",
            seconds=_LONG_SECONDS if long else STATEMENT_SECONDS,
            long_is_permanent=spec.query is not None,
            row_security=options.row_security,
            cut=cut,
        )
        self._tables = None if cut is None else Tables(self._session)
        self._authority = self._session
        if datasource.barrier is not None:
            what = f"{self._session.what}, barrier datasource {datasource.barrier.name!r}"
            self._authority = session(datasource.barrier, what=what)
        zone = datasource.time_zone or "UTC"
        self._safety = Safety(self._session, self._authority, options=options, mode=mode, zone=zone)
        self._current = CurrentDefinition(self._session, datasource, spec, wishes, options)

    async def get_ready(self) -> None:
        """See the protocol."""
        await self._current.look()

    async def inspect(self) -> Inspection:
        """See the protocol."""
        definition = await self._current.look()
        findings = list(definition.findings)
        size = Size(None, None)
        if not definition.refused:
            findings += await self._safety.findings(definition)
            findings += unproven_key(definition)
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
        if self._options.snapshot:
            seconds = self._options.snapshot_max_age_seconds
            found += await snapshot.findings(self._session, self._datasource, self._connections, seconds)
        return found

    async def facts(self) -> Facts:
        """See the protocol."""
        return await self._safety.facts(await self._current.required())

    async def columns(self, *, of_now: bool = False) -> tuple[Column, ...]:
        """See the protocol."""
        definition = await (self._current.of_now() if of_now else self._current.look())
        definition.require()
        return tuple(one.column.exact for one in definition.outputs)

    async def all_columns(self) -> tuple[Column, ...]:
        """See the protocol."""
        definition = await self._current.look()
        if not definition.columns:
            definition.require()
        return exact_columns(definition)

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
        definition = await self._current.required()
        await self._safety.refuse(definition)
        await key_reader.refuse_nulls(self._session, definition)
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
            self._current.required,
            page_bytes=self._options.page_bytes,
            max_row_bytes=self._options.max_row_bytes,
            single_row_seconds=self._options.single_row_timeout_seconds,
            changed=self._current.changed,
        )

    def frontier(self, position: Key | None = None, tables: KnownTables | None = None) -> Frontier:
        """See the protocol."""
        return LazyFrontier(self._safety, self._current, position, tables)

    async def later(self, one: Key, other: Key) -> Key:
        """See the protocol."""
        key = (await self._current.required()).key
        return one if await self._session.fetchval(f"SELECT {key.row(one)} >= {key.row(other)}") else other

    async def back(self, lower: Key | None, upper: Key, rows: int) -> Key | None:
        """See the protocol."""
        return await key_reader.back(self._session, await self._current.required(), lower, upper, rows)

    async def at_or_below(self, keys: Sequence[Key], bound: Key) -> list[bool]:
        """See the protocol."""
        return await key_reader.at_or_below(self._session, (await self._current.required()).key, keys, bound)

    async def check_keys(self, keys: Sequence[Key]) -> None:
        """See the protocol."""
        await key_reader.check(self._session, await self._current.required(), keys)

    async def lag(self, after: Key | None) -> tuple[int | None, float | None]:
        """See the protocol."""
        return await lag(self._session, await self._current.required(), self._spec.time, after)

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
