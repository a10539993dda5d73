"""Which columns are a job's key, which index gives rows in their order, and what proves them unique.

A key is proven when an index keeps it unique at any moment and none of its columns can be NULL; it is walked when an
index gives the rows in its order, so that a page is neither sorted nor searched for. Of a table both are asked for,
unless the job's owner says `key_is_unique`: then the reader looks at every row instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workers.sources import catalog
from workers.sources.keys import KeyColumns, KeyPart
from workers.sources.sql import quote_ident

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from workers.sources.catalog import Column, Index
    from workers.sources.definition import Definition
    from workers.sources.session import Session

_TABLES = frozenset({"r", "p"})
_INDEXED = _TABLES | {"m"}


async def settle_key(
    session: Session, definition: Definition, named: Sequence[str], *, unique_at_word: bool = False
) -> None:
    """Put the key made of the columns `named` (none: the primary key) into `definition`, or say there why it can not
    be. `unique_at_word`: somebody vouches that no two rows have the same key."""
    indexes: tuple[Index, ...] = ()
    if definition.relation is not None and definition.relation.kind in _INDEXED:
        indexes = await catalog.indexes_of(session, definition.relation.oid)
    names = tuple(named) or _primary(definition, indexes)
    by_name = {column.name: column for column in definition.columns}
    _refuse_names(definition, names, by_name)
    if definition.refused:
        return
    walked = await _walked(session, definition, names, indexes, by_name)
    plain = all(by_name[name].not_null for name in names)
    inherited = definition.inherited
    proven = (
        plain and walked is not None and not inherited and any(index.keeps_unique(names, walked) for index in indexes)
    )
    if definition.relation is not None and (definition.relation.kind in _TABLES or inherited) and not proven:
        nullable = [name for name in names if not by_name[name].not_null]
        if nullable or not unique_at_word:
            _refuse(definition, names, indexes, nullable, at_word=unique_at_word)
            return
        if walked is None:
            _warn_not_walked(definition, names)
    definition.index = None if walked is None else walked.name
    parts = await _parts(session, definition, names, by_name, walked)
    definition.key = KeyColumns(parts, proven=proven, qualifier=definition.qualifier)


def _primary(definition: Definition, indexes: Sequence[Index]) -> tuple[str, ...]:
    primary = next((index for index in indexes if index.is_primary and index.proves), None)
    if primary is not None:
        return primary.columns
    definition.error(
        "/source/key",
        "key_required",
        f"{definition.what} has no primary key",
        "name the columns of a unique index in source.key",
    )
    return ()


def _refuse_names(definition: Definition, names: Sequence[str], by_name: Mapping[str, Column]) -> None:
    for place, name in enumerate(names):
        if name not in by_name:
            definition.no_column(f"/source/key/{place}", name)
    if len(set(names)) != len(names):
        definition.error("/source/key", "column_doubled", "a key column is named more than once")


async def _walked(
    session: Session,
    definition: Definition,
    names: tuple[str, ...],
    indexes: Sequence[Index],
    by_name: Mapping[str, Column],
) -> Index | None:
    """The index that gives rows in the order of these columns; one in the columns' own collations if there is any,
    and rather one that proves them."""
    own = tuple(by_name[name].collation for name in names)
    found = [index for index in indexes if index.walks(names)]
    found.sort(key=lambda index: (index.collations[: len(names)] != own, not index.proves))
    if not found or not definition.inherited or definition.relation is None:
        return found[0] if found else None
    sorts = found[0].collations[: len(names)]
    for child in await catalog.children_of(session, definition.relation.oid):
        theirs = await catalog.indexes_of(session, child)
        if not any(index.walks(names) and index.collations[: len(names)] == sorts for index in theirs):
            return None
    return found[0]


async def _parts(
    session: Session,
    definition: Definition,
    names: tuple[str, ...],
    by_name: Mapping[str, Column],
    walked: Index | None,
) -> tuple[KeyPart, ...]:
    own = {name: by_name[name].collation for name in names}
    if definition.query is not None:
        unknown = [name for name in names if own[name] == ""]
        own |= await catalog.query_collations(session, definition.query.text, unknown)
    sorts = own if walked is None else dict(zip(walked.columns, walked.collations, strict=True))
    return tuple(KeyPart(name, by_name[name].type, sorts[name], foreign=sorts[name] != own[name]) for name in names)


def _refuse(
    definition: Definition,
    names: Sequence[str],
    indexes: Sequence[Index],
    nullable: Sequence[str],
    *,
    at_word: bool,
) -> None:
    offered = "; ".join(f"{index.name} ({', '.join(index.columns)})" for index in indexes if index.proves) or "none"
    reason = "no index keeps these columns unique and in this order"
    hint = (
        "name the columns of a unique index that is valid, not partial, not deferrable, over NOT NULL columns; "
        f"there are: {offered}. Or set options.key_is_unique, and every row's key is checked while it is read"
    )
    if definition.inherited:
        reason = "it has tables that inherit from it, over which no index is unique"
        what = definition.relation.sql if definition.relation else ""
        hint = (
            f"read each of them as a job of its own, the parent by the query SELECT * FROM ONLY {what}; or set "
            "options.key_is_unique"
        )
    if nullable:
        reason = f"{', '.join(nullable)} may be null"
        if at_word:  # a comparison with NULL is neither true nor false: such rows would be passed over
            wanted = " AND ".join(f"{quote_ident(name)} IS NOT NULL" for name in nullable)
            hint = f"ALTER COLUMN … SET NOT NULL, or read a query that leaves such rows out: WHERE {wanted}"
    definition.error(
        "/source/key",
        "key_not_unique_by_index",
        f"key ({', '.join(names)}) of {definition.what} is not proven: {reason}",
        hint,
    )


def _warn_not_walked(definition: Definition, names: Sequence[str]) -> None:
    columns = ", ".join(map(quote_ident, names))
    table = definition.relation.sql if definition.relation else definition.what
    definition.warn(
        "/source/key",
        "key_not_walked",
        f"no index gives the rows of {definition.what} in the order of ({', '.join(names)}): every page reads and "
        "sorts all that is left of it, and ends the run where that takes too long",
        f"CREATE UNIQUE INDEX CONCURRENTLY ON {table} ({columns}), or set options.allow_long_statements",
    )
