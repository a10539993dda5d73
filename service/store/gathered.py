"""Reads by key that are asked for one by one and made many at a time.

A status costs the database little and its round trip a lot. While a read is under way whatever else is asked for is
gathered, and the next read brings all of it: one caller waits no longer than before, a thousand share the trips.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

K = TypeVar("K")
V = TypeVar("V")
C = TypeVar("C")

_READERS: Final = 2
"""Reads under way at once, the second when the first takes long: what is asked for then need not wait for its end."""
_LONG_SECONDS: Final = 0.05
_MOST: Final = 100


class Gathered(Generic[K, V, C]):
    """`get` answers with what `read` found for the key, None for what it did not find. Nobody is given what was read
    before it was asked for. What `read` raises every caller of that read gets; a caller who is cancelled disturbs
    nobody."""

    def __init__(
        self,
        opened: Callable[[], AbstractAsyncContextManager[C]],
        read: Callable[[C, Sequence[K]], Awaitable[Mapping[K, V]]],
        *,
        long_seconds: float = _LONG_SECONDS,
    ) -> None:
        """`opened` gives what is read from, a connection, and may translate what is raised in it; one serves read after
        read while more is asked for. `read` is given 1 to 100 keys, each once. A read that has been under way for
        `long_seconds` holds up nobody who asks from then on."""
        self._opened = opened
        self._read = read
        self._asked: dict[K, list[asyncio.Future[V | None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._readers = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._long_seconds = long_seconds
        self._began = 0.0

    async def get(self, key: K) -> V | None:
        """The value of one key, read after this call."""
        # One a caller, not one a key: whoever leaves cancels only its own.
        if self._loop is None:  # finding it asks the kernel who we are
            self._loop = asyncio.get_running_loop()
        answer: asyncio.Future[V | None] = self._loop.create_future()
        self._asked.setdefault(key, []).append(answer)
        if self._readers == 0 or (self._readers < _READERS and self._loop.time() - self._began >= self._long_seconds):
            self._readers += 1
            self._began = self._loop.time()
            reader = self._loop.create_task(self._read_all(), name="rowferry gathered read")
            self._tasks.add(reader)
            reader.add_done_callback(self._tasks.discard)
        return await answer

    async def _read_all(self) -> None:
        try:
            while self._asked:
                await self._read_on_one()
        finally:
            # In one go with the look at what is asked: whoever asks later finds one reader fewer, and starts one.
            self._readers -= 1

    async def _read_on_one(self) -> None:
        asked = self._taken()
        try:
            async with self._opened() as source:
                while asked:
                    self._began = asyncio.get_running_loop().time()
                    found = await self._read(source, list(asked))
                    for key, answers in asked.items():
                        _answer(answers, found.get(key))
                    asked = self._taken()
        except BaseException as error:
            for answers in asked.values():
                _fail(answers, error)
            if not isinstance(error, Exception):
                raise

    def _taken(self) -> dict[K, list[asyncio.Future[V | None]]]:
        if len(self._asked) <= _MOST:
            taken, self._asked = self._asked, {}
            return taken
        return {key: self._asked.pop(key) for key in list(self._asked)[:_MOST]}


def _answer(answers: Iterable[asyncio.Future[V | None]], value: V | None) -> None:
    for answer in answers:
        if not answer.done():  # its caller has left
            answer.set_result(value)


def _fail(answers: Iterable[asyncio.Future[V | None]], error: BaseException) -> None:
    for answer in answers:
        if answer.done():
            continue
        if isinstance(error, asyncio.CancelledError):
            answer.cancel()
        else:
            answer.set_exception(error)
            answer.exception()  # whoever asked may be gone by then: nobody looks, and nothing is wrong
