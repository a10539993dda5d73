"""pyarrow, imported once and in one way, and only where a Parquet file is written: it costs 40 to 60 MB of memory."""

from __future__ import annotations

import os
from array import array

# Read once, when the library is loaded. Its own choice, mimalloc, keeps three times what a stream needs: 97 MB against
# 35 MB for row groups of 8 MB (docs/decisions/0012-parquet.md). Where jemalloc is not built in, it stays with its own.
_VARIABLE = "ARROW_DEFAULT_MEMORY_POOL"
_GIVEN = os.environ.get(_VARIABLE)
os.environ.setdefault(_VARIABLE, "jemalloc")

import pyarrow as pa  # noqa: E402 - see above
import pyarrow.compute as pc  # noqa: E402
from pyarrow import csv, parquet  # noqa: E402

ALLOCATOR: str = pa.default_memory_pool().backend_name
"""Which one it is."""

if _GIVEN is None:
    del os.environ[_VARIABLE]

__all__ = ["ALLOCATOR", "csv", "integers", "number", "pa", "parquet", "pc", "text"]


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
