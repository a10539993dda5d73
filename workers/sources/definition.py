"""A job's source, resolved against the catalog: what to read, by which key, and what stands in the way."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from service.domain.errors import Permanent, Transient
from workers.sources import catalog
from workers.sources.base import Finding
from workers.sources.keys import KeyColumns, KeyPart
from workers.sources.sql import SqlError, UserSql, parse_expression, parse_name, parse_query, quote_ident, quote_literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.domain.datasource import Datasource
    from service.domain.spec import SourceSpec
    from workers.sources.base import Key
    from workers.sources.catalog import Column, Relation
    from workers.sources.connection import Session


@dataclass(slots=True)
class Definition:
    """What a source reads. With a finding of severity `error` nothing else of it may be used."""

    what: str
    """Its name in messages."""
    source_sql: str = ""
    """What stands behind FROM."""
    qualifier: str = ""
    """The quoted name by which its columns are called."""
    relation: Relation | None = None
    query: UserSql | None = None
    columns: tuple[Column, ...] = ()
    selected: tuple[str, ...] = ()
    key: KeyColumns = field(default_factory=lambda: KeyColumns((), proven=False))
    filters: tuple[str, ...] = ()
    """Conditions that leave rows out."""
    message_key: tuple[str, ...] = ()
    relations: tuple[int, ...] = ()
    """Whose writers may still commit rows."""
    functions_in_from: bool = False
    findings: list[Finding] = field(default_factory=list)

    def error(self, pointer: str, code: str, message: str, hint: str = "") -> None:
        """Note what makes a run impossible."""
        self.findings.append(Finding(pointer, "error", code, message, hint))

    def warn(self, pointer: str, code: str, message: str, hint: str = "") -> None:
        """Note what a person should know."""
        self.findings.append(Finding(pointer, "warning", code, message, hint))

    @property
    def refused(self) -> bool:
        """Something makes a run impossible."""
        return any(finding.severity == "error" for finding in self.findings)

    def require(self) -> None:
        """Raises Permanent with the first error."""
        for finding in self.findings:
            if finding.severity == "error":
                raise Permanent(finding.code, finding.message, hint=finding.hint)

    def rows_sql(
        self, select: str, after: Key | None, upper: Key | None, *, order: str = "", filtered: bool = True
    ) -> str:
        """A SELECT over a key range. `filtered` False: also the rows that `where` leaves out."""
        conditions = self.key.between(after, upper) + (list(self.filters) if filtered else [])
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        return f"SELECT {select} FROM {self.source_sql}{where}{order and ' ORDER BY ' + order}"

    def page_sql(self, after: Key | None, upper: Key | None, limit: int, max_row_bytes: int) -> str:
        """The rows of a page as COPY wants them: key texts, JSON, message key, mark of a repeated key.

        The row's alias is random: an alias equal to a column's name would read that column instead. OFFSET 0 keeps
        the JSON from being built twice. A row over `max_row_bytes` comes as null, so it never travels.
        """
        page, row, built = (f"{letter}_{secrets.token_hex(6)}" for letter in "prj")
        needed = dict.fromkeys((*self.selected, *self.key.names, *self.message_key))
        inner = self.rows_sql(
            ", ".join(f"{self.qualifier}.{quote_ident(name)}" for name in needed), after, upper, order=self.key.order()
        )
        lateral, value = "", page
        if tuple(needed) != self.selected:
            chosen = ", ".join(f"{page}.{quote_ident(name)}" for name in self.selected)
            lateral, value = f" CROSS JOIN LATERAL (SELECT {chosen}) AS {row}", row
        select = [f"{column}::text AS k{index}" for index, column in enumerate(self.key.columns(page))]
        select.append(f"row_to_json({value}) AS j")
        outer = [f"{built}.k{index}" for index in range(len(self.key.parts))]
        # a short varlena header is one byte, a long one four: four are always enough
        outer.append(f"CASE WHEN pg_column_size({built}.j) <= {max_row_bytes + 4} THEN {built}.j END")
        if self.message_key:
            select.append(f"{self._message_key_sql(page)} AS m")
            outer.append(f"{built}.m")
        if not self.key.proven:
            select.append(f"{self._repeat_sql(page)} AS d")
            outer.append(f"{built}.d")
        return (
            f"SELECT {', '.join(outer)} FROM (SELECT {', '.join(select)}"
            f" FROM ({inner} LIMIT {limit}) AS {page}{lateral}"
            f" ORDER BY {self.key.order(alias=page)} OFFSET 0) AS {built}"
        )

    def _message_key_sql(self, page: str) -> str:
        texts = [f"{page}.{quote_ident(name)}::text" for name in self.message_key]
        return texts[0] if len(texts) == 1 else f"array_to_json(ARRAY[{', '.join(texts)}])::text"

    def _repeat_sql(self, page: str) -> str:
        """Whether the row before has the same key, as the key's own types see it: 1.0 and 1.00 are one numeric."""
        window = f"OVER (ORDER BY {self.key.order(alias=page)})"
        pairs = [f"{column} IS NOT DISTINCT FROM lag({column}) {window}" for column in self.key.columns(page)]
        return f"({' AND '.join(pairs)})"


