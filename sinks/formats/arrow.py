"""pyarrow, imported once and in one way, and only where a Parquet file is written: it costs 40 MB of memory."""

from __future__ import annotations

import os
import sys
from array import array
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_POOL: Final = "ARROW_DEFAULT_MEMORY_POOL"
_UNUSED: Final = ("numpy", "pyarrow._s3fs", "pyarrow._gcsfs", "pyarrow._azurefs", "pyarrow._hdfs")
"""Optional to it and unused here: 11 MB for numpy, where there is one, 3 MB for its own clients of file systems."""


@contextmanager
def _sparing() -> Iterator[None]:
    """Loads the library with less memory (docs/decisions/0012-parquet.md). Its own allocator, mimalloc, keeps twice
    what a stream needs; where jemalloc is not built in, it stays with its own."""
    chosen, unused = os.environ.get(_POOL), [name for name in _UNUSED if sys.modules.get(name) is None]
    os.environ.setdefault(_POOL, "jemalloc")
    sys.modules.update(dict.fromkeys(unused))  # type: ignore[arg-type]  # None: the import of it fails
    try:
        yield
    finally:
        for name in unused:
            del sys.modules[name]
        if chosen is None:
            del os.environ[_POOL]


with _sparing():
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv, parquet

    _usual = pa.default_memory_pool()  # the choice is made by the first call

__all__ = ["allocate_for", "csv", "integers", "number", "pa", "parquet", "pc", "text"]


def allocate_for(*, large: bool) -> None:
    """Where memory comes from until the next call, for all streams of the process. jemalloc keeps what is freed for a
    second: of rows of a megabyte that is as much again as is used. The process's own allocator gives large blocks back
    at once (`config.allocator`), which for rows of the usual size would be a quarter of the speed."""
    pa.set_memory_pool(pa.system_memory_pool() if large else _usual)


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
