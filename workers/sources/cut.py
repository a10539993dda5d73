"""One moment of a source, which any number of sessions read: a snapshot that one transaction holds and exports.

The id alone does not name the moment for good: Postgres numbers snapshots anew after a crash, so that somebody else's
may bear it. Whoever enters therefore looks, inside the snapshot, whether the very backend that exported it is still
there; it does nothing else as long as it lives. The same look refuses a moment that has become too old, by the source's
own clock.
"""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from service.domain.errors import Permanent
from workers.sources.sql import quote_literal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

_GONE: Final = frozenset({"22012", "22023", "42704", "55000", "58P01", "0A000"})
"""What entering fails with: the look (a division by zero), an id that nobody has (two codes, by major version), a
transaction that has ended, a snapshot of another database."""
SNAPSHOT_LOST: Final = "snapshot_lost"
REMEDY: Final = (
    "start with from=beginning, which takes a new snapshot; with options.snapshot set to false a start goes on from "
    "the position, with rows as they are then"
)


@dataclass(frozen=True, slots=True)
class Cut:
    """A moment that is held by one backend of the source's server."""

    id: str
    """As `SET TRANSACTION SNAPSHOT` takes it."""
    pid: int
    backend_start: str
    taken_at: str
    """By the source's clock, as the next one: texts of timestamps in UTC."""
    until: str
    """From then on nobody enters it."""
    seconds: float
    """Between the two: `options.snapshot_max_age_seconds`."""

    def as_json(self) -> dict[str, Any]:
        """As a generation keeps it."""
        return asdict(self)

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Cut:
        """Out of what `as_json` made."""
        return cls(**kept)

    @asynccontextmanager
    async def entered(self, connection: asyncpg.Connection, what: str) -> AsyncIterator[None]:
        """A transaction in this moment. Raises Permanent `snapshot_lost` or `snapshot_expired`, which speak of `what`,
        and what the connection raises."""
        try:
            await self._enter(connection, what)
            yield
        except asyncio.CancelledError:
            connection.terminate()  # to end the transaction in order may take longer than an abort has
            raise
        except BaseException:
            if not connection.is_closed():
                with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                    await connection.execute("ROLLBACK")
            raise
        else:
            await connection.execute("ROLLBACK")

    async def _enter(self, connection: asyncpg.Connection, what: str) -> None:
        try:
            await connection.execute(
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;"
                f" SET TRANSACTION SNAPSHOT {quote_literal(self.id)};"
                f" SELECT 1 / count(*) FROM pg_catalog.pg_stat_get_activity({self.pid})"
                f" WHERE backend_start = {quote_literal(self.backend_start)}"
                f" AND clock_timestamp() < {quote_literal(self.until)}"
            )
        except asyncpg.PostgresError as error:
            if error.sqlstate not in _GONE:
                raise
            await connection.execute("ROLLBACK")
            over = await connection.fetchval(f"SELECT clock_timestamp() >= {quote_literal(self.until)}")
            gone = expired(what, self.seconds) if over else lost(what, f"nobody holds it any more ({error})")
            raise gone from error


def lost(what: str, why: str) -> Permanent:
    """The moment is gone, and what was not read of it is gone with it."""
    return Permanent(SNAPSHOT_LOST, f"{what}: the snapshot that the run reads is lost: {why}", hint=REMEDY)


def expired(what: str, seconds: float) -> Permanent:
    """The moment was held for as long as the job may."""
    return Permanent(
        "snapshot_expired",
        f"{what}: the snapshot that the run reads is older than options.snapshot_max_age_seconds ({seconds:g} s), and "
        "was given back",
        hint=f"raise it, or read faster (options.splits, a smaller source.where); then {REMEDY}",
    )
