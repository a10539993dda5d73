"""The contract by which a verification reads a sink back. Nothing here writes, fences, or needs a lease.

`Sink.reader` gives a `ContentReader` where a chunk's records can be listed (files, objects, Kafka), a `KeyReader` where
rows are found by their key (Elasticsearch), None where nothing is kept (donothing).

Errors are those of `sinks.base`: SinkUnavailable comes back, SinkRefused does not. That something was delivered and is
not there is no error but what is asked for: a `Flaw`.

A *token* is a row's key as the records hold it, in a form that is equal for equal keys and for nothing else. The reader
makes the tokens of what the source gives in the sink's format too, so that no type has to be understood: both sides
were written by the same Postgres.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from sinks.base import Batch, Prepared


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of each record is compared."""

    key: tuple[str, ...] | None
    """The key's columns; None: the records do not hold them, rows are only counted."""
    values: bool = False
    """Also the whole record."""


@dataclass(frozen=True, slots=True)
class Records:
    """A slice of what the target holds of a chunk, in any order."""

    rows: int
    keys: list[bytes | None] | None = None
    """A token each, None for a record in which no key can be read. None: no keys were asked for."""
    values: list[bytes] | None = None
    """The records, where they were asked for and stand as the source wrote them."""


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something about a chunk that is not as delivered. After one, the chunk's records may be fewer or others."""

    kind: str
    """`gone`, `checksum`, `foreign` or `not_verifiable`."""
    target: str
    expected: object
    found: object
    note: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """What the target has under one row's key."""

    there: bool
    flaw: Flaw | None = None
    """It is there and not as delivered."""


def tombstone(key: bytes | None) -> bytes:
    """The token of a record that says that the row is gone, by its message key. (Those of rows are JSON arrays.)"""
    return b"-" + (key or b"")


@runtime_checkable
class ContentReader(Protocol):
    """Lists what the target holds of a chunk. For one task; `close` at the end, always."""

    def contents(self, chunk: Prepared) -> AsyncGenerator[Records | Flaw]:
        """Every record that readers of the target see of this chunk, in slices of about a megabyte, in constant memory.
        Without a `Flaw` and with as many records as were delivered, it holds what was delivered. A target that is not
        there at all is one flaw `gone` and no record."""

    async def tokens(self, chunk: Prepared, records: list[bytes]) -> list[bytes | None]:
        """The tokens of records as the source gives them in the chunk's format: of the key's columns alone, in the
        key's order, or whole where values are compared; of an empty value, a row that is gone, None. Only where a key
        was asked for."""

    async def close(self) -> None:
        """Give everything back. Never raises."""


@runtime_checkable
class KeyReader(Protocol):
    """Looks rows up by their key. For one task; `close` at the end, always."""

    async def look_up(self, chunk: Prepared, rows: Batch) -> Sequence[Standing] | Flaw:
        """What is there of each row of `rows`, in order (`ids` and, where the sink routes by one, `keys`; `values`
        are compared where they were asked for). A flaw `gone` when the whole target is not there."""

    async def close(self) -> None:
        """Give everything back. Never raises."""
