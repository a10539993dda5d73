"""Where a column of a query or a view comes from: the one column of one table that it is, or nothing.

Told by the parsed text, through joins, subqueries and views. A column that is computed, grouped or taken from several
places has no origin, and a query that limits or groups its rows has none at all: its rows are not the table's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import postgast

from workers.sources import catalog
from workers.sources.sql import SqlError, parse_query

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workers.sources.session import Session

_DEEPEST = 16
"""Views over views; a real one is rarely more than three deep."""


@dataclass(frozen=True, slots=True)
class Origin:
    """A column of a table."""

    relation: int
    column: str


@dataclass(frozen=True, slots=True)
class _Item:
    """One entry behind FROM."""

    alias: str
    node: Any
    """RangeVar or RangeSubselect."""


async def of_query(session: Session, text: str, column: str, *, depth: int = 0) -> Origin | None:
    """The origin of an output column of the SELECT `text`, which was parsed before or comes from the catalog."""
    statement = postgast.parse(text).stmts[0].stmt.select_stmt
    return await _of_select(session, statement, column, depth)


def clauses(text: str) -> list[str]:
    """What in the SELECT `text` makes its rows others than those of its tables, in SQL's words."""
    statement = postgast.parse(text).stmts[0].stmt.select_stmt
    there = {
        "WITH": statement.HasField("with_clause"),
        "UNION, INTERSECT or EXCEPT": statement.op > 1,
        "DISTINCT": bool(statement.distinct_clause),
        "GROUP BY": bool(statement.group_clause or statement.HasField("having_clause")),
        "LIMIT or OFFSET": statement.HasField("limit_count") or statement.HasField("limit_offset"),
    }
    return [name for name, found in there.items() if found]


async def of_view(session: Session, oid: int, column: str, *, depth: int = 0) -> Origin | None:
    """The same of a view."""
    text = await session.fetchval("SELECT pg_get_viewdef($1::oid)", oid)
    return None if text is None else await of_query(session, text, column, depth=depth)


async def scans_functions(session: Session, oid: int) -> bool:
    """Whether a view has a function behind FROM, or can not be looked into."""
    text = await session.fetchval("SELECT pg_get_viewdef($1::oid)", oid)
    try:
        return text is None or parse_query(text).function_scan
    except SqlError:
        return True


async def _of_select(session: Session, statement: Any, column: str, depth: int) -> Origin | None:
    if depth > _DEEPEST or _changes_rows(statement):
        return None
    items = list(_items(statement.from_clause))
    if statement.HasField("with_clause"):
        named = {one.common_table_expr.ctename for one in statement.with_clause.ctes}
        items = [one for one in items if one.node.DESCRIPTOR.name != "RangeVar" or one.node.relname not in named]
    found: list[Origin | None] = []
    for target in statement.target_list:
        reference = _reference(target.res_target, column)
        if reference is None:
            continue
        alias, name = reference
        asked = [one for one in items if alias in {None, one.alias}]
        origins = [origin for one in asked if (origin := await _of_item(session, one, name, depth)) is not None]
        if not origins and alias is None and not _is_named(target.res_target, column):
            continue  # a star that does not hold it
        found.append(origins[0] if len(origins) == 1 else None)
    return found[0] if len(found) == 1 else None


async def _of_item(session: Session, item: _Item, name: str, depth: int) -> Origin | None:
    if item.node.DESCRIPTOR.name == "RangeSubselect":
        return await _of_select(session, item.node.subquery.select_stmt, name, depth + 1)
    table = item.node
    relation = await catalog.find_relation(
        session, (table.schemaname, table.relname) if table.schemaname else (table.relname,)
    )
    if relation is None:
        return None
    if relation.kind == "v":
        return await of_view(session, relation.oid, name, depth=depth + 1)
    columns = await catalog.columns_of(session, relation.oid)
    known = relation.kind in {"r", "p"} and any(column.name == name for column in columns)
    return Origin(relation.oid, name) if known else None


def _reference(target: Any, column: str) -> tuple[str | None, str] | None:
    """What an entry of the select list says about the output column: alias (None: not given) and name."""
    if target.val.WhichOneof("node") != "column_ref":
        return None
    fields = target.val.column_ref.fields
    names = [field.string.sval for field in fields if field.WhichOneof("node") == "string"]
    alias = names[-2] if len(names) > 1 else None
    if fields[-1].WhichOneof("node") == "a_star":
        return (names[-1] if names else None), column
    return (alias, names[-1]) if (target.name or names[-1]) == column else None


def _is_named(target: Any, column: str) -> bool:
    return bool(target.name == column or target.val.column_ref.fields[-1].WhichOneof("node") == "string")


def _items(nodes: Any) -> Iterator[_Item]:
    for node in nodes:
        kind = node.WhichOneof("node")
        entry = getattr(node, kind)
        if kind == "join_expr":
            yield from _items([entry.larg, entry.rarg])
        elif kind in {"range_var", "range_subselect"} and not entry.alias.colnames:
            yield _Item(entry.alias.aliasname or getattr(entry, "relname", ""), entry)


def _changes_rows(statement: Any) -> bool:
    """Its rows are not those of what stands behind FROM."""
    return bool(
        statement.op > 1
        or statement.group_clause
        or statement.distinct_clause
        or statement.HasField("having_clause")
        or statement.HasField("limit_count")
        or statement.HasField("limit_offset")
        or not statement.from_clause
    )
