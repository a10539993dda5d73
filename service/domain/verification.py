"""A verification: source and sink compared, chunk by chunk, and what was found. With the two ports that keep it.

Pure. Only what is counted and the first hundred differences of each kind are kept, so a verification of any size takes
the same room.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
    from datetime import datetime

    from service.domain.errors import Cause
    from service.domain.records import Actor, Key
    from service.domain.steps import ChunkRecord, Condition, Lease

FIRST: Final = 100
"""Differences of one kind that are kept; all of them are counted."""
END_OF_SPLIT: Final = 2**62
"""The sequence of a position behind every chunk of a split."""


class VerifyState(StrEnum):
    """Where a verification stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCESSFUL = "successful"
    """Everything was compared, whatever was found."""
    ERROR = "error"
    ABORTED = "aborted"


class DifferenceKind(StrEnum):
    """What a difference is."""

    MISSING = "missing"
    """A row was delivered and is not in the sink."""
    DOUBLED = "doubled"
    """A row is in the sink more than once."""
    FOREIGN = "foreign"
    """The sink holds what the job did not deliver."""
    CHECKSUM = "checksum"
    """What is in the sink has another size, checksum or value than what was delivered."""
    GONE = "gone"
    """A whole object, file or index is not there."""
    NOT_VERIFIABLE = "not_verifiable"
    """The sink can not tell any more (expired or compacted records), which is no proof of a loss."""
    SOURCE_CHANGED = "source_changed"
    """The sink holds what was delivered, and the source holds something else by now."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One place where source and sink differ. `count` rows are meant by it."""

    kind: DifferenceKind
    split: int
    sequence: int | None
    """None: behind the last chunk of the split."""
    key: Key | None = None
    target: str | None = None
    expected: object = None
    found: object = None
    note: str = ""
    count: int = 1


@dataclass(frozen=True, slots=True)
class SplitCounts:
    """One split: its range, and its rows on either side."""

    ordinal: int
    lower: Key | None
    upper: Key | None
    last_id: Key | None = None
    """Up to here it is compared."""
    chunks: int = 0
    rows_recorded: int = 0
    """As the job counted them when it delivered them."""
    rows_source: int = 0
    rows_sink: int = 0
    rows_dead: int = 0
    """Accounted for as dead letters."""


