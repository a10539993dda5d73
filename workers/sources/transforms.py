"""Columns that a definition makes out of those of its query: one more SELECT around it, so that Postgres builds them
and no row becomes Python objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.domain.inspection import Finding
from workers.sources.sql import quote_ident

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.domain.spec import Transform

_QUERY = "rowferry_query"


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
