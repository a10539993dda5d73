"""Queries with optional lines, so that each filter of a list is plain SQL and the index it needs is used.

A line that ends in `--? tag`, one whole clause, stands only when every tag it names is asked for; `:name` becomes the
next positional parameter. `WHERE $1 IS NULL OR ...` would do with one text, but Postgres plans that once for all cases:
a keyset page deep in a list then reads the whole index before it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_OPTIONAL = re.compile(r"^(?P<sql>.*?)\s*--\?\s*(?P<tags>.+?)\s*$")
_PARAMETER = re.compile(r"(?<![:\w]):([a-z_]+)")


def compose(template: str, tags: frozenset[str], values: Mapping[str, object]) -> tuple[str, list[object]]:
    """The query with the lines of `tags`, and its arguments in order. KeyError for a parameter without a value."""
    query, names = _composed(template, tags)
    return query, [values[name] for name in names]


def inlined(template: str, tags: frozenset[str], expressions: Mapping[str, str]) -> str:
    """As `compose`, with an SQL expression of ours in the place of each parameter: a query that stands in another. No
    value from outside may be among them. KeyError for a parameter without an expression."""
    return _PARAMETER.sub(lambda match: expressions[match[1]], "\n".join(_lines(template, tags)))


# A status is asked for thousands of times a second, by a handful of sets of tags.
@lru_cache(maxsize=1024)
def _composed(template: str, tags: frozenset[str]) -> tuple[str, tuple[str, ...]]:
    numbers: dict[str, int] = {}

    def numbered(match: re.Match[str]) -> str:
        return f"${numbers.setdefault(match[1], len(numbers) + 1)}"

    query = _PARAMETER.sub(numbered, "\n".join(_lines(template, tags)))
    return query, tuple(numbers)


def _lines(template: str, tags: frozenset[str]) -> list[str]:
    return [line for text in template.splitlines() if (line := _kept(text, tags)) is not None]


def _kept(text: str, tags: frozenset[str]) -> str | None:
    match = _OPTIONAL.match(text)
    if match is None:
        return text
    return match["sql"] if tags.issuperset(match["tags"].split()) else None
