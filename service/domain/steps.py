"""What can be leased, and what its holder reads and writes: leases, chunks, splits, generations."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from service.domain.dead_letters import DeadLetter, Retried
    from service.domain.records import Key
    from service.domain.states import State
    from service.domain.window import SeenKeys, WindowState


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
