"""Which faults a run meets, and when: a pure function of the seed, the kind of sink and the number of faults.

Kinds and places are dealt like cards from a deck that is shuffled anew when it is empty, and so are the workers' named
points, so that a short run meets many of them and a long one all. A shorter run is the beginning of a longer one of
the same seed.

| kind | what it does |
|---|---|
| `cut` | resets every open connection |
| `refuse` | resets them and takes no new ones for a while |
| `stall` | takes connections and requests, and forwards nothing for a while |
| `delay`, `throttle` | everything comes late; a few kB a second |
| `lose_reply`, `cut_reply` | one request is executed and its answer never comes, or a reset instead of it |
| `lose_request`, `cut_request` | one request is not executed, and the same |
| `kill`, `freeze`, `terminate` | SIGKILL and a new start; SIGSTOP and, later, SIGCONT; SIGTERM and a new start |
| `stop`, `abort` | the job's verb; the job is started again when it has ended |
| `starve` | the service gets no new file descriptor for a while: neither files nor connections |
| `full` | the disk of the files takes nothing more for a while |

A request that is lost on its way to a sink is one that makes a chunk visible, where that server sees such requests.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeVar

from workers.signals import Point

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

T = TypeVar("T")


class Kind(StrEnum):
    """What goes wrong; see the module's table."""

    CUT = "cut"
    REFUSE = "refuse"
    STALL = "stall"
    DELAY = "delay"
    THROTTLE = "throttle"
    LOSE_REPLY = "lose_reply"
    LOSE_REQUEST = "lose_request"
    CUT_REPLY = "cut_reply"
    CUT_REQUEST = "cut_request"
    KILL = "kill"
    FREEZE = "freeze"
    TERMINATE = "terminate"
    STOP = "stop"
    ABORT = "abort"
    STARVE = "starve"
    FULL = "full"


SOURCE, CONTROL = "source", "control"
HOLDER, OTHER, BOTH = "holder", "other", "both"
"""A service: the one that stands at the named point (or worked last), the other one, both."""
STREAMS: Final = ("once", "incremental", "continuous")
"""The jobs that run all the time, by their mode."""
SINKS: Final[dict[str, tuple[str, ...]]] = {
    "kafka": ("broker",),
    "s3": ("store",),
    "hdfs": ("namenode", "datanode"),
    "elasticsearch": ("node",),
    "file": (),
}
"""By kind of sink, its servers: each of them a real process behind a proxy of its own."""
FOLDER = "folder"
LEASE_SECONDS = 3.0

_ON_THE_WAY = (Kind.CUT, Kind.REFUSE, Kind.STALL, Kind.DELAY, Kind.THROTTLE)
LOST = (Kind.LOSE_REPLY, Kind.LOSE_REQUEST, Kind.CUT_REPLY, Kind.CUT_REQUEST)
_RANDOM = ""
_OFTEN = {
    Point.LEASED,
    Point.OPENED,
    Point.READ,
    Point.STAGED,
    Point.COMPLETE,
    Point.PREPARED,
    Point.VISIBLE,
    Point.SETTLED,
}
# Within a moment: a request that is lost must come by, a verb must be taken, a service that is told to end or looked at
# must be ready; none of it would once something else is away.
_FIRST: Final = {
    **dict.fromkeys(LOST, 0),
    **dict.fromkeys((Kind.STOP, Kind.ABORT), 1),
    **dict.fromkeys((Kind.TERMINATE, Kind.STARVE, Kind.FULL), 2),
}
AT_ONCE = (1, 2, 2, 3)
"""How many faults come together; fewer where two would hit the same side."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `seconds`: how long it lasts; `amount`: seconds of a delay, bytes a second of a throttle."""

    kind: Kind
    where: str
    seconds: float
    amount: float = 0.0

    @property
    def side(self) -> str:
        """Who is hit: two faults of one moment never hit the same."""
        if self.where in {SOURCE, CONTROL}:
            return self.where
        if self.where in {HOLDER, OTHER, BOTH}:
            return "service"
        return "job" if self.where in STREAMS else "sink"

    def __str__(self) -> str:
        return f"{self.kind} {self.where}"


