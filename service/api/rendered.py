"""Answers about jobs as they were written last, kept beside the very record that they were written from.

The store gives out the same object as long as nothing of a job has changed, and reads its mark for every request: so an
answer from here is never older than the request. What the clock changes is not kept.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from config.redaction import REDACTOR

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from service.domain.records import Job

LARGEST: Final = 32 * 1024 * 1024
"""Bytes of answers: 10,000 jobs of ordinary size in one language take 10 to 20 MB."""
_AROUND: Final = 500


class _Written:
    """The answers of one record."""

    __slots__ = ("answers", "known", "record", "size")

    def __init__(self, record: Job, known: int) -> None:
        self.record = record
        self.known = known
        self.answers: dict[Hashable, bytes] = {}
        self.size = _AROUND


class Rendered:
    """At most so many bytes of answers; those of the job that was not asked for longest go first."""

    def __init__(self, largest: int = LARGEST) -> None:
        self._largest = largest
        self._written: OrderedDict[str, _Written] = OrderedDict()
        self._bytes = 0

    @property
    def size(self) -> int:
        """Bytes that are kept now."""
        return self._bytes

    def of(self, record: Job, form: Hashable, write: Callable[[], bytes]) -> bytes:
        """What `write` makes of the record, which must be made of the record and `form` alone: language, role. It is
        asked again when the record is another, and when more secrets are known that an answer must not show."""
        written = self._written.get(record.id)
        if written is None or written.record is not record or written.known != REDACTOR.known:
            written = self._begin(record)
        else:
            self._written.move_to_end(record.id)
        found = written.answers.get(form)
        if found is None:
            found = write()
            if len(found) <= self._largest // 8:  # one that would take the place of all others is not kept
                written.answers[form] = found
                written.size += len(found)
                self._bytes += len(found)
                self._make_room()
        return found

    def _begin(self, record: Job) -> _Written:
        self._forget(record.id)
        written = self._written[record.id] = _Written(record, REDACTOR.known)
        self._bytes += written.size
        return written

    def _make_room(self) -> None:
        while self._bytes > self._largest:
            self._forget(next(iter(self._written)))

    def _forget(self, job_id: str) -> None:
        if (gone := self._written.pop(job_id, None)) is not None:
            self._bytes -= gone.size
