"""What looking at a source or a sink finds, as the API answers it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from service.domain.datasource import Datasource
    from service.domain.records import Key
    from service.domain.steps import OpenRange


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


class Inspector(Protocol):
    """Looks at sources and sinks for the HTTP side, which knows no driver. Changes nothing outside and keeps nothing
    open after a call. `spec` is a definition as stored (JSON, secrets left out), `secrets` its values by JSON
    pointer, decrypted; the inspector looks up the account's datasource and credential and resolves references.

    Every method that connects checks destinations first and ends within 15 seconds. What is wrong with the
    definition is a finding; raises `Transient` when the source or the sink can not be reached where rows or keys are
    asked for, `Permanent` when it refuses.
    """

    def check(self, spec: Mapping[str, object]) -> Sequence[Finding]:
        """Without connecting: user SQL by Postgres's grammar (code `sql_refused`, the message names the offset),
        safety against mode, format against sink. Create and replace refuse what has severity `error`."""

    def promise(self, spec: Mapping[str, object]) -> tuple[str, str]:
        """Guarantee (the API's word) and note of a definition, without connecting."""

    async def validate(self, account: str, spec: Mapping[str, object], secrets: Mapping[str, str]) -> Outlook:
        """`check`, and then look at source and sink: catalog, key, rights, size, reachability, destinations. Never
        raises for what it finds; an unreachable source is a finding."""

    async def preview(
        self, account: str, spec: Mapping[str, object], secrets: Mapping[str, str], *, limit: int
    ) -> Preview:
        """The first `limit` rows as the sink would get them, and what the source has to say. Raises Permanent for a
        definition that can not be read."""

    def rows(self, account: str, spec: Mapping[str, object]) -> AsyncGenerator[RowsPage, None]:
        """Every row of a definition in key order, page by page; of a continuous one without end, with empty pages while
        there is nothing. Closing the generator cancels what the source is doing for it. Raises Transient, Permanent and
        RowsRejected, and nothing is read again."""

    async def describe(self, account: str, spec: Mapping[str, object]) -> SourceShape:
        """Look at the source alone: columns and key. Raises Permanent for what makes a run impossible."""

    async def check_ranges(
        self, account: str, spec: Mapping[str, object], secrets: Mapping[str, str], ranges: Sequence[OpenRange]
    ) -> None:
        """Raises Permanent `key_invalid`, naming text and type, unless every bound can be read as the key's types,
        lower < upper in each range, and the ranges are in increasing order without overlap."""

    async def repeats(
        self,
        account: str,
        spec: Mapping[str, object],
        secrets: Mapping[str, str],
        *,
        delivered: Sequence[OpenRange],
        ranges: Sequence[OpenRange],
    ) -> Sequence[OpenRange]:
        """The parts of `delivered` that lie in `ranges`, in increasing order, compared by Postgres."""

    async def check_datasource(self, datasource: Datasource) -> Sequence[Finding]:
        """Connect and look: reachability, password, version, superuser, what the role may see."""

    async def tables(self, datasource: Datasource, *, limit: int, after: str | None) -> Sequence[TableInfo]:
        """Tables and views the role may read, ordered by name, those after the name `after`."""

    async def sample(self, datasource: Datasource, query: str, *, rows: int, characters: int) -> Sample:
        """The first rows of a query, values cut off at `characters`. The query is user SQL like that of a job: raises
        Permanent, with the offset, for what is not exactly one SELECT that changes nothing."""
