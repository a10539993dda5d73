"""A job, its runs and where it stands, as the store gives them out; and who asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from service.domain.errors import Cause
    from service.domain.states import Desired, State
    from service.domain.steps import Condition

Key = tuple[str, ...]
"""A row's key as texts; only Postgres compares keys."""


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a job; its record outlives the job."""

    id: str
    number: int
    job_id: str
    job_name: str
    generation: int
    trigger: str
    state: State
    sink: str
    datasource: str
    started_at: datetime
    ended_at: datetime | None
    rows_read: int
    rows_sent: int
    rows_dead: int
    rows_maybe_doubled: int
    rows_late: int
    """Of the rows read: those that were found behind the position."""
    bytes_sent: int
    last_id: Key | None
    splits_done: int
    splits_total: int
    estimated_rows: int | None
    errors: Sequence[Cause]
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SplitPosition:
    """One split as the API shows it."""

    ordinal: int
    lower: Key | None
    upper: Key | None
    last_id: Key | None
    done: bool


@dataclass(frozen=True, slots=True)
class Totals:
    """Over all runs of a job."""

    rows_read: int
    rows_sent: int
    rows_dead: int
    rows_late: int
    bytes_sent: int
    runs: int


@dataclass(frozen=True, slots=True)
class Job:
    """A job as answered."""

    id: str
    account: str
    name: str
    owner: str
    spec: Mapping[str, object]
    secret_pointers: Sequence[str]
    """Where the definition holds a secret; answered as `***`."""
    spec_revision: int
    status_revision: int
    state: State
    desired: Desired | None
    reason: str | None
    generation: int
    generation_unrun: bool
    """The current generation was made by a checkpoint PUT or `?position=` and has not run."""
    guarantee: str
    guarantee_note: str
    run: Run | None
    totals: Totals
    last_id: Key | None
    splits: Sequence[SplitPosition]
    condition: Condition
    stalled: bool
    last_progress_at: datetime | None
    errors: Sequence[Cause]
    labels: Mapping[str, str]
    created_at: datetime
    updated_at: datetime
    state_changed_at: datetime
    next_run_at: datetime | None
    snapshot: Mapping[str, object] | None = None
    """{"taken_at", "until", "pid", "held"}: the moment that the current generation is read as of."""
    parked: bool = False
    """It runs, and for seconds nobody has worked on it: a process ended, and no other has taken it up yet."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks: for events."""

    name: str
    origin: str
    """`api`, an address, or a process."""
    request_id: str | None = None