class Resolver:
    """Asks the catalog once, and collects findings instead of stopping at the first."""

    def __init__(self, session: Session, datasource: Datasource, spec: SourceSpec, message_key: Sequence[str]) -> None:
        self._session = session
        self._datasource = datasource
        self._spec = spec
        self._definition = Definition(what=spec.table or "the query", message_key=tuple(message_key))

    async def resolve(self) -> Definition:
        """The definition. Raises Transient or Permanent only when the source can not be asked."""
        definition = self._definition
        if self._spec.table is not None:
            await self._table(self._spec.table)
        else:
            await self._query(self._spec.query or "")
        if not definition.refused:
            self._select()
            self._time()
            await self._where()
            await self._key()
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
                f"table {text} does not exist in {self._datasource.database}, or its schema is closed to this role",
                "write schema.table as psql shows it; names without schema are looked up in public",
            )
            return
        definition.what = str(relation)
        if not relation.readable:
            definition.error(
                "/source/table",
                "permission_denied",
                f"user {self._datasource.user!r} may not read {relation}",
                f"GRANT SELECT ON {relation.sql} TO the datasource's role",
            )
            return
        definition.relation = relation
        definition.source_sql = relation.sql
        definition.qualifier = quote_ident(relation.name)
        definition.relations = (relation.oid,)
        definition.columns = await catalog.columns_of(self._session, relation.oid)
        if relation.kind in {"r", "f"} and relation.has_children:
            definition.error(
                "/source/table",
                "key_not_unique_by_index",
                f"{relation} has tables that inherit from it, over which no index is unique",
                f"read each of them as a job of its own, the parent by the query SELECT * FROM ONLY {relation.sql}",
            )

    async def _query(self, text: str) -> None:
        definition = self._definition
        try:
            query = parse_query(text)
        except SqlError as error:
            definition.error("/source/query", error.code, _at(error), "one SELECT that changes nothing is taken")
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
        definition.query = query
        definition.qualifier = f"q_{secrets.token_hex(6)}"
        definition.source_sql = f"({query.text}) AS {definition.qualifier}"
        found = [await catalog.find_relation(self._session, name) for name in query.relations]
        definition.relations = tuple(relation.oid for relation in found if relation is not None)

    async def _stable(self, sql: UserSql, pointer: str) -> bool:
        parts = await catalog.volatile_parts(self._session, sql)
        if parts:
            self._definition.error(
                pointer,
                "function_volatile",
                f"Postgres calls this volatile: {', '.join(parts)}",
                "use functions that are stable or immutable: volatile ones may change data, or each row differently",
            )
        return not parts

    def _select(self) -> None:
        definition = self._definition
        known = [column.name for column in definition.columns]
        if self._spec.columns == ["*"]:
            definition.selected = tuple(known)
            if not known:
                definition.error("/source", "column_unknown", f"{definition.what} has no columns")
        else:
            self._named(known)
        for name in definition.message_key:
            if name not in known:
                self._no_column("/sink/key", name)

    def _named(self, known: Sequence[str]) -> None:
        definition = self._definition
        for index, name in enumerate(self._spec.columns):
            if name not in known:
                if name.replace("_", "a").isalnum():
                    self._no_column(f"/source/columns/{index}", name)
                    continue
                definition.error(
                    f"/source/columns/{index}",
                    "not_available",
                    f"source.columns: {definition.what} has no column {name!r}; expressions and renames are not "
                    "available yet",
                    f"its columns: {', '.join(known)}",
                )
        if len(set(self._spec.columns)) != len(self._spec.columns):
            definition.error("/source/columns", "column_doubled", "a column is named more than once")
        definition.selected = tuple(self._spec.columns)

    def _no_column(self, pointer: str, name: str) -> None:
        """`pointer` names the field that asks for the column, the message too: in a cause chain there is no pointer."""
        field = ".".join(part for part in pointer.split("/") if part and not part.isdigit())
        self._definition.error(
            pointer,
            "column_unknown",
            f"{field}: {self._definition.what} has no column {name!r}",
            f"its columns: {', '.join(column.name for column in self._definition.columns)}",
        )

    def _time(self) -> None:
        time = self._spec.time
        if time is None:
            return
        definition = self._definition
        column = next((column for column in definition.columns if column.name == time.column), None)
        if column is None:
            self._no_column("/source/time/column", time.column)
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
            where = parse_expression(self._spec.where)
        except SqlError as error:
            self._definition.error("/source/where", error.code, _at(error), "one SQL expression is taken")
            return
        if await self._stable(where, "/source/where"):
            self._definition.filters += (f"({where.text})",)

    async def _key(self) -> None:
        definition = self._definition
        indexes: tuple[catalog.Index, ...] = ()
        if definition.relation is not None and definition.relation.kind in {"r", "p", "m"}:
            indexes = await catalog.indexes_of(self._session, definition.relation.oid)
        names = tuple(self._spec.key or ())
        if not names:
            primary = next((index for index in indexes if index.is_primary and index.proves), None)
            if primary is None:
                definition.error(
                    "/source/key",
                    "key_required",
                    f"{definition.what} has no primary key",
                    "name the columns of a unique index in source.key",
                )
                return
            names = primary.columns
        by_name = {column.name: column for column in definition.columns}
        for index, name in enumerate(names):
            if name not in by_name:
                self._no_column(f"/source/key/{index}", name)
        if len(set(names)) != len(names):
            definition.error("/source/key", "column_doubled", "a key column is named more than once")
        if definition.refused:
            return
        plain = all(by_name[name].not_null for name in names)
        proven = plain and any(index.proves and set(index.columns) <= set(names) for index in indexes)
        walked = any(index.columns[: len(names)] == names for index in indexes)
        if definition.relation is not None and definition.relation.kind in {"r", "p"} and not (proven and walked):
            self._key_not_proven(names, indexes, {name: by_name[name].not_null for name in names})
            return
        collations = {name: by_name[name].collation for name in names}
        if definition.query is not None:
            unknown = [name for name in names if collations[name] == ""]
            collations |= await catalog.query_collations(self._session, definition.query.text, unknown)
        parts = tuple(KeyPart(name, by_name[name].type, collations[name]) for name in names)
        definition.key = KeyColumns(parts, proven=proven and walked, qualifier=definition.qualifier)

    def _key_not_proven(
        self, names: tuple[str, ...], indexes: tuple[catalog.Index, ...], not_null: dict[str, bool]
    ) -> None:
        nullable = [name for name, value in not_null.items() if not value]
        offered = "; ".join(f"{index.name} ({', '.join(index.columns)})" for index in indexes if index.proves) or "none"
        reason = "no index keeps these columns unique and in this order"
        if nullable:
            reason = f"{', '.join(nullable)} may be null"
        self._definition.error(
            "/source/key",
            "key_not_unique_by_index",
            f"key ({', '.join(names)}) of {self._definition.what} is not proven: {reason}",
            "name the columns of a unique index that is valid, not partial, not deferrable, over NOT NULL columns; "
            f"there are: {offered}",
        )

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


def _at(error: SqlError) -> str:
    return error.message if error.offset is None else f"{error.message} (at character {error.offset})"


def _time_text(moment: datetime, column_type: str, zone: ZoneInfo) -> str:
    """A moment as the column's type writes it; what has no zone is in the datasource's."""
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)
    if column_type == "timestamp with time zone":
        return aware.astimezone(UTC).isoformat()
    local = aware.astimezone(zone).replace(tzinfo=None)
    return local.isoformat()
