"""The service with its workers' points in the hands of a test: `python -m tests.support.signalled serve`.

At every point the service asks, over a unix socket that ROWFERRY_TEST_SIGNALS names, whether it may go on. `Points` is
the test's end: points that nobody armed are let through at once. ROWFERRY_TEST_LEASE_SECONDS shortens the leases, so
that a test need not wait ten seconds for those of a dead process to run out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

    from service.domain.steps import Lease
    from workers.signals import Point


class SocketSignals:
    """The service's end: one connection a question, so that a held split does not hold the others."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def reached(self, point: Point, lease: Lease) -> None:
        """Goes on when the test says so, or when the test is gone."""
        question = {
            "point": point.value,
            "job_id": lease.job_id,
            "generation": lease.generation,
            "kind": lease.kind.value,
            "ordinal": lease.ordinal,
            "epoch": lease.epoch,
            "pid": os.getpid(),
        }
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_unix_connection(self._path)
            try:
                writer.write(json.dumps(question).encode() + b"\n")
                await reader.readline()
            finally:
                writer.close()


@dataclass(eq=False, slots=True)
class Hold:
    """A point where the next one who comes is held."""

    point: str
    pid: int | None
    ordinal: int | None
    job_id: str | None
    skip: int
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    """Somebody is held here."""
    question: dict[str, object] = field(default_factory=dict)
    """Who: point, job_id, generation, kind, ordinal, epoch, pid."""
    _release: asyncio.Event = field(default_factory=asyncio.Event)

    def release(self) -> None:
        """Let it go on."""
        self._release.set()

    def takes(self, question: dict[str, object]) -> bool:
        """Whether this is the one to hold; counts down `skip`."""
        if self.reached.is_set() or question["point"] != self.point:
            return False
        wanted = {"pid": self.pid, "ordinal": self.ordinal, "job_id": self.job_id}
        if any(value is not None and value != question[name] for name, value in wanted.items()):
            return False
        if self.skip:
            self.skip -= 1
            return False
        return True


class Points:
    """The test's end. `async with Points(path) as points: hold = points.hold("prepared")`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: list[dict[str, object]] = []
        """Every question asked so far."""
        self._holds: list[Hold] = []
        self._server: asyncio.Server | None = None

    def hold(
        self,
        point: str,
        *,
        pid: int | None = None,
        ordinal: int | None = None,
        job_id: str | None = None,
        skip: int = 0,
    ) -> Hold:
        """Hold the next one at `point` (after letting `skip` pass); only that process, split and job where given."""
        hold = Hold(point, pid, ordinal, job_id, skip)
        self._holds.append(hold)
        return hold

    async def __aenter__(self) -> Self:
        """Listen."""
        self._server = await asyncio.start_unix_server(self._answer, str(self.path))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let everybody go on."""
        for hold in self._holds:
            hold.release()
        if self._server is not None:
            self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            question = json.loads(await reader.readline() or b"{}")
            if question:
                self.seen.append(question)
                hold = next((h for h in self._holds if h.takes(question)), None)
                if hold is not None:
                    hold.question = question
                    hold.reached.set()
                    await hold._release.wait()
                writer.write(b"go\n")
                await writer.drain()
        except OSError:
            return
        finally:
            writer.close()


def main() -> None:
    """`rowferry`, with the points connected."""
    from service.cli import main as rowferry

    rowferry(
        signals=SocketSignals(os.environ["ROWFERRY_TEST_SIGNALS"]),
        lease_seconds=float(os.environ.get("ROWFERRY_TEST_LEASE_SECONDS", "10")),
    )


if __name__ == "__main__":
    main()
