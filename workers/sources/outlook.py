"""What a definition will meet, said before its first row: rights that are missing, and plans that begin with the last
row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.domain.inspection import Finding
from workers.sources.estimate import walks
from workers.sources.sql import quote_ident

if TYPE_CHECKING:
    from service.domain.datasource import Datasource
    from workers.sources.base import Size
    from workers.sources.catalog import Relation
    from workers.sources.definition import Definition
    from workers.sources.session import Session

_SMALL_ROWS = 10_000
"""A query over fewer is read in time however it is planned."""


def closed(datasource: Datasource, relation: Relation) -> tuple[str, str] | None:
    """Why this role may not read a relation at all, and the remedy; None when it may read something of it."""
    if not relation.open_schema:
        return (
            f"user {datasource.user!r} may not use schema {relation.schema}, in which {relation} is",
            f"GRANT USAGE ON SCHEMA {quote_ident(relation.schema)} TO the datasource's role",
        )
    if not relation.readable:
        return (
            f"user {datasource.user!r} may not read {relation}",
            f"GRANT SELECT ON {relation.sql} TO the datasource's role",
        )
    return None


async def refuse_closed_columns(session: Session, datasource: Datasource, definition: Definition) -> None:
    """An error for the columns of a table that are to be read and may not be."""
    if definition.relation is None:
        return
    given = (one.alias for one in definition.outputs)
    needed = list(dict.fromkeys((*given, *definition.key.names, *definition.message_key)))
    rows = await session.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = $1 AND attname = ANY ($2::text[]) AND attnum > 0"
        " AND NOT attisdropped AND NOT has_column_privilege(attrelid, attnum, 'SELECT') ORDER BY attnum",
        definition.relation.oid,
        needed,
    )
    if rows:
        names = [row["attname"] for row in rows]
        definition.error(
            "/source/columns",
            "permission_denied",
            f"user {datasource.user!r} may not read {', '.join(map(repr, names))} of {definition.what}",
            f"GRANT SELECT ({', '.join(map(quote_ident, names))}) ON {definition.relation.sql} TO the datasource's "
            "role, or name the columns that it may read in source.columns",
        )


async def unseen_holders(session: Session, pointer: str) -> list[Finding]:
    """Of those a job waits for, a role without this right sees that they are there, and no more."""
    user = await session.fetchval(
        "SELECT current_user::text WHERE NOT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')"
    )
    if user is None:
        return []
    message = f"user {user!r} does not see the age and statement of those a job waits for"
    return [Finding(pointer, "info", "holders_not_visible", message, "GRANT pg_read_all_stats TO the role")]


def unproven_key(definition: Definition) -> list[Finding]:
    """A key that is unique at its owner's word, or by what a query is made of."""
    if definition.key.proven:
        return []
    message = "no index proves this key unique; the reader checks every row and fails the run at a repeated key"
    hint = "an index that proves it saves the surprise"
    return [Finding("/source/key", "info", "key_checked_while_reading", message, hint)]


def load_not_visible(datasource: Datasource) -> Finding:
    """What `options.ease` needs and the role has not."""
    return Finding(
        "/options/ease",
        "error",
        "load_not_visible",
        f"options.ease: user {datasource.user!r} does not see what other sessions do",
        "GRANT pg_read_all_stats TO the role, or leave options.ease out",
    )


async def slow_beginning(session: Session, definition: Definition, size: Size, max_row_bytes: int) -> list[Finding]:
    """A query whose plan has to see all rows before it gives the first, for every page."""
    small = (size.rows or 0) <= _SMALL_ROWS
    indexed = definition.relation is not None and definition.relation.kind in {"r", "p", "m"}
    if small or indexed or await walks(session, definition.page_sql(None, None, 500, max_row_bytes)):
        return []
    return [
        Finding(
            "/source",
            "warning",
            "query_not_walked",
            f"the plan of {definition.what} sees all of about {size.rows} rows before it gives the first by "
            f"({', '.join(definition.key.names)}), and does so for every page; a statement may take a second",
            "an index on the key's columns, a key that one has, or options.allow_long_statements",
        )
    ]
