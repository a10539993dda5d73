"""Columns that a definition makes out of those of its query: one more SELECT around it, so that Postgres builds them
and no row becomes Python objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.domain.inspection import Finding
from workers.sources import catalog
from workers.sources.sql import quote_ident
from workers.sources.template import single_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.domain.spec import SourceSpec, Transform
    from workers.sources.definition import Definition
    from workers.sources.session import Session
    from workers.sources.sql import UserSql

_QUERY = "rowferry_query"


async def read_as(session: Session, definition: Definition, query: UserSql, spec: SourceSpec) -> str:
    """What is read of a definition's query, columns that it makes included; the definition then has the columns of
    that, or findings that say what can not be made."""
    if not spec.transforms:
        return query.text
    names = [column.name for column in definition.columns]
    if found := errors(definition.what, names, spec.key or (), spec.transforms):
        definition.findings += found
        return query.text
    text = around(query.text, names, spec.transforms)
    definition.columns = await catalog.query_columns(session, text)
    return text


async def key_of_query(session: Session, definition: Definition, spec: SourceSpec) -> tuple[str, ...]:
    """The primary key of the one table whose rows a query gives as they are; the reader checks that no value comes
    twice. Empty where there is none."""
    query = definition.query
    if query is None or len(definition.relations) != 1 or not single_table(query.text):
        return ()
    made = {one.output for one in spec.transforms}
    columns = {column.name for column in definition.columns} - made
    indexes = await catalog.indexes_of(session, definition.relations[0])
    primary = next((index.columns for index in indexes if index.is_primary and index.proves), ())
    return primary if columns.issuperset(primary) else ()


def around(query: str, columns: Sequence[str], transforms: Sequence[Transform]) -> str:
    """A SELECT of the query's columns, in order, and behind them the new ones. One that has the name of a column stands
    in its place, as it does in a document."""
    made = {one.output: _made(one) for one in transforms}
    named = [name for name in columns if name not in made]
    first = [f"{_QUERY}.{quote_ident(name)}" for name in named]
    further = [f"{expression} AS {quote_ident(name)}" for name, expression in made.items()]
    return f"SELECT {', '.join(first + further)} FROM ({query}) AS {_QUERY}"


def errors(what: str, columns: Sequence[str], key: Sequence[str], transforms: Sequence[Transform]) -> list[Finding]:
    """What keeps the transforms from being done."""
    found = []
    outputs: set[str] = set()
    for index, one in enumerate(transforms):
        at = f"/source/transforms/{index}"
        for name in one.input:
            if name not in columns:
                said = f"source.transforms: {what} has no column {name!r}"
                found.append(
                    Finding(f"{at}/input", "error", "column_unknown", said, f"its columns: {', '.join(columns)}")
                )
        if one.output in outputs:
            said = f"source.transforms: {one.output!r} is made twice"
            found.append(Finding(f"{at}/output", "error", "column_doubled", said, "give each output another name"))
        if one.output in key and not _same(one):
            said = f"source.transforms: {one.output!r} is the key, whose values have to stay as they are"
            found.append(Finding(f"{at}/output", "error", "key_transformed", said, "give the output another name"))
        outputs.add(one.output)
    return found


def _same(transform: Transform) -> bool:
    return transform.kind == "copy" and transform.input == [transform.output]


def _made(transform: Transform) -> str:
    inputs = [f"{_QUERY}.{quote_ident(name)}" for name in transform.input]
    if transform.kind == "copy" or (transform.kind == "geo_point" and len(inputs) == 1):
        return inputs[0]
    if transform.kind == "array":
        return f"pg_catalog.json_build_array({', '.join(inputs)})"
    latitude, longitude = inputs
    point = f"pg_catalog.json_build_object('lat', {latitude}, 'lon', {longitude})"
    return f"CASE WHEN {latitude} IS NOT NULL AND {longitude} IS NOT NULL THEN {point} END"
