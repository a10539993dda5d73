"""What a source's tables were when they were looked at, held against what they are with every page.

The check is part of the page's own statement, so that nobody reads between it and the rows: a condition without a
column of the row, which Postgres looks at once, before the first. It fails the statement for two reasons:

- The table's columns, or the table behind its name, are not those that the definition was made of.
- The table was written anew (ALTER … TYPE and the like) after the statement's snapshot was taken: COPY takes it before
  it waits for the table, and a table that was rewritten meanwhile looks empty to it
  (https://www.postgresql.org/docs/current/mvcc-caveats.html). Without the check such a page would end a run that
  has not read its rows; a new statement sees them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from workers.sources import catalog
from workers.sources.sql import quote_literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sinks.formats.columns import Column
    from workers.sources.catalog import Relation
    from workers.sources.definition import Definition
    from workers.sources.session import Session

CHANGED: Final = "rowferry_schema_changed"
REWRITTEN: Final = "rowferry_table_rewritten"
"""In the message of the statement that fails."""
_STORED: Final = frozenset({"r", "m"})


async def guard(session: Session, definition: Definition) -> str:
    """The condition for every page of a table, a view or a materialised view; empty for a query, of which Postgres
    itself refuses what it can not run any more."""
    relation = definition.relation
    if relation is None:
        return ""
    members = await catalog.relation_set(session, [relation.oid])
    stored = sorted({relation.oid, *(one.oid for one in members if one.kind in _STORED)})
    shape = (
        "(SELECT sum(hashtextextended(concat_ws(' ', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attnotnull,"
        " a.attisdropped), 0))"
        f" FROM pg_catalog.pg_attribute a WHERE a.attrelid = {relation.oid} AND a.attnum > 0)"
        f" || ' ' || {_inherited(relation)}"
        f" || ' ' || coalesce(to_regclass({quote_literal(relation.sql)})::oid::text, '')"
    )
    was = await session.fetchval(f"SELECT {shape}")
    return (
        f"(SELECT CASE WHEN g.rewritten THEN {_raised(REWRITTEN)}"
        f" WHEN g.shape IS DISTINCT FROM {quote_literal(was or '')} THEN {_raised(CHANGED)} ELSE true END"
        " FROM (SELECT bool_or((SELECT c.relfilenode FROM pg_catalog.pg_class c WHERE c.oid = m.oid)"
        f" <> pg_relation_filenode(m.oid)) AS rewritten, {shape} AS shape"
        f" FROM unnest('{{{','.join(map(str, stored))}}}'::oid[]) AS m(oid)) AS g)"
    )


def differences(before: Sequence[Column], now: Sequence[Column]) -> list[str]:
    """Each column that is not as it was, in words."""
    old, new = ({column.name: column.type for column in columns} for columns in (before, now))
    found = [f"column {name!r} ({new[name]}) was added" for name in new if name not in old]
    found += [f"column {name!r} was dropped or renamed" for name in old if name not in new]
    found += [
        f"column {name!r} is {new[name]} now, not {old[name]}" for name in old if old[name] != new.get(name, old[name])
    ]
    return found


def reads_alike(before: Definition, now: Definition) -> bool:
    """Whether the same rows come in the same columns: all that changed is which columns may be NULL,
    or that other tables inherit from it now."""
    if before.relation is None or now.relation is None or before.relation.oid != now.relation.oid:
        return False
    old, new = (
        [replace(one, not_null=False, exact=replace(one.exact, not_null=False)) for one in each.columns]
        for each in (before, now)
    )
    return old == new and (before.columns != now.columns or before.inherited != now.inherited)


async def whereabouts(session: Session, definition: Definition) -> str:
    """What became of a table that is not under its name any more."""
    assert definition.relation is not None, "a query has no name to lose"
    oid = definition.relation.oid
    row = await session.fetchrow("SELECT oid::regclass::text AS name FROM pg_catalog.pg_class WHERE oid = $1", oid)
    return f"it was renamed to {row['name']}" if row is not None else "it was dropped"


def _inherited(relation: Relation) -> str:
    """Whether other tables inherit from a table: before PostgreSQL 18 those may take NULL where it does not."""
    if relation.kind != "r":
        return "''"
    return f"(SELECT relhassubclass::text FROM pg_catalog.pg_class WHERE oid = {relation.oid})"


def _raised(what: str) -> str:
    """An error with this text. It depends on what is looked at, or else the planner would try it at once."""
    return f"('{what}' || left(coalesce(g.shape, ''), 0))::integer IS NULL"
