"""Jobs, where they stand and what became of them."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from service.api.answers.base import Answer, Identity, KeyText, Moment


class CauseAnswer(Answer):
    """One link of a cause chain."""

    code: str
    message: str
    at: Moment
    retryable: bool


class RunAnswer(Answer):
    """One execution of a job."""

    id: Identity
    number: int
    job_id: Identity
    job_name: str
    generation: int
    trigger: str
    state: str
    sink: str
    started_at: Moment
    ended_at: Moment | None
    rows_read: int
    rows_sent: int
    rows_dead: int
    rows_maybe_doubled: int
    rows_late: int
    bytes_sent: int
    last_id: KeyText
    rows_per_second: float | None
    splits_done: int
    splits_total: int
    progress: float | None = Field(description="0 to 1; null where the number of rows is unknown")
    eta_seconds: float | None
    labels: dict[str, str]
    errors: list[CauseAnswer]


class TotalsAnswer(Answer):
    """Over all runs."""

    rows_read: int
    rows_sent: int
    rows_dead: int
    rows_late: int
    bytes_sent: int
    runs: int


class SplitAnswer(Answer):
    """Where one split stands."""

    ordinal: int
    lower: KeyText
    upper: KeyText
    last_id: KeyText
    done: bool


class PositionAnswer(Answer):
    """Where the current generation stands."""

    generation: int
    splits: list[SplitAnswer]


class SnapshotAnswer(Answer):
    """The moment as of which a job's current generation is read."""

    taken_at: Moment
    until: Moment
    pid: int
    held: bool


class JobAnswer(Answer):
    """A job as answered."""

    id: Identity
    name: str
    account: str
    owner: str
    spec: dict[str, Any]
    generation: int
    state: str
    desired: str | None
    verbs: list[str]
    reason: str | None
    guarantee: str
    guarantee_note: str
    run: RunAnswer | None
    totals: TotalsAnswer
    last_id: KeyText
    position: PositionAnswer
    horizon: dict[str, Any] | None
    snapshot: SnapshotAnswer | None
    lag: dict[str, Any] | None
    stalled: bool
    waiting_for: str | None
    retrying: dict[str, Any] | None
    last_progress_at: Moment | None
    errors: list[CauseAnswer]
    created_at: Moment
    updated_at: Moment
    state_changed_at: Moment
    next_run_at: Moment | None


class JobsAnswer(Answer):
    """A page of jobs."""

    jobs: list[JobAnswer]
    next: str | None


class RangeAnswer(Answer):
    """Keys above `lower`, up to and with `upper`."""

    lower: KeyText
    upper: KeyText


class CheckpointAnswer(Answer):
    """The position; after a PUT `repeats` are the delivered ranges that come again."""

    generation: int
    last_id: KeyText
    splits: list[SplitAnswer]
    repeats: list[RangeAnswer] | None = None


class BulkResultAnswer(Answer):
    """What became of one job."""

    id: str
    name: str | None
    status: int
    state: str | None
    code: str | None
    detail: str | None


class BulkAnswer(Answer):
    """Per job, in the order asked for."""

    verb: str
    dry_run: bool
    results: list[BulkResultAnswer]
