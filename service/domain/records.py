"""What the store gives out: frozen records, one a table row or a join that the API answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from service.domain.dead_letters import DeadLetter, Retried
    from service.domain.errors import Cause
    from service.domain.states import Desired, State
    from service.domain.window import SeenKeys, WindowState

Key = tuple[str, ...]
"""A row's key as texts; only Postgres compares keys."""


class StepKind(StrEnum):
    """What can be leased."""

    PLAN = "plan"
    """First step of a generation: closes the one before it, barrier, bounds, splits."""
    SPLIT = "split"
    FINISH = "finish"
    """After the last split: manifest, closing checks. Only its settle makes a run successful."""
    CLEAN_UP = "clean_up"
    """After removal, on the kept copy of definition and secrets."""
    RETRY = "retry"
    """Sends dead letters again, while no run is active."""
    VERIFY = "verify"
    """Compares source and sink of a generation; no part of a run (`service.domain.verification`)."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on a step until the holder's own clock says otherwise. Every write names job, step and
    epoch."""

    job_id: str
    generation: int
    kind: StepKind
    ordinal: int
    """The split's or the retry's number; 0 for the other kinds."""
    epoch: int
    owner: str
    """The process that holds it: host, pid and a random part."""
    run_id: str | None
    """None for clean-up and verify."""


@dataclass(frozen=True, slots=True)
class Step:
    """A leased step with what is needed to work on it."""

    lease: Lease
    account: str
    job_name: str
    run_number: int
    spec: Mapping[str, object]
    """The definition of the generation as stored JSON, without secrets."""
    secrets: Mapping[str, str] = field(repr=False)
    """JSON pointer into `spec` -> value, decrypted."""
    lease_seconds: float
    target: Mapping[str, object] = field(default_factory=dict)
    """What the sink said of its target when the generation was planned; empty before."""


@dataclass(frozen=True, slots=True)
class Directive:
    """What a holder hears with each renewal and settle."""

    lease: Lease
    valid: bool
    """False: the lease is lost; leave without a word."""
    ended: bool = field(default=False, kw_only=True)
    """With `valid` False: the step was ended in its holder's name, by what it was needed for."""
    state: State | None
    """The job's observed state: running goes on; stopping and failing: park; aborting: release at once."""
    stop_in_seconds: float | None
    """Until what is in flight must be discarded, while stopping."""
    rows_per_second: float | None
    bytes_per_second: float | None
    max_without_progress_seconds: float
    active_sessions: int | None = None
    """Above so many statements of others the source is left alone; None: never."""


@dataclass(frozen=True, slots=True)
class ChunkRecord:
    """One try of a chunk as stored: the sink's `Prepared` in plain fields, plus where it stands."""

    sequence: int
    epoch: int
    attempt: int
    rows: int
    bytes: int
    first_key: Key | None
    last_key: Key
    lower: Key | None
    target: str
    checksum: str | None
    details: Mapping[str, object]
    run_id: str
    retried: Retried | None = None
    """Only of a retry's chunk: the dead letters that it is about."""
    late: bool = False
    """Its rows came behind the position, which it does not move: it is the keys in `seen`, not a range."""
    seen: Sequence[SeenKeys] = ()
    """Of a split with a window: what was read for it, dead letters too. Known while it is prepared."""


@dataclass(frozen=True, slots=True)
class SplitState:
    """Where a split stands when its step is leased."""

    ordinal: int
    lower: Key | None
    upper: Key | None
    tail: bool
    """The endless last split of a continuous generation."""
    position: Key | None
    """Key of the last row whose chunk is settled, in this generation."""
    scanned_to: Key | None
    sequence: int
    """The last settled sequence, 0 before the first."""
    rows_read: int
    """Rows of the generation's split so far, for `limit`."""
    anchored_at: datetime | None
    """When the sink's own position was last written; None where it never was."""
    prepared: Sequence[ChunkRecord]
    """Every stored try of the one prepared, unsettled chunk."""
    done: bool = False
    window: WindowState | None = None
    """Only of the one split that looks back for rows that arrive late."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What becomes final together, with the dead letters that were prepared with the try."""

    chunk: ChunkRecord
    refused: Sequence[DeadLetter] = ()
    """Rows of the try that the target refused when it became visible: they count as dead, not as sent."""
    rows_maybe_doubled: int = 0
    scanned_to: Key | None = None
    """At or beyond the chunk's last key; None: the chunk's last key."""
    partition: int | None = None
    first_offset: int | None = None
    last_offset: int | None = None
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class OpenRange:
    """What is left of a generation when its successor takes over."""

    lower: Key | None
    upper: Key | None
    """None: without end."""


