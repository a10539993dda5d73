"""What looking at a source or a sink finds, as the API answers it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.domain.records import Key


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that validation has to say. An `error` makes the definition unusable as it stands."""

    pointer: str
    """JSON pointer into the definition as given."""
    severity: str
    """`error`, `warning` or `info`."""
    code: str
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a job would read, and what it would promise, before its first row. None and empty: not known, since
    something stands in the way."""

    findings: Sequence[Finding]
    guarantee: str | None = None
    guarantee_note: str = ""
    key: Sequence[str] = ()
    """The key as given, or else the primary key."""
    index: str | None = None
    """Which gives the rows in the key's order."""
    rows: int | None = None
    """Estimated, of what the definition lets through from the beginning."""
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    """The first rows, and what is to be said about all of them."""

    rows: Sequence[PreviewRow]
    outlook: Outlook


@dataclass(frozen=True, slots=True)
class PreviewRow:
    """One row as the sink would get it."""

    key: Key
    value: str
    """The encoded record, without a line end."""


@dataclass(frozen=True, slots=True)
class RowsPage:
    """Rows as they are read, and how far that is."""

    values: Sequence[bytes]
    """One JSON object each. None at all: nothing new was found, or nothing that matches."""
    last: Key | None
    """The key of the last of them."""


@dataclass(frozen=True, slots=True)
class TableColumn:
    """One column of a table of a datasource."""

    name: str
    type: str
    """As `format_type` writes it."""
    nullable: bool


@dataclass(frozen=True, slots=True)
class Sample:
    """The first rows of a query."""

    columns: Sequence[TableColumn]
    rows: Sequence[Sequence[str | None]]
    """Values as Postgres writes them, cut off where they are long."""


@dataclass(frozen=True, slots=True)
class SourceShape:
    """What a job's source gives, as the catalog has it."""

    columns: Sequence[TableColumn]
    """All it has, whatever the definition selects."""
    key: Sequence[str]
    """The key as given, or else the primary key."""


@dataclass(frozen=True, slots=True)
class TableInfo:
    """A table that a job could read."""

    name: str
    """`schema.table`, quoted as in SQL where needed: what `source.table` takes."""
    kind: str
    """`table`, `partitioned`, `view`, `materialized_view` or `foreign`."""
    columns: Sequence[TableColumn]
    keys: Sequence[Sequence[str]]
    """Column lists that may stand in `source.key`, the primary key first."""
    estimated_rows: int | None
