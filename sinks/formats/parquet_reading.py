"""Parquet files back into keys. A file tells where its columns are at its end, so it is spooled to a disk first."""

from __future__ import annotations

import json
import tempfile
from typing import TYPE_CHECKING, Final

from sinks.formats.arrow import pa, parquet
from sinks.formats.parquet_values import Values
from sinks.reading import Records

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sinks.formats.columns import Column

_ROWS: Final = 8192
"""Read at once."""


class Spooled:
    """One file: its bytes, then its keys. Raises ValueError for what is no Parquet file with these columns."""

    def __init__(self, key: Sequence[str] | None) -> None:
        self._key = key
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `read`, or with the process

    def write(self, data: bytes) -> None:
        """Keep it."""
        self._file.write(data)

    def read(self) -> Iterator[Records]:
        """The rows of the file, then it is gone."""
        with self._file:
            self._file.flush()
            try:
                with parquet.ParquetFile(self._file) as found:
                    if self._key is None:
                        yield Records(found.metadata.num_rows)
                        return
                    for batch in found.iter_batches(_ROWS, columns=list(self._key), use_threads=False):
                        by_name = dict(zip(batch.schema.names, batch.columns, strict=True))
                        yield Records(batch.num_rows, _tokens([by_name[name] for name in self._key]))
            except (pa.ArrowException, OSError, KeyError) as error:
                raise ValueError(f"it can not be read as Parquet: {str(error)[:200]}") from error


def source_tokens(records: Sequence[bytes], key: Sequence[Column]) -> list[bytes | None]:
    """The tokens of CSV records that hold the key's columns alone, by way of the types that the file keeps."""
    return list(_tokens(Values(key).read(records).columns)) if records else []


def _tokens(columns: Sequence[pa.Array]) -> list[bytes | None]:
    texts = [[_text(value) for value in column.to_pylist()] for column in columns]
    return [json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() for row in zip(*texts, strict=True)]


def _text(value: object) -> str:
    return "\\x" + value.hex() if isinstance(value, bytes) else str(value)
