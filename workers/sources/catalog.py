"""What the source's catalog says: relations, columns, unique indexes, volatile functions, rights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sinks.formats.columns import Column as ExactColumn
from workers.sources.queries import load
from workers.sources.sql import quote_ident

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncpg import Record

    from workers.sources.session import Session
    from workers.sources.sql import Name, UserSql


@dataclass(frozen=True, slots=True)
class Relation:
    """A table, view or the like, as its name was found."""

    oid: int
    schema: str
    name: str
    kind: str
    """relkind: r table, p partitioned, v view, m materialised view, f foreign table."""
    rows: float
    has_children: bool
    is_partition: bool
    readable: bool
    """At least a column of it."""
    open_schema: bool
    standby: bool
    subscribed: bool

    @property
    def sql(self) -> str:
        """The qualified, quoted name."""
        return f"{quote_ident(self.schema)}.{quote_ident(self.name)}"

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a relation or of a query's output."""

    name: str
    type: str
    category: str
    not_null: bool
    collation: str | None
    """Quoted and qualified; empty where only asking tells; None where the type has none."""
    exact: ExactColumn
    """As a generation keeps it: domains resolved, with the type's modifier where it is known."""
    varies: bool
    """Its values have no fixed length."""
    virtual: bool = False
    """Computed when it is read, so of any length (PostgreSQL 18)."""


@dataclass(frozen=True, slots=True)
class Index:
    """An index that a key can walk."""

    name: str
    is_primary: bool
    proves: bool
    """It keeps its columns unique at any moment."""
    columns: tuple[str, ...]
    collations: tuple[str | None, ...]
    """Of each column as the index sorts it, which need not be the column's own."""
    deterministic: tuple[bool, ...]
    """Of each column: what is equal to it is the same text."""
    options: tuple[int, ...]
    """Of each column: 0 rising with NULLs last, 3 falling with NULLs first, else something between."""

    def walks(self, names: tuple[str, ...]) -> bool:
        """Forwards or backwards it gives rows in the order of these columns."""
        places = len(names)
        return self.columns[:places] == names and set(self.options[:places]) in ({0}, {3})

    def keeps_unique(self, names: tuple[str, ...], walked: Index) -> bool:
        """No two rows have the same values in these columns, as `walked` compares them."""
        order = dict(zip(walked.columns, zip(walked.collations, walked.deterministic, strict=True), strict=True))
        return self.proves and all(
            name in names and (collation == order[name][0] or order[name][1])
            for name, collation in zip(self.columns, self.collations, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Member:
    """A relation whose writers a barrier waits for."""

    oid: int
    kind: str
    name: str
    subscribed: bool


async def find_relation(session: Session, name: Name) -> Relation | None:
    """The relation a SELECT of this name would read, or None."""
    schema, relation = (name[-2] if len(name) > 1 else None), name[-1]
    row = await session.fetchrow(load("relation"), schema, relation)
    if row is None:
        return None
    return Relation(
        row["oid"],
        row["schema"],
        row["name"],
        row["kind"],
        row["rows"],
        row["has_children"],
        row["is_partition"],
        row["readable"],
        row["open_schema"],
        row["standby"],
        row["subscribed"],
    )


async def columns_of(session: Session, oid: int) -> tuple[Column, ...]:
    """The relation's columns, in order."""
    rows = await session.fetch(load("columns"), oid)
    return tuple(
        _column(row["name"], row, row["collation"], not_null=row["not_null"], virtual=row["virtual"]) for row in rows
    )


async def indexes_of(session: Session, oid: int) -> tuple[Index, ...]:
    """Indexes that a key can walk, the primary key first."""
    rows = await session.fetch(load("indexes"), oid)
    return tuple(
        Index(
            row["name"],
            row["is_primary"],
            row["proves"],
            tuple(row["columns"]),
            tuple(row["collations"]),
            tuple(one == "true" for one in row["deterministic"]),
            tuple(map(int, row["options"])),
        )
        for row in rows
    )


async def children_of(session: Session, oid: int) -> tuple[int, ...]:
    """The tables that inherit from this one, and from those."""
    rows = await session.fetch(
        "WITH RECURSIVE tree (oid) AS (SELECT inhrelid FROM pg_inherits WHERE inhparent = $1::oid"
        " UNION SELECT i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid) SELECT oid FROM tree",
        oid,
    )
    return tuple(row["oid"] for row in rows)


async def query_columns(session: Session, query: str) -> tuple[Column, ...]:
    """The output columns of a query, duplicates included, as describing the statement tells them: types without their
    modifiers, nothing about nulls. The query is prepared, not run."""
    async with session.in_use() as connection:
        statement = await connection.prepare(f"SELECT * FROM ({query}) AS q")
        attributes = [(attribute.name, attribute.type.oid) for attribute in statement.get_attributes()]
    rows = await session.fetch(load("types"), [oid for _, oid in attributes])
    types = {row["oid"]: row for row in rows}
    return tuple(_column(name, types[oid], "" if types[oid]["collated"] else None) for name, oid in attributes)


def _column(name: str, row: Record, collation: str | None, *, not_null: bool = False, virtual: bool = False) -> Column:
    exact = ExactColumn(name, row["exact"], row["dimensions"], row["enum"], not_null)
    return Column(name, row["type"], row["category"], not_null, collation, exact, row["varies"], virtual)


async def query_collations(session: Session, query: str, names: Sequence[str]) -> dict[str, str | None]:
    """Collations of output columns, asked without reading a row."""
    if not names:
        return {}
    asked = ", ".join(f"pg_collation_for(q.{quote_ident(name)})" for name in names)
    row = await session.fetchrow(
        f"SELECT {asked} FROM (SELECT 1) AS one LEFT JOIN (SELECT * FROM ({query}) AS i LIMIT 0) AS q ON true"
    )
    return dict(zip(names, row.values() if row else [None] * len(names), strict=True))


async def volatile_parts(session: Session, sql: UserSql) -> list[str]:
    """Functions and operators of user SQL that the catalog calls volatile."""
    functions = sorted(sql.functions)
    rows = await session.fetch(
        load("volatile"),
        [name[-2] if len(name) > 1 else None for name in functions],
        [name[-1] for name in functions],
        sorted({name[-1] for name in sql.operators}),
        sorted(sql.attributes),
    )
    return sorted(row["what"] for row in rows)


async def relation_set(session: Session, oids: Sequence[int]) -> tuple[Member, ...]:
    """The relations, their partitions and children, and what views among them read; as they are now."""
    rows = await session.fetch(load("relation_set"), list(oids))
    return tuple(Member(row["oid"], row["kind"], row["name"], row["subscribed"]) for row in rows)


async def powers(session: Session) -> str | None:
    """Why this role is more than a reader, or None."""
    row = await session.fetchrow(load("role"))
    if row is not None and row["superuser"]:
        return "is a superuser"
    if row is not None and row["runs_programs"]:
        return "may run programs on the server (pg_execute_server_program)"
    return None
