"""A job's source, resolved against the catalog: what to read, by which key, and what stands in the way."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from service.domain.errors import Permanent
from service.domain.inspection import Finding
from workers.sources.json_row import json_row_sql
from workers.sources.keys import KeyColumns
from workers.sources.sql import quote_ident

if TYPE_CHECKING:
    from workers.sources.base import Key
    from workers.sources.catalog import Column, Relation
    from workers.sources.csv_page import Dialect
    from workers.sources.shaping import Output
    from workers.sources.sql import UserSql

_TEXTS: Final = frozenset({"text", "character varying", "character", "bpchar"})
_NEVER_LONG: Final = frozenset({"numeric", "inet", "cidr"})
_TRUSTED_BYTES: Final = 2000
"""Stored bytes below which a value is small, even compressed in place."""
_BEST_COMPRESSION: Final = 256
"""More than Postgres's compressions can do."""
_LONGEST_IN_PLACE: Final = 2 * _BEST_COMPRESSION * 32 * 1024
"""More bytes of text than a row can be whose values all lie in its page, of 32 KiB at most."""
_SAME_TEXT: Final = frozenset(
    {
        *("smallint", "integer", "bigint", "numeric", "uuid", "text", "character varying", "date"),
        *("timestamp without time zone", "timestamp with time zone"),
    }
)
"""Types whose cast to text is what COPY writes (as against boolean, "char" and inet)."""
TOO_LARGE: Final = "rowferry_row_too_large"
DELETED: Final = f"deleted_{secrets.token_hex(6)}"
"""In the page's inner SELECT, the mark of a deleted row."""


