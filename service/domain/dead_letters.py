"""Dead letters: rows that can not be encoded, or that the sink refuses by themselves, and the retries of them.

A dead letter is kept with the try of the chunk it was found in, and final with the settle of that try: dropped with
it, adopted with it. A retry sends dead letters again under a sequence of its own, by the same three steps as a split.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from service.domain.errors import Cause
    from service.domain.records import Actor, Key
    from service.domain.steps import Directive, Lease
    from service.domain.window import SeenKeys

RATIO_ROWS = 1000
"""`max_ratio` is a share of the rows that a run has read, and of at least so many: the first row does not trip it."""
MOST_UNASKED = 1000
"""More than so many dead letters are not set aside without another look at the limits."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A rejected row as the worker hands it over."""

    key: Key
    code: str
    message: str
    payload: bytes | None = field(default=None, repr=False)
    """The record as it was to be sent, its beginning where it is long; None where it could not be read."""
    payload_bytes: int | None = None
    """Of the whole record."""
    message_key: bytes | None = field(default=None, repr=False)
    version: int | None = None
    """Of the chunk that it was sent with, where the target compares versions."""


@dataclass(frozen=True, slots=True)
class KeptLetter:
    """A dead letter as stored and listed."""

    id: str
    run_id: str
    generation: int
    split: int
    key: Key
    code: str
    message: str
    payload: bytes | None = field(repr=False)
    payload_bytes: int | None
    message_key: bytes | None = field(repr=False)
    version: int | None
    at: datetime
    retries: int
    note: str | None
    """What came of the last retry, beside the reason."""
    retry: int | None
    """The number of the retry that has it in hand."""


@dataclass(frozen=True, slots=True)
class Staying:
    """A dead letter that a retry did not send."""

    id: str
    code: str | None = None
    """None: the reason is the one it had."""
    message: str | None = None
    note: str | None = None

    def to_json(self) -> list[str | None]:
        """As the chunk record keeps it."""
        return [self.id, self.code, self.message, self.note]


@dataclass(frozen=True, slots=True)
class Retried:
    """What one try of a retry's chunk does to the dead letters that it is about."""

    sent: tuple[str, ...]
    """Ids, in the order of the rows."""
    stays: tuple[Staying, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As the chunk record keeps it."""
        return {"sent": list(self.sent), "stays": [one.to_json() for one in self.stays]}

    @classmethod
    def of(cls, stored: Mapping[str, Any] | None) -> Retried:
        """The other way round."""
        given = stored or {"sent": [], "stays": []}
        return cls(tuple(given["sent"]), tuple(Staying(*one) for one in given["stays"]))

    @property
    def ids(self) -> list[str]:
        """Of all of them."""
        return [*self.sent, *(one.id for one in self.stays)]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request for a retry has set in motion."""

    letters: int
    retries: Sequence[tuple[int, int]]
    """(generation, number) of each."""
    other_moment: bool = False
    """Rows are read as they are now, and the run had read all of its own as of one moment."""


class DeadLetterSteps(Protocol):
    """What a worker asks about dead letters, under a lease. Promises as `StepStore`."""

    async def check_dead_letters(self, lease: Lease, *, dead: int, read: int) -> int:
        """Raises Permanent `dead_letters_exceeded` when the run, with `dead` more among `read` more rows, is beyond
        `options.dead_letters` as it is now. Chunks that are prepared count. Answers up to how many `dead` there is no
        need to ask again: they are within the limits, unless others add theirs or the limits are lowered, which is seen
        with the chunk."""

    async def bury(
        self,
        lease: Lease,
        dead: Sequence[DeadLetter],
        *,
        last_key: Key,
        scanned_to: Key | None = None,
        seen: Sequence[SeenKeys] = (),
        late: bool = False,
    ) -> Directive:
        """A chunk without one visible row takes no sequence: its dead letters are final, and the position is behind
        them, in one transaction; `seen` are their keys for a split with a window, and rows that arrived `late` do not
        move the position. Raises Permanent `dead_letters_exceeded`, Conflict `chunk_unsettled`."""

    async def retry_origin(self, lease: Lease) -> str:
        """`source` or `payload`: what the leased retry sends."""

    async def letters(
        self, lease: Lease, *, ids: Sequence[str] | None = None, limit: int, most_bytes: int
    ) -> Sequence[KeptLetter]:
        """Dead letters that the leased retry has in hand, in the order of their versions; only `ids` where given. At
        most `limit`, and no more once their payloads reach `most_bytes`."""

    async def keep(self, lease: Lease, stays: Sequence[Staying]) -> None:
        """The leased retry sends none of these: they stay, one retry more each."""

    async def finish_retry(self, lease: Lease) -> None:
        """The retry is done. Raises Conflict `chunk_unsettled` while a chunk is prepared."""

    async def give_up_retry(self, lease: Lease, cause: Cause) -> None:
        """The retry failed: what it did not send stays, with the cause as note. A chunk whose outcome is not known
        keeps its dead letters in hand; the next request for a retry finds out first."""


class DeadLetterStore(Protocol):
    """What the HTTP side asks about dead letters. Promises as `JobStore`."""

    async def dead_letters(
        self, account: str, job_id: str, filters: Mapping[str, Any], *, limit: int, after: str | None
    ) -> tuple[Sequence[KeptLetter], str | None]:
        """A page in the order in which they became final; `filters`: `run_id`, `code`. A page ends early when its
        payloads are many bytes."""

    async def retry_dead_letters(
        self, account: str, actor: Actor, job_id: str, *, ids: Sequence[str] | None, origin: str
    ) -> Asked:
        """Send these (None: all) again from `source` or `payload`. Raises Conflict `job_running`, `retry_running`;
        NotFound for an id that the job has not."""

    async def delete_dead_letters(self, account: str, actor: Actor, job_id: str, *, ids: Sequence[str] | None) -> int:
        """How many went. Raises Conflict `retry_running`; NotFound for an id that the job has not."""
