"""A process that does with the file sink what the runner does, and dies or freezes where it is told.

    python -m tests.support.file_sink_driver ROOT STORE EPOCH [kill|stop POINT]

STORE is a JSON file that stands for the job store: it refuses who does not hold the lease. POINT is a name of
`POINTS`, or `<function of os>:before|after:<n>` for the n-th such call.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sinks.base import Batch, Cut, Owner, Prepared, SinkError
from sinks.file import FileSink
from sinks.formats import Format
from sinks.specs import FileSinkSpec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sinks.base import Writer

PATH = "exports/orders"
JOB = "0199a1b2-0000-7000-8000-000000000001"
CHUNKS = 3
ROWS = 200
POINTS = ("leased", "opened", "looked", "staged", "prepared", "stored", "shown", "settled", "before-finish", "finished")
DONE, LEASE_LOST, OUTCOME_UNKNOWN = 0, 10, 11


class LeaseLost(Exception):
    """The store says that somebody else works on the split."""


class Points:
    """Acts when the named point is reached."""

    def __init__(self, action: str | None, point: str | None) -> None:
        self._signal = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}.get(action or "")
        self._point = point
        if point and ":" in point:
            self._watch(*point.split(":"))

    def reached(self, point: str) -> None:
        if self._signal is not None and point == self._point:
            self._point = None
            os.kill(os.getpid(), self._signal)

    def _watch(self, function: str, when: str, number: str) -> None:
        real: Callable[..., Any] = getattr(os, function)
        calls = 0

        def watched(*args: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            mine = calls == int(number)
            if mine and when == "before":
                self.reached(f"{function}:{when}:{number}")
            result = real(*args, **more)
            if mine and when == "after":
                self.reached(f"{function}:{when}:{number}")
            return result

        setattr(os, function, watched)


class Store:
    """The job store's side of the protocol, in one file."""

    def __init__(self, path: Path, epoch: int) -> None:
        self._path = path
        self._epoch = epoch

    def read(self) -> dict[str, Any]:
        empty = {"lease": 0, "settled": 0, "tries": [], "chunks": []}
        return json.loads(self._path.read_text()) if self._path.exists() else empty

    def _change(self, change: Callable[[dict[str, Any]], None]) -> None:
        state = self.read()
        if state["lease"] > self._epoch:
            raise LeaseLost
        change(state)
        temporary = self._path.with_suffix(f".{self._epoch}")
        temporary.write_text(json.dumps(state))
        temporary.replace(self._path)

    def lease(self) -> None:
        self._change(lambda state: state.update(lease=self._epoch))

    def position(self) -> int:
        self._change(lambda _: None)
        return int(self.read()["settled"])

    def prepare(self, prepared: Prepared) -> None:
        self._change(lambda state: state["tries"].append(asdict(prepared)))

    def settle(self, epoch: int, attempt: int | None) -> None:
        def change(state: dict[str, Any]) -> None:
            chosen = [one for one in state["tries"] if (one["epoch"], one["attempt"]) == (epoch, attempt)]
            state["chunks"].append(chosen[0])
            state["settled"] += 1
            state["tries"] = []

        self._change(change)


def loaded(one: dict[str, Any]) -> Prepared:
    keys = {name: one[name] and tuple(one[name]) for name in ("first_key", "last_key", "lower")}
    return Prepared(**(one | keys))


def rows_of(sequence: int) -> list[bytes]:
    return [b'{"id":%d}' % number for number in range((sequence - 1) * ROWS + 1, sequence * ROWS + 1)]


async def chunk(writer: Writer, store: Store, points: Points, sequence: int, tries: list[Prepared]) -> None:
    rows = rows_of(sequence)
    for first in range(0, ROWS, 50):
        await writer.stage(Batch(rows[first : first + 50]))
        points.reached("staged")
    lower = (str((sequence - 1) * ROWS),) if sequence > 1 else None
    first_key, last_key = (str((sequence - 1) * ROWS + 1),), (str(sequence * ROWS),)
    repeat = tries[-1] if tries else None
    prepared = await writer.prepare(Cut(sequence, len(tries) + 1, ROWS, first_key, last_key, lower, repeat))
    points.reached("prepared")
    store.prepare(prepared)
    points.reached("stored")
    await writer.make_visible(prepared)
    points.reached("shown")
    store.settle(prepared.epoch, prepared.attempt)
    points.reached("settled")


async def split(sink: FileSink, owner: Owner, store: Store, points: Points) -> None:
    store.lease()
    points.reached("leased")
    writer = sink.writer(owner)
    try:
        await writer.open()
        points.reached("opened")
        tries = [loaded(one) for one in store.read()["tries"]]
        mark = await writer.visible(tries)
        points.reached("looked")
        if mark is not None:
            store.settle(mark.epoch, mark.attempt)
            tries = []
        while (sequence := store.position() + 1) <= CHUNKS:
            await chunk(writer, store, points, sequence, tries)
            tries = []
    finally:
        await writer.discard()
        await writer.close()


async def chunks(store: Store) -> AsyncIterator[Prepared]:
    for one in store.read()["chunks"]:
        yield loaded(one)


async def work(root: Path, store_path: Path, epoch: int, points: Points) -> int:
    sink = FileSink(FileSinkSpec(kind="file", path=PATH), Format("json", "gzip"), root)
    owner = Owner("default", JOB, "orders", "run", 1, "0", epoch)
    store = Store(store_path, epoch)
    try:
        await sink.prepare_target()
        await split(sink, owner, store, points)
        points.reached("before-finish")
        await sink.finish(owner, chunks(store))
        points.reached("finished")
    except LeaseLost:
        return LEASE_LOST
    except SinkError as error:
        sys.stdout.write(f"{error.code}\n")
        return OUTCOME_UNKNOWN
    return DONE


def main() -> int:
    """One life of one worker."""
    root, store, epoch, *fate = sys.argv[1:]
    action, point = fate or (None, None)
    return asyncio.run(work(Path(root), Path(store), int(epoch), Points(action, point)))


if __name__ == "__main__":
    sys.exit(main())
