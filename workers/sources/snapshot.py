"""Takes one moment of a source and holds it, for everybody who reads it: a transaction that is open and does nothing.

The source is protected from a holder that is forgotten: the server itself ends the transaction when it has heard
nothing for `IDLE_SECONDS` (the holder was frozen, its machine is gone), and from PostgreSQL 17 on also when it is older
than it may become.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Final

import asyncpg

from service.domain.errors import Permanent
from service.domain.inspection import Finding
from sinks.guarded import addresses_of
from workers.sources import failures
from workers.sources.connection import connect
from workers.sources.cut import Cut, expired, lost

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.domain.datasource import Datasource
    from service.domain.errors import RowferryError
    from sinks.guarded import Guard
    from workers.sources.budget import ConnectionBudget, Slot
    from workers.sources.session import Session

IDLE_SECONDS: Final = 30
BEAT_SECONDS: Final = 5.0
"""So often the holder says that it is there, and hears whether its transaction is."""
_BEAT_TIMEOUT_SECONDS: Final = 10.0
_HAS_TRANSACTION_TIMEOUT: Final = 17
FEWEST_CONNECTIONS: Final = 2
"""One holds, one reads."""


class HeldSnapshot:
    """The Snapshot of one source: see the protocol."""

    def __init__(self, what: str, connection: asyncpg.Connection, slot: Slot, cut: Cut, taken: float) -> None:
        """Made by `hold`. `taken`: monotonic, and after the source's clock was read: readers are to find that the
        moment is too old before they find that nobody holds it."""
        self.cut = cut
        self._what, self._connection, self._slot = what, connection, slot
        self._expires_at = taken + cut.seconds
        self._ended = asyncio.Event()
        self._watch = asyncio.create_task(self._beat(), name="snapshot")
        connection.add_termination_listener(self._on_end)

    def _on_end(self, _: object) -> None:
        self._ended.set()

    async def _beat(self) -> None:
        """Returns when the transaction is not there any more."""
        try:
            while not self._ended.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(BEAT_SECONDS):
                        await self._ended.wait()
                async with asyncio.timeout(_BEAT_TIMEOUT_SECONDS):
                    await self._connection.execute("SELECT 1")
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self._ended.set()

    async def over(self) -> RowferryError:
        """See the protocol."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._expires_at - time.monotonic())):
                await self._ended.wait()
        if self._ended.is_set() and time.monotonic() < self._expires_at:
            return lost(self._what, "the connection that held it has ended (the server's log knows why)")
        return expired(self._what, self.cut.seconds)

    async def close(self) -> None:
        """See the protocol."""
        self._watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._watch
        try:
            if not self._connection.is_closed():
                with contextlib.suppress(Exception):
                    await self._connection.close(timeout=0.5)
        finally:
            self._connection.terminate()
            self._slot.release()


async def hold(
    datasource: Datasource,
    *,
    what: str,
    seconds: float,
    application_name: str,
    connections: ConnectionBudget,
    guard: Guard | None = None,
    waiting: Callable[[bool], None] | None = None,
) -> HeldSnapshot:
    """Take the present moment of a source and hold it for at most `seconds`. Waits for a connection of the budget, and
    leaves one to those who read, telling `waiting`. Raises what connecting raises, and Permanent
    `snapshot_needs_connections`."""
    refused = too_few_connections(datasource, connections.limit(datasource))
    if refused is not None:
        raise Permanent(refused.code, refused.message, hint=refused.hint)
    slot = await connections.acquire_lasting(datasource, waiting)
    connection = None
    try:
        at = await addresses_of(guard, datasource.host, datasource.port)
        connection = await connect(datasource, f"{application_name[:54]} snapshot", at=at)
        cut = await _taken(connection, seconds)
        return HeldSnapshot(what, connection, slot, cut, time.monotonic())
    except BaseException as error:
        if connection is not None:
            connection.terminate()
        slot.release()
        if isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError | OSError | TimeoutError):
            raise failures.of_statement(error, what) from error
        raise


async def _taken(connection: asyncpg.Connection, seconds: float) -> Cut:
    settings = [f"SET idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'"]
    if connection.get_server_version().major >= _HAS_TRANSACTION_TIMEOUT:
        settings.append(f"SET transaction_timeout = {int((seconds + BEAT_SECONDS) * 1000)}")
    await connection.execute("; ".join([*settings, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"]))
    row = await connection.fetchrow(
        "SELECT pg_catalog.pg_export_snapshot() AS id, pg_backend_pid() AS pid, s.backend_start::text,"
        " t.now::text AS taken_at, (t.now + make_interval(secs => $1))::text AS until"
        " FROM (SELECT clock_timestamp() AS now) AS t, pg_catalog.pg_stat_get_activity(pg_backend_pid()) AS s",
        float(seconds),
    )
    assert row is not None, "a session sees itself"
    return Cut(**dict(row), seconds=seconds)


def too_few_connections(datasource: Datasource, limit: int) -> Finding | None:
    """What stands in the way of one snapshot where only one connection may be held."""
    if limit >= FEWEST_CONNECTIONS:
        return None
    return Finding(
        "/options/snapshot",
        "error",
        "snapshot_needs_connections",
        f"options.snapshot holds one connection and reads by others, and datasource {datasource.name!r} takes {limit}",
        f"set max_connections of the datasource to {FEWEST_CONNECTIONS} or more",
    )


async def findings(session: Session, datasource: Datasource, limit: int, seconds: float) -> list[Finding]:
    """What a job should know that reads one snapshot, before it does."""
    found = [
        Finding(
            "/options/snapshot",
            "info",
            "snapshot_held_open",
            f"one transaction stays open on the source for as long as the run reads, at most {seconds:g} s: until then"
            " its VACUUM removes nothing that others delete or replace",
            "a run that takes longer ends with snapshot_expired; options.snapshot_max_age_seconds says how long",
        )
    ]
    if (refused := too_few_connections(datasource, limit)) is not None:
        found.append(refused)
    row = await session.fetchrow(
        "SELECT pg_is_in_recovery() AS standby, current_setting('hot_standby_feedback') AS feedback,"
        " coalesce(current_setting('old_snapshot_threshold', true), '-1') AS threshold"
    )
    assert row is not None, "one row"
    if row["standby"] and row["feedback"] != "on":
        found.append(
            Finding(
                "/options/snapshot",
                "warning",
                "snapshot_on_standby",
                "the datasource is a standby that ends a snapshot when its primary has removed rows that it still shows"
                " (snapshot_lost)",
                "set hot_standby_feedback on the standby, or its max_standby_streaming_delay above the run's time",
            )
        )
    if row["threshold"] != "-1":
        found.append(
            Finding(
                "/options/snapshot",
                "warning",
                "snapshot_short_lived",
                f"the server lets no snapshot grow older than {row['threshold']} (old_snapshot_threshold): a page that "
                "meets a row replaced since then ends the run with snapshot_lost",
                "set old_snapshot_threshold to -1 there",
            )
        )
    return found
