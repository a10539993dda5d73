"""The states of a job and the one table that moves it between them.

`next_state` is pure. The store applies it as one conditional UPDATE with its event row in the same transaction,
under the lock of the job's row. docs/states.md is made from this table.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """What is observed of a job. A crash, a restart or a deploy is not a state."""

    CREATED = "created"
    """Defined, never started."""
    QUEUED = "queued"
    """Started; no step is leased yet."""
    RUNNING = "running"
    """At least one step of the run was leased; it goes on by itself over crashes and restarts."""
    STOPPING = "stopping"
    """Asked to stop: reads no more, settles what is in flight."""
    STOPPED = "stopped"
    """Ended on request; start goes on from the position."""
    ABORTING = "aborting"
    """Asked to abort: cancels at once, discards what is not visible."""
    ABORTED = "aborted"
    """Ended on request at once; start goes on from the position."""
    FAILING = "failing"
    """A permanent error was met; the other steps are parking."""
    ERROR = "error"
    """Ended by an error, its cause chain in `errors`; start goes on from the position."""
    SUCCESSFUL = "successful"
    """Every split is done and the finish step is settled."""


class Event(StrEnum):
    """What moves a job. The first four are asked for, the others happen."""

    START = "start"
    STOP = "stop"
    ABORT = "abort"
    REMOVE = "remove"
    LEASED = "leased"
    """A step of the run was leased."""
    PARKED = "parked"
    """Every leased step was parked, or its lease has run out; or the stop time-out released it."""
    RELEASED = "released"
    """Every leased step was released, or its lease has run out."""
    FAILED = "failed"
    """A permanent error, or retries used up without progress."""
    FINISHED = "finished"
    """The finish step is settled."""


class Desired(StrEnum):
    """What was asked for; None before the first start and after a final state."""

    RUN = "run"
    STOP = "stop"
    ABORT = "abort"


LIVE = frozenset({State.QUEUED, State.RUNNING, State.STOPPING, State.ABORTING, State.FAILING})
"""States in which a run exists that has not ended."""
FINAL = frozenset({State.SUCCESSFUL, State.STOPPED, State.ABORTED, State.ERROR})
"""States in which a run ends."""
REMOVABLE = frozenset({State.CREATED, *FINAL})

TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.CREATED, Event.START): State.QUEUED,
    (State.STOPPED, Event.START): State.QUEUED,
    (State.ABORTED, Event.START): State.QUEUED,
    (State.ERROR, Event.START): State.QUEUED,
    # Whether a successful job may start is the mode's question: `may_start_again`.
    (State.SUCCESSFUL, Event.START): State.QUEUED,
    (State.QUEUED, Event.LEASED): State.RUNNING,
    (State.QUEUED, Event.STOP): State.STOPPED,
    (State.QUEUED, Event.ABORT): State.ABORTED,
    (State.RUNNING, Event.STOP): State.STOPPING,
    (State.RUNNING, Event.ABORT): State.ABORTING,
    (State.STOPPING, Event.ABORT): State.ABORTING,
    (State.FAILING, Event.ABORT): State.ABORTING,
    (State.STOPPING, Event.PARKED): State.STOPPED,
    (State.ABORTING, Event.RELEASED): State.ABORTED,
    (State.RUNNING, Event.FAILED): State.FAILING,
    (State.STOPPING, Event.FAILED): State.FAILING,
    (State.FAILING, Event.PARKED): State.ERROR,
    (State.RUNNING, Event.FINISHED): State.SUCCESSFUL,
    (State.STOPPING, Event.FINISHED): State.SUCCESSFUL,
}
"""(state, event) -> state. What is not in here does not happen; removal leaves the table altogether."""

UNCHANGED: frozenset[tuple[State, Event]] = frozenset(
    {
        (State.QUEUED, Event.START),
        (State.RUNNING, Event.START),
        (State.STOPPING, Event.STOP),
        (State.ABORTING, Event.ABORT),
        *((state, event) for state in (State.CREATED, *FINAL) for event in (Event.STOP, Event.ABORT)),
    }
)
"""Verbs that find their work done already: answered 200, nothing is written."""


def next_state(state: State, event: Event) -> State | None:
    """The state that `event` leads to, or None where the table has no such line."""
    return TRANSITIONS.get((state, event))


def verbs(state: State, *, may_start: bool = True) -> list[str]:
    """The verbs that would set something in motion now, in the order start, stop, abort."""
    offered = [e.value for e in (Event.START, Event.STOP, Event.ABORT) if (state, e) in TRANSITIONS]
    return [verb for verb in offered if verb != Event.START.value or may_start]


def desired_after(state: State, event: Event) -> Desired | None:
    """The desired state that goes with the transition of `event` out of `state`; None when the result is final."""
    target = TRANSITIONS[state, event]
    if target in FINAL:
        return None
    if event is Event.START:
        return Desired.RUN
    if target is State.ABORTING:
        return Desired.ABORT
    return Desired.STOP if target in {State.STOPPING, State.FAILING} else Desired.RUN


def may_start(state: State, mode: str, *, from_beginning: bool = False, generation_unrun: bool = False) -> bool:
    """Whether start is allowed: a successful `once` or `continuous` job starts again only from the beginning, or in
    a generation that a checkpoint PUT or `?position=` made and that has not run."""
    if (state, Event.START) not in TRANSITIONS:
        return False
    if state is not State.SUCCESSFUL or mode in {"full", "incremental"}:
        return True
    return from_beginning or generation_unrun
