"""Errors by what the runner must do.

::

    RowferryError           code, message, hint, retryable, and a cause chain
     +- Transient           back off with jitter, in place
     +- Permanent           the run fails, with its cause chain
     +- RowsRejected        rows that can not be delivered: dead letters within their limit, else permanent
     +- Interrupted         control flow, never logged as an error
         +- LeaseLost       the store said so, or our own clock: leave without a word
         +- Stopped         read no more, settle what is in flight, park
         +- Aborted         cancel at once, discard what is not visible, release
     +- Conflict            the caller's request does not fit the present state (409, 412)
     +- NotFound            no such object in the caller's account
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime


class RowferryError(Exception):
    """Root of our errors. `code` is stable and documented, `message` never holds a secret."""

    retryable = False

    def __init__(self, code: str, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint

    @property
    def whole(self) -> str:
        """Message and remedy in one text, for places that have no field for the remedy."""
        return f"{self.message}; {self.hint}" if self.hint else self.message


class Transient(RowferryError):
    """May succeed later without anybody's doing."""

    retryable = True


class Permanent(RowferryError):
    """Will not succeed until somebody mends what the message names."""


class RowsRejected(RowferryError):
    """A row can not be encoded, or the sink refuses it by itself; `key` names it."""

    def __init__(self, code: str, message: str, *, key: tuple[str, ...] | None = None, hint: str = "") -> None:
        super().__init__(code, message, hint=hint)
        self.key = key


class Interrupted(RowferryError):
    """Control flow, not a failure."""


class LeaseLost(Interrupted):
    """Somebody else may own the step now."""

    def __init__(self, message: str = "the lease of this step has ended") -> None:
        super().__init__("lease_lost", message)


class Stopped(Interrupted):
    """The job was asked to stop, or the process is shutting down."""

    def __init__(self) -> None:
        super().__init__("stopped", "stopped on request")


class Aborted(Interrupted):
    """The job was asked to abort."""

    def __init__(self) -> None:
        super().__init__("aborted", "aborted on request")


class Conflict(RowferryError):
    """The request does not fit the present state; `facts` (state, verbs, revision ...) go into the answer."""

    def __init__(self, code: str, message: str, *, hint: str = "", **facts: object) -> None:
        super().__init__(code, message, hint=hint)
        self.facts = facts


class NotFound(RowferryError):
    """No such object in the caller's account."""

    def __init__(self, what: str, ref: str) -> None:
        super().__init__("not_found", f"there is no {what} {ref!r}")


@dataclass(frozen=True, slots=True)
class Cause:
    """One link of a cause chain as the API shows it."""

    code: str
    message: str
    at: datetime
    retryable: bool


def chain(error: BaseException) -> Iterator[BaseException]:
    """`error` and what it came from, outermost first."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def cause_chain(error: BaseException, at: datetime) -> list[Cause]:
    """The chain as records, each with its remedy. Foreign exceptions keep their class as code and their text as
    message; links that say the same as the one before them are left out."""
    links: list[Cause] = []
    for link in chain(error):
        code = getattr(link, "code", None)
        if not isinstance(code, str):
            code = type(link).__name__
        message = str(getattr(link, "whole", None) or getattr(link, "message", None) or link) or code
        if links and links[-1].message == message:
            continue
        links.append(Cause(code, message, at, bool(getattr(link, "retryable", False))))
    return links
