"""Arrays as Postgres writes them (`{1,NULL,"a b"}`) to Arrow's lists, without rounding a corner.

https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO. One dimension, the usual case, is taken apart for a
whole column at once: an element is written in the same way as a field of a CSV file that escapes by backslash, so the
text becomes one element a line for Arrow's CSV reader. More dimensions go value by value.
"""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass
from itertools import chain
from typing import Final

from sinks.formats.arrow import integers, number, pa, pc, text

_QUOTED_ARROW: Final = r'"[^"\\]*(?:\\(?s:.)[^"\\]*)*"'
_QUOTED: Final = re.compile(rb'("[^"\\]*(?:\\.[^"\\]*)*")', re.DOTALL)
_EMPTY: Final = text(b"{}", pa.string())
_NONE: Final = number(0)
_ONE: Final = number(1)


class Unfit(ValueError):
    """A value is no array of the declared shape."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A column of arrays, taken apart."""

    lines: bytes
    """One element a line, from all rows, as a CSV that escapes by backslash and writes null as `NULL`."""
    elements: int
    offsets: tuple[pa.Array, ...]
    """Of each level, the outermost first: where the list of each parent begins in the next level, and the end."""


def take_apart(texts: pa.StringArray, depth: int, delimiter: str) -> Taken:
    """Take apart a column; a null row has no elements. Raises Unfit for a value with another depth than `depth`, or
    with lower bounds other than 1: a list could not tell them."""
    if texts.null_count:
        texts = pc.fill_null(texts, _EMPTY)
    opening = rf"^(?:\{{{{{depth}}}[^{{}}]|\{{\}}$)"
    if not pc.all(pc.match_substring_regex(texts, opening), min_count=0).as_py():
        raise Unfit("an array has another number of dimensions, or lower bounds other than 1")
    return _flat(texts, delimiter) if depth == 1 else _nested(texts, depth, delimiter)


def put_together(taken: Taken, elements: pa.Array, mask: pa.Array | None, kept: pa.DataType) -> pa.Array:
    """The lists over `elements`; rows that `mask` marks are null."""
    types = [kept]
    while len(types) < len(taken.offsets):
        types.append(types[-1].value_type)
    values = elements
    for level in range(len(taken.offsets) - 1, -1, -1):
        outermost = mask if level == 0 else None
        values = pa.ListArray.from_arrays(taken.offsets[level], values, type=types[level], mask=outermost)
    return values


def _flat(texts: pa.StringArray, delimiter: str) -> Taken:
    outline = texts
    data = text_bytes(texts)
    if b'"' in data:
        outline = pc.replace_substring_regex(texts, _QUOTED_ARROW, '""')
        parts = _QUOTED.split(data)
        parts[::2] = _lines(b"\0".join(parts[::2]), delimiter.encode()).split(b"\0")
        lines = b"".join(parts)
    else:
        lines = _lines(data, delimiter.encode())
    counts = pc.add(pc.count_substring(outline, delimiter), _ONE)
    offsets = offsets_of(pc.if_else(pc.equal(texts, _EMPTY), _NONE, counts))
    elements: int = offsets[-1].as_py()
    return Taken(lines[1:-1] + b"\n" if elements else b"", elements, (offsets,))


def _lines(outside: bytes, delimiter: bytes) -> bytes:
    """What is outside of quotes, with a line's end for what is between two elements, of one row or of two. The first
    row's `{` and the last one's `}` are still there."""
    return outside.replace(b"{}", b"").replace(b"}{", b"\n").replace(delimiter, b"\n")


def _nested(texts: pa.StringArray, depth: int, delimiter: str) -> Taken:
    token = re.compile(rf'[{{}}]|"[^"\\]*(?:\\.[^"\\]*)*"|[^{{}}{re.escape(delimiter)}]+', re.DOTALL)
    counts = [array("i") for _ in range(depth)]
    lines: list[str] = []
    for written in texts.to_pylist():
        if written == "{}":
            counts[0].append(0)
            continue
        level = 0
        for word in token.findall(written):
            if word == "{":
                if level:
                    counts[level - 1][-1] += 1
                counts[level].append(0)
                level += 1
            elif word == "}":
                level -= 1
            else:
                counts[level - 1][-1] += 1
                lines.append(word)
    offsets = tuple(offsets_of(integers(one)) for one in counts)
    return Taken("\n".join(chain(lines, [""])).encode(), len(lines), offsets)


def offsets_of(counts: pa.Array) -> pa.Array:
    """Where each of some lists begins, and where the last one ends, from their lengths."""
    return pa.concat_arrays([integers(array("i", [0])), pc.cumulative_sum(counts).cast(pa.int32())])


def text_bytes(texts: pa.Array) -> bytes:
    """All values of a column of texts or bytes, without a byte between them."""
    _, offsets, data = texts.buffers()
    if data is None or not len(texts):
        return b""
    edges = memoryview(offsets).cast("i")
    view: bytes = data[edges[texts.offset] : edges[texts.offset + len(texts)]].to_pybytes()
    return view
