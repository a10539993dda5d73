"""What happened, and outlives the job it happened to: runs, outputs, log lines, events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from service.domain.records import Key, Run


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of the job log, as stored."""

    seq: int
    at: datetime
    level: str
    event: str
    message: str
    account: str | None
    job_id: str | None
    run_id: str | None
    split: int | None
    epoch: int | None
    request_id: str | None
    fields: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class EventRecord:
    """Who did what, when, from where; and every change of state."""

    seq: int
    at: datetime
    event: str
    job_id: str | None
    job_name: str | None
    run_id: str | None
    actor: str | None
    origin: str | None
    """The caller's address, or the process that did it."""
    state_from: str | None
    state_to: str | None
    details: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class PartitionSpan:
    """Where rows of a chunk lie in one partition of a topic."""

    partition: int
    first_offset: int
    last_offset: int
    """Between the two may lie what others wrote."""


@dataclass(frozen=True, slots=True)
class Output:
    """One visible chunk as the API lists it."""

    run_id: str
    generation: int
    split: int
    sequence: int
    target: str
    partition: int | None
    first_offset: int | None
    last_offset: int | None
    partitions: Sequence[PartitionSpan] | None
    """Of a topic, in the order of their numbers; None for other targets, and where a broker did not say all offsets."""
    rows: int
    bytes: int
    etag: str | None
    checksum: str | None
    first_id: Key | None
    last_id: Key | None
    committed_at: datetime


class History(Protocol):
    """What the HTTP side asks of the past. `account` is the account's name; another account's does not exist."""

    async def run(self, account: str, run_id: str) -> Run | None:
        """One run of the job log."""

    async def runs(
        self, account: str, filters: Mapping[str, Any], *, limit: int, after: str | None
    ) -> tuple[Sequence[Run], str | None]:
        """Newest first; removed jobs' runs too. `filters` has the query's names: `state` is a list, `label` a list of
        pairs, `job` a name, `job_id` an id, `error` the code of any link of the cause chain, `q` a text in one of
        their messages that begins and ends where words do."""

    async def count_runs(self, account: str, filters: Mapping[str, Any]) -> int:
        """How many there are. Takes as long as there are many: a page does not."""

    async def outputs(
        self, account: str, job_id: str, *, limit: int, after: str | None
    ) -> tuple[Sequence[Output], str | None]:
        """Visible chunks in the order they were settled."""

    async def output_targets(self, account: str, job_ids: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """The names of what each of these jobs has made visible, in the order it was settled."""

    async def log_lines(
        self, account: str, filters: Mapping[str, Any], *, limit: int, after: int | None
    ) -> tuple[Sequence[LogLine], int | None]:
        """Oldest first from `after` (a `seq`)."""

    async def events(
        self, account: str, filters: Mapping[str, Any], *, limit: int, after: int | None
    ) -> tuple[Sequence[EventRecord], int | None]:
        """Oldest first from `after` (a `seq`)."""

    async def last_seq(self) -> tuple[int, int]:
        """The `seq` of the newest log line and of the newest event of any account: where following from now on
        begins."""


class LogStore(Protocol):
    """Takes the lines of the job log in batches."""

    async def write(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Append; lines of unknown jobs are kept without one."""