@dataclass(slots=True)
class Findings:
    """What was found so far. Changed by whole chunks only, so that a chunk compared again is not counted twice."""

    splits: dict[int, SplitCounts] = field(default_factory=dict)
    counts: Counter[DifferenceKind] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, differences: Iterable[Difference]) -> None:
        """Count them, and keep the first of each kind."""
        for one in differences:
            self.counts[one.kind] += one.count
            if sum(kept.kind is one.kind for kept in self.differences) < FIRST:
                self.differences.append(one)

    def note(self, text: str) -> None:
        """Say something about the verification as a whole, once."""
        if text not in self.notes:
            self.notes.append(text)

    def compared(
        self,
        split: SplitCounts,
        *,
        upto: Key | None,
        chunks: int = 0,
        recorded: int = 0,
        source: int = 0,
        sink: int = 0,
        dead: int = 0,
    ) -> None:
        """Add the rows of a chunk to its split."""
        known = self.splits.get(split.ordinal, split)
        self.splits[split.ordinal] = replace(
            known,
            last_id=upto or known.last_id,
            chunks=known.chunks + chunks,
            rows_recorded=known.rows_recorded + recorded,
            rows_source=known.rows_source + source,
            rows_sink=known.rows_sink + sink,
            rows_dead=known.rows_dead + dead,
        )

    def as_json(self) -> dict[str, Any]:
        """For the store."""
        return {
            "splits": [
                [
                    s.ordinal,
                    *map(_listed, (s.lower, s.upper, s.last_id)),
                    *(s.chunks, s.rows_recorded, s.rows_source, s.rows_sink, s.rows_dead),
                ]
                for s in self.splits.values()
            ],
            "counts": {kind.value: count for kind, count in self.counts.items()},
            "differences": [
                [d.kind.value, d.split, d.sequence, _listed(d.key), d.target, d.expected, d.found, d.note, d.count]
                for d in self.differences
            ],
            "notes": self.notes,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """From the store; an empty object is nothing found yet."""
        splits = [SplitCounts(s[0], _key(s[1]), _key(s[2]), _key(s[3]), *s[4:]) for s in stored.get("splits", ())]
        return cls(
            {split.ordinal: split for split in splits},
            Counter({DifferenceKind(kind): count for kind, count in stored.get("counts", {}).items()}),
            [Difference(DifferenceKind(d[0]), d[1], d[2], _key(d[3]), *d[4:]) for d in stored.get("differences", ())],
            list(stored.get("notes", ())),
        )


@dataclass(frozen=True, slots=True)
class Verification:
    """A verification as answered; its record outlives the job."""

    id: str
    job_id: str
    job_name: str
    generation: int
    run_id: str | None
    """Only the chunks of this run; None: of every run of the generation."""
    checksums: bool
    state: VerifyState
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    chunks_done: int
    chunks_total: int
    rows_done: int
    rows_total: int
    findings: Findings
    errors: Sequence[Cause]
    condition: Condition | None
    """What its step waits for, while it runs."""


@dataclass(frozen=True, slots=True)
class VerifyTask:
    """What the holder of a verify step works on."""

    id: str
    run_id: str | None
    checksums: bool
    newest: bool
    """No later generation of the job has begun."""
    splits: Sequence[SplitCounts]
    """The ranges, in order, nothing counted yet; `upper` None: without end. Retries of dead letters stand before them,
    under ordinals below zero and without a range."""
    ended: Mapping[int, Key | None]
    """Splits that were done when it was asked for, and the last key that was delivered of each."""
    position: tuple[int, int]
    """(split, sequence) of the chunk that was compared last."""
    chunks_done: int
    rows_done: int
    findings: Findings


@dataclass(frozen=True, slots=True)
class VerifyProgress:
    """How far it is, with what was found up to there."""

    position: tuple[int, int]
    chunks_done: int
    rows_done: int
    findings: Findings


class VerifySteps(Protocol):
    """The part of the step store that verify steps ask. Every method raises LeaseLost as the others do; a verification
    that was aborted, or whose job was removed, has no lease any more."""

    async def verify_task(self, lease: Lease) -> VerifyTask:
        """What to compare, and how far an earlier holder came."""

    def verify_chunks(self, lease: Lease, ordinal: int, after: int) -> AsyncIterator[tuple[ChunkRecord, int]]:
        """(chunk, its dead letters) of a split above the sequence `after` in order: what was settled when the
        verification was asked for; in pages."""

    async def verify_dead(self, lease: Lease, ordinal: int, sequence: int) -> frozenset[Key]:
        """The keys of a chunk's dead letters that are still kept: some may have been deleted, or sent by a retry."""

    async def verify_late(self, lease: Lease, ordinal: int) -> int:
        """Rows of the split that arrived late: in chunks of their own, and by now in the source within the ranges of
        the others."""

    async def verify_progress(self, lease: Lease, progress: VerifyProgress) -> None:
        """Keep it: whoever leases the step next goes on there."""

    async def verify_ended(self, lease: Lease, progress: VerifyProgress) -> None:
        """Everything is compared: the verification is successful."""

    async def verify_failed(self, lease: Lease, errors: Sequence[Cause]) -> None:
        """It ends in error; the job is not touched."""


class Verifications(Protocol):
    """What the HTTP side asks."""

    async def verify(
        self, account: str, actor: Actor, job_id: str, *, run_id: str | None, checksums: bool
    ) -> Verification:
        """Queue one. Raises NotFound for the job or a run that is not its own; Conflict `job_running`, `never_run`,
        `verification_running` (with its id), `not_verifiable`."""

    async def verification(self, account: str, job_id: str, verification_id: str) -> Verification | None:
        """One of a job, removed or not."""

    async def abort_verification(
        self, account: str, actor: Actor, job_id: str, verification_id: str
    ) -> tuple[Verification, bool]:
        """End it; False when it had ended before. Its holder hears at its next heartbeat and can write nothing more.
        Raises NotFound."""


def _listed(key: Key | None) -> list[str] | None:
    return None if key is None else list(key)


def _key(value: Sequence[str] | None) -> Key | None:
    return None if value is None else tuple(value)
