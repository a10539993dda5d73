"""What happened: runs, outputs, log lines, events."""

from __future__ import annotations

from typing import Any

from service.api.answers.base import Answer, Identity, KeyText, Moment
from service.api.answers.jobs import RunAnswer


class RunsAnswer(Answer):
    """A page of the job log."""

    runs: list[RunAnswer]
    next: str | None


class PartitionSpanAnswer(Answer):
    """Where rows of a chunk lie in one partition of a topic."""

    partition: int
    first_offset: int
    last_offset: int


class OutputAnswer(Answer):
    """One visible chunk."""

    run_id: Identity
    generation: int
    split: int
    sequence: int
    target: str
    partition: int | None
    first_offset: int | None
    last_offset: int | None
    partitions: list[PartitionSpanAnswer] | None
    rows: int
    bytes: int
    etag: str | None
    checksum: str | None
    first_id: KeyText
    last_id: KeyText
    committed_at: Moment


class OutputsAnswer(Answer):
    """A page of outputs."""

    outputs: list[OutputAnswer]
    next: str | None


class LogLineAnswer(Answer):
    """One line of the log."""

    seq: int
    at: Moment
    level: str
    event: str
    message: str
    job_id: Identity | None
    run_id: Identity | None
    split: int | None
    epoch: int | None
    request_id: str | None
    fields: dict[str, Any]


class LogAnswer(Answer):
    """A page of the log."""

    lines: list[LogLineAnswer]
    next: str | None


class EventAnswer(Answer):
    """Who did what, when, from where; or a change of state."""

    seq: int
    at: Moment
    event: str
    job_id: Identity | None
    job_name: str | None
    run_id: Identity | None
    actor: str | None
    origin: str | None
    state_from: str | None
    state_to: str | None
    details: dict[str, Any]


class EventsAnswer(Answer):
    """A page of events."""

    events: list[EventAnswer]
    next: str | None