@dataclass(frozen=True, slots=True)
class GenerationState:
    """A generation as its plan step sees it."""

    number: int
    begins: str
    """`beginning`, `given` (ranges below) or `keep` (what its predecessor left)."""
    ranges: Sequence[OpenRange] | None
    bound: Key | None
    planned: bool
    closed: bool
    """Every split was opened and fenced by a successor, or the generation finished."""
    spec: Mapping[str, object]
    secrets: Mapping[str, str] = field(repr=False)
    splits: Sequence[SplitState] = ()
    target: Mapping[str, object] = field(default_factory=dict)
    epochs: Mapping[int, int] = field(default_factory=dict)
    """The highest epoch of each split."""
    retries: Mapping[int, int] = field(default_factory=dict)
    """The highest epoch of each retry, by its number."""
    delivered_at: datetime | None = None
    """When its last row was settled, by the store's clock; None as long as it has delivered none."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What stands beside the state, so that "running" never hides "stuck". None fields do not apply."""

    waiting_for: str | None = None
    """`horizon`, `source`, `rate`, `memory` or `connections`."""
    retrying: Mapping[str, object] | None = None
    """{"attempt", "next_at", "cause": {"code", "message"}}"""
    horizon: Mapping[str, object] | None = None
    """{"bound", "held_by": [...]}"""
    lag: Mapping[str, object] | None = None
    """{"rows", "seconds"}"""
    progressed: bool = False
    """Something moved although nothing was settled: an empty poll, a page without a match."""


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
class DueJob:
    """A job whose schedule says that it starts now."""

    account: str
    job_id: str
    at: datetime
    """What its schedule said; the tick is that of this moment and no other."""


@dataclass(frozen=True, slots=True)
class Tick:
    """What became of a tick."""

    outcome: Literal["started", "skipped", "missed"]
    ticks: int
    """How many moments of the schedule it stands for: more than one after a downtime."""
    next_run_at: datetime | None


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
    rows: int
    bytes: int
    etag: str | None
    checksum: str | None
    first_id: Key | None
    last_id: Key | None
    committed_at: datetime


@dataclass(frozen=True, slots=True)
class Token:
    """An API token; the token itself is shown once and kept hashed."""

    id: str
    name: str
    role: str
    account: str
    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class StoredDatasource:
    """A datasource as stored: `password` is a value, or a reference `env:…`/`file:…`, or None."""

    id: str
    account: str
    name: str
    revision: int
    definition: Mapping[str, object]
    """Everything but the password."""
    password: str | None = field(repr=False)
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class StoredCredential:
    """A named set of secret fields for sinks: values or references."""

    id: str
    account: str
    name: str
    revision: int
    secrets: Mapping[str, str] = field(repr=False)
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class PublicTable:
    """A table under the dotted name that the query dialect knows it by."""

    id: str
    account: str
    name: str
    revision: int
    datasource: str
    table: str
    """As `source.table` takes it."""
    time_column: str | None
    """What `eventdate`, `from` and `to` mean; None: the table has no time."""
    key: Sequence[str] | None
    """As `source.key`; None: the primary key."""
    columns: Sequence[str]
    key_is_monotonic: bool
    """The owner's word that keys only ever grow, in the order of commits."""
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that signs requests of the query dialect. Its secret is only there where one key is looked up."""

    id: str
    account: str
    name: str
    key: str
    role: str
    created_at: datetime
    secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks: for events."""

    name: str
    origin: str
    """`api`, an address, or a process."""
    request_id: str | None = None
