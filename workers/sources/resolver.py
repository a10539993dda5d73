"""Asks the catalog what a job's source is, and what stands in the way of reading it."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from service.domain.errors import Permanent, Transient
from service.domain.inspection import Finding
from service.domain.shape import METADATA
from workers.sources import catalog
from workers.sources.definition import Definition
from workers.sources.key_index import settle_key
from workers.sources.outlook import closed, refuse_closed_columns
from workers.sources.shaping import Shaper, deleted_sql, metadata
from workers.sources.sql import (
    SqlError,
    UserSql,
    in_thread,
    parse_expression,
    parse_name,
    parse_query,
    quote_ident,
    quote_literal,
)
from workers.sources.transforms import key_of_query, read_as

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.domain.datasource import Datasource
    from service.domain.spec import SourceSpec
    from sinks.formats.columns import Column as ExactColumn
    from workers.sources.session import Session
    from workers.sources.wishes import RowWishes


class Resolver:
    """Asks the catalog once, and collects findings instead of stopping at the first."""

    def __init__(
        self,
        session: Session,
        datasource: Datasource,
        spec: SourceSpec,
        wishes: RowWishes,
        *,
        fixed: Sequence[ExactColumn] = (),
        key_is_unique: bool = False,
    ) -> None:
        """`fixed`: the columns that are read, and no others. `key_is_unique`: at the owner's word."""
        self._session = session
        self._datasource = datasource
        self._spec = spec
        self._fixed = fixed
        self._salts = wishes.salt_settings()
        self._origin = wishes.origin
        self._key_is_unique = key_is_unique
        self._asked_by = wishes.message_key.pointer
        self._definition = Definition(
            what=spec.table or "the query", message_key=wishes.message_key.columns, csv=wishes.csv
        )

    async def resolve(self) -> Definition:
        """The definition. Raises Transient or Permanent only when the source can not be asked."""
        definition = self._definition
        if self._spec.table is not None:
            await self._table(self._spec.table)
        else:
            await self._query(self._spec.query or "")
        if not definition.refused:
            await Shaper(self._session, definition, self._stable, self._salts).shape(self._spec.columns, self._fixed)
            self._message_key()
            self._time()
            await self._where()
            named = self._spec.key or await key_of_query(self._session, definition, self._spec)
            await settle_key(self._session, definition, named, unique_at_word=self._key_is_unique)
            self._marks()
        if not definition.refused:
            await refuse_closed_columns(self._session, self._datasource, definition)
        if not definition.refused:
            await self._prepare()
        if power := await catalog.powers(self._session):
            definition.findings.append(too_powerful("/source/datasource", self._datasource, power))
        return definition

    async def _table(self, text: str) -> None:
        definition = self._definition
        try:
            name = parse_name(text)
        except SqlError as error:
            definition.error("/source/table", error.code, error.message)
            return
        relation = await catalog.find_relation(self._session, name)
        if relation is None:
            definition.error(
                "/source/table",
                "table_unknown",
                f"table {text} does not exist in {self._datasource.database}",
                "write schema.table as psql shows it; names without schema are looked up in public",
            )
            return
        definition.what = str(relation)
        if denied := closed(self._datasource, relation):
            definition.error("/source/table", "permission_denied", *denied)
            return
        definition.relation = relation
        definition.source_sql = relation.sql
        definition.qualifier = quote_ident(relation.name)
        definition.relations = (relation.oid,)
        definition.columns = await catalog.columns_of(self._session, relation.oid)
        definition.inherited = relation.kind in {"r", "f"} and relation.has_children

    async def _query(self, text: str) -> None:
        definition = self._definition
        try:
            query = await in_thread(parse_query, text)
        except SqlError as error:
            definition.error("/source/query", error.code, error.placed, "one SELECT that changes nothing is taken")
            return
        if not await self._stable(query, "/source/query"):
            return
        try:
            definition.columns = await catalog.query_columns(self._session, query.text)
        except Permanent as error:
            definition.error("/source/query", error.code, error.message, error.hint)
            return
        names = [column.name for column in definition.columns]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            definition.error(
                "/source/query",
                "column_doubled",
                f"the query gives {', '.join(map(repr, twice))} more than once",
                "name each output column differently with AS",
            )
            return
        read = await read_as(self._session, definition, query, self._spec)
        definition.query = query
        definition.qualifier = f"q_{secrets.token_hex(6)}"
        definition.source_sql = f"({read}) AS {definition.qualifier}"
        found = [await catalog.find_relation(self._session, name) for name in query.relations]
        definition.relations = tuple(relation.oid for relation in found if relation is not None)
        for relation in found:
            if relation is not None and (denied := closed(self._datasource, relation)):
                definition.error("/source/query", "permission_denied", *denied)

    async def _stable(self, sql: UserSql, pointer: str) -> bool:
        if self._salts and any(name[-1] == "current_setting" for name in sql.functions):
            self._definition.error(
                pointer,
                "function_refused",
                "function current_setting is not taken beside a salted mask: it could show the salt",
                "leave it out, or read a view that has it",
            )
            return False
        parts = await catalog.volatile_parts(self._session, sql)
        if parts:
            self._definition.error(
                pointer,
                "function_volatile",
                f"Postgres calls this volatile: {', '.join(parts)}",
                "use functions that are stable or immutable: volatile ones may change data, or each row differently",
            )
        return not parts

    def _message_key(self) -> None:
        """Of the output's columns, or of the source's that are not given out under their own name."""
        definition = self._definition
        outputs = {one.name: one.alias for one in definition.outputs}
        known = {column.name for column in definition.columns}
        for name in definition.message_key:
            if name not in outputs and name not in known:
                definition.no_column(self._asked_by, name)
        definition.message_key = tuple(outputs.get(name, name) for name in definition.message_key)

    def _marks(self) -> None:
        """What stands beside a row: that it is deleted, and where it comes from."""
        definition = self._definition
        if self._spec.soft_delete is not None:
            definition.deleted = deleted_sql(definition, self._spec.soft_delete)
        if self._origin is not None and not definition.refused:
            if METADATA in {one.name for one in definition.outputs}:
                definition.error(
                    "/format/envelope",
                    "column_doubled",
                    f"a column is called {METADATA!r}, as is the field that with_metadata adds",
                    "give the column another name in source.columns",
                )
            definition.outputs += (metadata(definition, self._origin),)

    def _time(self) -> None:
        time = self._spec.time
        if time is None:
            return
        definition = self._definition
        column = next((column for column in definition.columns if column.name == time.column), None)
        if column is None:
            self._definition.no_column("/source/time/column", time.column)
            return
        if column.type not in {"timestamp with time zone", "timestamp without time zone", "date"}:
            definition.error(
                "/source/time/column",
                "time_column_type",
                f"column {time.column!r} is {column.type}; a date, timestamp or timestamptz is needed",
                "say it in `where`",
            )
            return
        zone = self._zone()
        for operator, bound in ((">=", time.from_), ("<", time.to)):
            if bound is not None and zone is not None:
                left = f"{definition.qualifier}.{quote_ident(column.name)}"
                right = quote_literal(_time_text(bound, column.type, zone))
                definition.filters += (f"{left} {operator} {right}::{column.type}",)

    def _zone(self) -> ZoneInfo | None:
        name = self._datasource.time_zone or "UTC"
        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError):
            self._definition.error(
                "/source/datasource",
                "time_zone_unknown",
                f"time_zone {name!r} of the datasource is not known",
                "use a name such as Europe/Madrid",
            )
            return None

    async def _where(self) -> None:
        if self._spec.where is None:
            return
        try:
            where = await in_thread(parse_expression, self._spec.where)
        except SqlError as error:
            self._definition.error("/source/where", error.code, error.placed, "one SQL expression is taken")
            return
        if await self._stable(where, "/source/where"):
            self._definition.filters += (f"({where.text})",)

    async def _prepare(self) -> None:
        """The extended protocol takes one statement and checks all of it against the catalog."""
        definition = self._definition
        pointer = "/source/where" if self._spec.where is not None else "/source"
        try:
            async with self._session.in_use() as connection:
                await connection.prepare(definition.page_sql(None, None, 1, 1024))
        except Transient:
            raise
        except Permanent as error:
            hint = error.hint
            if error.code == "column_unknown":
                hint = f"its columns: {', '.join(column.name for column in definition.columns)}"
            definition.error(pointer, error.code, f"{pointer[1:].replace('/', '.')}: {error.message}", hint)


def too_powerful(pointer: str, datasource: Datasource, power: str) -> Finding:
    """The warning that a role can do more than a reader needs."""
    return Finding(
        pointer,
        "warning",
        "role_too_powerful",
        f"user {datasource.user!r} {power}",
        "read as a role that has SELECT on what it reads, and nothing else",
    )


def _time_text(moment: datetime, column_type: str, zone: ZoneInfo) -> str:
    """A moment as the column's type writes it; what has no zone is in the datasource's."""
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)
    if column_type == "timestamp with time zone":
        return aware.astimezone(UTC).isoformat()
    local = aware.astimezone(zone).replace(tzinfo=None)
    return local.isoformat()