@dataclass(frozen=True, slots=True)
class Moment:
    """Faults that come together: when somebody reaches `point` for the `skip` + 1st time from now on, or, where
    `point` is empty, when `skip` + 1 points of any name have passed."""

    number: int
    point: str
    skip: int
    faults: tuple[Fault, ...]

    @property
    def can_be_asked(self) -> bool:
        """Whether services answer while it lasts: not without their control database beside another fault, and not
        when both are frozen or just being started."""
        deaf = any(fault.where == BOTH or fault.kind is Kind.TERMINATE for fault in self.faults)
        return not deaf and (len(self.faults) == 1 or all(fault.where != CONTROL for fault in self.faults))


def schedule(seed: int, sink: str, count: int) -> list[Moment]:
    """`count` faults in the order in which they come."""
    chance = random.Random(f"{seed}/{sink}")
    cards, points = _dealt(_cards(sink), chance), _dealt(_points(), chance)
    moments: list[Moment] = []
    kept: list[Fault] = []
    left = count
    while left:
        moment = _moment(len(moments) + 1, cards, points, kept, chance)
        moments.append(Moment(moment.number, moment.point, moment.skip, moment.faults[:left]))
        left -= len(moments[-1].faults)
    return moments


def _moment(
    number: int,
    cards: Iterator[tuple[Kind, str]],
    points: Iterator[str],
    kept: list[Fault],
    chance: random.Random,
) -> Moment:
    """`kept`: a fault that hits the same side as one before it, and comes first in the next moment."""
    point = next(points)
    skip = chance.randrange(3) if point in _OFTEN else chance.randrange(12) if point == _RANDOM else 0
    faults = [kept.pop()] if kept else [_fault(*next(cards), chance)]
    for _ in range(chance.choice(AT_ONCE) - 1):
        faults.append(_fault(*next(cards), chance))
        if faults[-1].side in {one.side for one in faults[:-1]}:
            kept.append(faults.pop())
            break
    faults.sort(key=lambda fault: _FIRST.get(fault.kind, len(Kind)))
    return Moment(number, point, skip, tuple(faults))


def _fault(kind: Kind, where: str, chance: random.Random) -> Fault:
    seconds, amount = round(chance.uniform(0.2, 1.5), 2), 0.0
    if kind is Kind.FREEZE and where in {HOLDER, OTHER, BOTH} and chance.random() < 0.5:
        seconds = round(LEASE_SECONDS + chance.uniform(0.3, 1.5), 2)
    elif kind is Kind.DELAY:
        amount = round(chance.uniform(0.02, 0.2), 3)
    elif kind is Kind.THROTTLE:
        amount = float(chance.randrange(2_000, 40_000))
    elif kind in {Kind.CUT, Kind.CUT_REPLY, Kind.CUT_REQUEST, Kind.KILL, Kind.TERMINATE, Kind.STOP, Kind.ABORT}:
        seconds = 0.0
    return Fault(kind, where, seconds, amount)


def _cards(sink: str) -> list[tuple[Kind, str]]:
    """One deck: what can happen anywhere once, what belongs to the promise more often, slow restarts once."""
    servers = SINKS[sink]
    deck = [(kind, where) for where in (SOURCE, CONTROL, *servers) for kind in _ON_THE_WAY]
    deck += [(kind, where) for where in (CONTROL, *servers) for kind in LOST]
    deck += [(Kind.CUT_REPLY, SOURCE)]
    deck += [(kind, where) for where in (SOURCE, CONTROL, *servers) for kind in (Kind.KILL, Kind.FREEZE)]
    deck += [(Kind.KILL, where) for where in (HOLDER, HOLDER, HOLDER, OTHER, BOTH)]
    deck += [(Kind.FREEZE, where) for where in (HOLDER, HOLDER, OTHER, BOTH)]
    deck += [(Kind.TERMINATE, HOLDER), (Kind.STARVE, HOLDER)]
    deck += [(kind, where) for kind in (Kind.STOP, Kind.ABORT) for where in STREAMS]
    if not servers:
        deck += [(Kind.FULL, FOLDER)] * 4 + [(Kind.KILL, HOLDER)] * 3
    return deck


_ELSEWHERE = {Point.DAY_WRITTEN, Point.COMPARED}
"""A manifest of a day comes after midnight, a comparison when somebody asks: each has tests of its own."""
POINTS: Final = tuple(point for point in Point if point not in _ELSEWHERE)
"""All that a job reaches again and again."""


def _points() -> list[str]:
    return [*POINTS, *[_RANDOM] * (len(POINTS) // 2)]


def _dealt(cards: Sequence[T], chance: random.Random) -> Iterator[T]:
    while True:
        yield from chance.sample(cards, len(cards))
