"""Reads by key that are asked for one by one and made many at a time.

A status costs the database little and its round trip a lot. While a read is under way whatever else is asked for is
gathered, and the next read brings all of it: one caller waits no longer than before, a thousand share the trips.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

K = TypeVar("K")
V = TypeVar("V")

_READERS: Final = 2
"""Reads under way at once: what comes while one is on its way need not wait for its end."""
_MOST: Final = 100


class Gathered(Generic[K, V]):
    """`get` answers with what `read` found for the key, None for what it did not find. Nobody is given what was read
    before it was asked for. What `read` raises every caller of that read gets; a caller who is cancelled disturbs
    nobody."""

    def __init__(self, read: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]]) -> None:
        """`read` is given 1 to 100 keys, each once."""
        self._read = read
        self._asked: dict[K, asyncio.Future[V | None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._readers = 0

    async def get(self, key: K) -> V | None:
        """The value of one key, read after this call."""
        answer = self._asked.get(key)
        if answer is None:
            answer = self._asked[key] = asyncio.get_running_loop().create_future()
            if self._readers < _READERS:
                self._readers += 1
                reader = asyncio.create_task(self._read_all(), name="rowferry gathered read")
                self._tasks.add(reader)
                reader.add_done_callback(self._tasks.discard)
        # Others may wait for the same.
        return await asyncio.shield(answer)

    async def _read_all(self) -> None:
        try:
            while self._asked:
                keys = list(self._asked)[:_MOST]
                await self._read_some({key: self._asked.pop(key) for key in keys})
        finally:
            # In one go with the look at what is asked: whoever asks later finds one reader fewer, and starts one.
            self._readers -= 1

    async def _read_some(self, asked: dict[K, asyncio.Future[V | None]]) -> None:
        try:
            found = await self._read(list(asked))
        except BaseException as error:
            for answer in asked.values():
                _fail(answer, error)
            if not isinstance(error, Exception):
                raise
        else:
            for key, answer in asked.items():
                answer.set_result(found.get(key))


def _fail(answer: asyncio.Future[V | None], error: BaseException) -> None:
    if isinstance(error, asyncio.CancelledError):
        answer.cancel()
    else:
        answer.set_exception(error)
        answer.exception()  # whoever asked may have gone: then nobody looks, and nothing is wrong
