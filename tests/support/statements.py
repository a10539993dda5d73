"""How many statements a server was asked, counted where nobody can forget one: in its own log."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.postgres import PostgresServer


class Statements:
    """Those of the databases that were named, since then. Not for use beside other tests on the same server."""

    def __init__(self, server: PostgresServer) -> None:
        self._log = server.log
        self._begin = self._log.stat().st_size
        self._end: int | None = None

    def stop(self) -> None:
        """What comes from now on is not counted."""
        self._end = self._log.stat().st_size

    def said(self) -> list[str]:
        """Each statement's first line, in order."""
        with self._log.open("rb") as log:
            log.seek(self._begin)
            lines = log.read(-1 if self._end is None else self._end - self._begin).decode(errors="replace").splitlines()
        return [line for line in lines if "LOG:  statement: " in line or "LOG:  execute " in line]

    def __len__(self) -> int:
        """How many."""
        return len(self.said())


@asynccontextmanager
async def statements(server: PostgresServer, *dsns: str) -> AsyncIterator[Statements]:
    """What sessions that begin from now on ask of these databases."""
    names = [dsn.rpartition("/")[2] for dsn in dsns]
    await _on_each(server, names, "ALTER DATABASE {} SET log_statement = 'all'")
    asked = Statements(server)
    yield asked
    asked.stop()
    await _on_each(server, names, "ALTER DATABASE {} RESET log_statement")


async def _on_each(server: PostgresServer, names: list[str], statement: str) -> None:
    connection = await asyncpg.connect(server.dsn())
    try:
        for name in names:
            await connection.execute(statement.format(name))
    finally:
        await connection.close()