@dataclass(frozen=True, slots=True)
class MessageKey:
    """The columns whose text the sink wants beside each row, and the field of the definition that names them."""

    columns: tuple[str, ...]
    pointer: str


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
    """Those of the source, whatever is given out."""
    outputs: tuple[Output, ...] = ()
    """What a row consists of, in order."""
    deleted: str = ""
    """The condition that a row is deleted: it is given out as an empty value. Empty: no row is."""
    key: KeyColumns = field(default_factory=lambda: KeyColumns((), proven=False))
    index: str | None = None
    """What gives the rows in the key's order; None where nothing in the catalog says so."""
    filters: tuple[str, ...] = ()
    """Conditions that leave rows out."""
    guard: str = ""
    """The condition that the tables are still those that were looked at: it holds, or the statement fails."""
    message_key: tuple[str, ...] = ()
    """Names in the page's inner SELECT."""
    csv: Dialect | None = None
    """Rows are read as CSV records; None: as JSON."""
    relations: tuple[int, ...] = ()
    """Whose writers may still commit rows."""
    inherited: bool = False
    """Other tables inherit from it, and their rows are read with its own."""
    findings: list[Finding] = field(default_factory=list)

    @property
    def key_leads(self) -> bool:
        """Each CSV record begins with the key as its own text, and no two have the same."""
        types = [part.type for part in self.key.parts]
        first = tuple(one.source for one in self.outputs[: len(types)])
        return self.key.proven and first == self.key.names and _SAME_TEXT.issuperset(types)

    def error(self, pointer: str, code: str, message: str, hint: str = "") -> None:
        """Note what makes a run impossible."""
        self.findings.append(Finding(pointer, "error", code, message, hint))

    def warn(self, pointer: str, code: str, message: str, hint: str = "") -> None:
        """Note what a person should know."""
        self.findings.append(Finding(pointer, "warning", code, message, hint))

    def no_column(self, pointer: str, name: str) -> None:
        """`pointer` names the field that asks for the column, the message too: in a cause chain there is no pointer."""
        field = ".".join(part for part in pointer.split("/") if part and not part.isdigit())
        self.error(
            pointer,
            "column_unknown",
            f"{field}: {self.what} has no column {name!r}",
            f"its columns: {', '.join(column.name for column in self.columns)}"
            + ("" if name.isidentifier() else '; an expression is written {"expression": …, "as": …}'),
        )

    @property
    def unwalked(self) -> bool:
        """A table without an index that gives rows in the key's order. (What a query walks only its plan tells.)"""
        return self.relation is not None and self.relation.kind in {"r", "p", "m"} and self.index is None

    @property
    def nulls_known(self) -> bool:
        """What the catalog says of NULL holds for every row. (Before PostgreSQL 18 a child that inherits may take NULL
        where its parent does not; a partition may not.)"""
        return self.relation is not None and bool(self.guard) and not self.inherited

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
        self,
        select: str,
        after: Key | None,
        upper: Key | None,
        *,
        order: str = "",
        filtered: bool = True,
        guarded: bool = False,
    ) -> str:
        """A SELECT over a key range. `filtered` False: also the rows that `where` leaves out. `guarded`: it fails where
        the tables are not what they were."""
        conditions = self.key.between(after, upper) + (list(self.filters) if filtered else [])
        conditions += [self.guard] if guarded and self.guard else []
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        return f"SELECT {select} FROM {self.source_sql}{where}{order and ' ORDER BY ' + order}"

    def page_sql(
        self, after: Key | None, upper: Key | None, limit: int, max_row_bytes: int, *, marked: bool = False
    ) -> str:
        """The rows of a page as COPY wants them. `marked`: CSV with a mark at rows that are too large."""
        if self.csv is None:
            return self._json_page_sql(after, upper, limit, max_row_bytes)
        if marked:
            return self._marked_csv_page_sql(after, upper, limit, max_row_bytes)
        return self._csv_page_sql(after, upper, limit, max_row_bytes)

    def _json_page_sql(self, after: Key | None, upper: Key | None, limit: int, max_row_bytes: int) -> str:
        """Key texts, JSON, message key, mark of a repeated key.

        The row's alias is random: an alias equal to a column's name would read that column instead. OFFSET 0 keeps
        the JSON from being built twice. A row over `max_row_bytes` comes as null, so it never travels.
        """
        page, built = (f"{letter}_{secrets.token_hex(6)}" for letter in "pj")
        inner = self._needed_sql(after, upper)
        value = json_row_sql(self.outputs, page, nulls_known=self.nulls_known)
        select = [f"{column}::text AS k{index}" for index, column in enumerate(self.key.columns(page))]
        outer = [f"{built}.k{index}" for index in range(len(self.key.parts))]
        # a short varlena header is one byte, a long one four: four are always enough
        fits = f"pg_column_size({built}.j) <= {max_row_bytes + 4}"
        if self.deleted:
            select.append(f"CASE WHEN {page}.{DELETED} THEN NULL ELSE {value} END AS j")
            outer.append(f"CASE WHEN {built}.j IS NULL THEN '' WHEN {fits} THEN {built}.j END")
        else:
            select.append(f"{value} AS j")
            outer.append(f"CASE WHEN {fits} THEN {built}.j END")
        if self.message_key:
            select.append(f"{self._message_key_sql(page)} AS m")
            outer.append(f"{built}.m")
        if not self.key.proven:
            select.append(f"{self._repeat_sql(page)} AS d")
            outer.append(f"{built}.d")
        return (
            f"SELECT {', '.join(outer)} FROM (SELECT {', '.join(select)}"
            f" FROM ({inner} LIMIT {limit}) AS {page}"
            f" ORDER BY {self.key.order(alias=page)} OFFSET 0) AS {built}"
        )

    def _csv_page_sql(self, after: Key | None, upper: Key | None, limit: int, max_row_bytes: int) -> str:
        """Key texts, mark of a repeated key, columns.

        Before a row that is far over `max_row_bytes` the statement fails, with `TOO_LARGE` in its message, so that it
        never travels: to leave out all its columns would cost every other row a CASE a column. What asyncpg had of the
        statement is lost, and `_marked_csv_page_sql` reads it again.
        """
        page = f"p_{secrets.token_hex(6)}"
        inner = self._needed_sql(after, upper)
        select = [] if self.key_leads else [f"{column}::text" for column in self.key.columns(page)]
        if not self.key.proven:
            select.append(self._repeat_sql(page))
        select += [f"{page}.{quote_ident(one.alias)}" for one in self.outputs]
        where = ""
        if size := self._size_sql(page, max_row_bytes):
            # The text depends on the row, or else the planner would try it at once.
            failure = f"('{TOO_LARGE}' || left({self.key.columns(page)[0]}::text, 0))::integer IS NULL"
            fits = f"CASE WHEN {size} <= {max_row_bytes} THEN true ELSE {failure} END"
            where = f" WHERE {' OR '.join([*self._short_sql(max_row_bytes), fits])}"
        return (
            f"SELECT {', '.join(select)} FROM ({inner} LIMIT {limit}) AS {page}{where}"
            f" ORDER BY {self.key.order(alias=page)}"
        )

    def keys_sql(self, after: Key | None, upper: Key, limit: int) -> str:
        """The keys of a range as COPY wants them, each with t where `where` lets its row through: what it leaves out
        is walked over a page at a time too."""
        passes = f"CASE WHEN {' AND '.join(self.filters)} THEN 't' ELSE 'f' END" if self.filters else "'t'"
        select, order = f"{self.key.texts()}, {passes}", self.key.order()
        rows = self.rows_sql(select, after, upper, order=order, filtered=False, guarded=True)
        return f"{rows} LIMIT {limit}"

    def _marked_csv_page_sql(self, after: Key | None, upper: Key | None, limit: int, max_row_bytes: int) -> str:
        """As `_csv_page_sql`, where that has failed: key texts, marks of a repeated key and of a row that is too large,
        columns, all of them null in such a row. OFFSET 0 keeps each row's size from being told once a column."""
        page, built, large = (f"{letter}_{secrets.token_hex(6)}" for letter in "pbl")
        heads = {f"{built}_{index}": f"{column}::text" for index, column in enumerate(self.key.columns(page))}
        if not self.key.proven:
            heads[f"{built}_d"] = self._repeat_sql(page)
        heads[large] = f"{self._size_sql(page, max_row_bytes) or '0'} > {max_row_bytes}"
        values = [f"CASE WHEN NOT {built}.{large} THEN {built}.{quote_ident(one.alias)} END" for one in self.outputs]
        inner = [f"{sql} AS {name}" for name, sql in heads.items()]
        inner += [f"{page}.{quote_ident(one.alias)}" for one in self.outputs]
        return (
            f"SELECT {', '.join([f'{built}.{name}' for name in heads] + values)} FROM (SELECT {', '.join(inner)}"
            f" FROM ({self._needed_sql(after, upper)} LIMIT {limit}) AS {page}"
            f" ORDER BY {self.key.order(alias=page)} OFFSET 0) AS {built}"
        )

    def _needed_sql(self, after: Key | None, upper: Key | None) -> str:
        """The columns of the page and of the key, in order."""
        columns = ", ".join(f"{sql} AS {quote_ident(alias)}" for alias, sql in self._needed().items())
        return self.rows_sql(columns, after, upper, order=self.key.order(), guarded=True)

    def _needed(self) -> dict[str, str]:
        """What the page's inner SELECT gives, by name: the outputs, then what else is asked for."""
        needed = {one.alias: one.sql for one in self.outputs}
        for name in (*self.key.names, *self.message_key):
            needed.setdefault(name, f"{self.qualifier}.{quote_ident(name)}")
        if self.deleted:
            needed[DELETED] = self.deleted
        return needed

    def _short_sql(self, max_row_bytes: int) -> list[str]:
        """The condition, asked once a statement, that no row can be over `max_row_bytes` because the table has nothing
        stored apart; none where that would prove nothing. To measure each row costs a tenth of what writing it does."""
        plain = all(one.source is not None and not one.column.virtual for one in self.outputs if one.column.varies)
        if not plain or self.inherited or self.relation is None or self.relation.kind != "r":
            return []
        if max_row_bytes < _LONGEST_IN_PLACE:
            return []
        apart = "coalesce(pg_catalog.pg_relation_size(nullif(c.reltoastrelid, 0)), 0)"
        return [f"(SELECT {apart} = 0 FROM pg_catalog.pg_class c WHERE c.oid = {self.relation.oid})"]

    def _size_sql(self, page: str, max_row_bytes: int) -> str:
        """About how many bytes the long values of a row have as text, without reading those that are stored apart;
        empty where no column can be long."""
        trusted = max(_TRUSTED_BYTES, max_row_bytes // _BEST_COMPRESSION)
        sizes = []
        for one in self.outputs:
            column = one.column
            if not column.varies:
                continue
            name = f"{page}.{quote_ident(one.alias)}"
            base = "" if column.exact.dimensions else column.exact.type.partition("(")[0]
            if base in _TEXTS:
                sizes.append(f"coalesce(octet_length({name}), 0)::bigint")
            elif base == "bytea":
                sizes.append(f"2 * coalesce(octet_length({name}), 0)::bigint")
            elif base not in _NEVER_LONG:
                stored = f"pg_column_size({name})"
                sizes.append(
                    f"CASE WHEN {stored} > {trusted} THEN octet_length({name}::text)::bigint"
                    f" ELSE coalesce({stored}, 0) END"
                )
        return " + ".join(sizes)

    def _message_key_sql(self, page: str) -> str:
        texts = [f"{page}.{quote_ident(name)}::text" for name in self.message_key]
        return texts[0] if len(texts) == 1 else f"array_to_json(ARRAY[{', '.join(texts)}])::text"

    def _repeat_sql(self, page: str) -> str:
        """Whether the row before has the same key, as the key's own types see it: 1.0 and 1.00 are one numeric."""
        window = f"OVER (ORDER BY {self.key.order(alias=page)})"
        pairs = [f"{column} IS NOT DISTINCT FROM lag({column}) {window}" for column in self.key.ordered(page)]
        return f"({' AND '.join(pairs)})"
