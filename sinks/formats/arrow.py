"""pyarrow, imported once and in one way, and only where a Parquet file is written: it costs 40 MB of memory."""

from __future__ import annotations

import os
import sys
from array import array
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_POOL = "ARROW_DEFAULT_MEMORY_POOL"


@contextmanager
def _sparing() -> Iterator[None]:
    """Loads the library with less memory (docs/decisions/0012-parquet.md). Its own allocator, mimalloc, keeps twice
    what a stream needs; where jemalloc is not built in, it stays with its own. numpy is optional to it and unused here:
    11 MB, where there is one."""
    chosen, numpy = os.environ.get(_POOL), sys.modules.get("numpy")
    os.environ.setdefault(_POOL, "jemalloc")
    if numpy is None:
        sys.modules["numpy"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if numpy is None:
            del sys.modules["numpy"]
        if chosen is None:
            del os.environ[_POOL]


with _sparing():
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv, parquet

    pa.default_memory_pool()  # the choice is made by the first call

__all__ = ["csv", "integers", "number", "pa", "parquet", "pc", "text"]


def integers(numbers: array[int]) -> pa.Array:
    """An array of int32. `pa.array` and `pa.scalar` would import pandas, where there is one: 40 MB more."""
    return pa.Array.from_buffers(pa.int32(), len(numbers), [None, pa.py_buffer(numbers.tobytes())])


def number(value: int) -> pa.Scalar:
    """One int32."""
    return integers(array("i", [value]))[0]


def text(value: bytes, kind: pa.DataType) -> pa.Scalar:
    """One string, or one binary."""
    edges = array("i", [0, len(value)])
    return pa.Array.from_buffers(kind, 1, [None, pa.py_buffer(edges.tobytes()), pa.py_buffer(value)])[0]
