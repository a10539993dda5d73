"""Brings the control database to this version's schema.

Migrations are the files `migrations/NNNN_<phase>_<what>.sql`, each number once. The phase says when a migration
may run in a rolling deploy: `expand` before the first new process (old code goes on working), `contract` after the last
old one. A file that was released is never changed: its checksum is compared.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from service.domain.errors import Permanent
from service.store.pool import connect, mapped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.store.pool import Connection

_FILE = re.compile(r"^(\d{4})_(initial|(?:expand|contract)_[a-z0-9_]+)\.sql$")
_LOCK = 0x726F7766  # "rowf": one number for every process that migrates
_LOCK_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Migration:
    """One file."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, the same with either kind of line end."""
        return hashlib.sha256(self.sql.replace("\r\n", "\n").encode()).hexdigest()


def available() -> list[Migration]:
    """Every migration of this version in order. Raises ValueError for a file misnamed, or numbered as another is."""
    folder = resources.files(__package__).joinpath("migrations")
    files = [(f.name, f.read_text(encoding="utf-8")) for f in folder.iterdir() if f.name.endswith(".sql")]
    return in_order(files)


def in_order(files: Sequence[tuple[str, str]]) -> list[Migration]:
    """(name, text) of files as migrations; what `available` raises."""
    found: list[Migration] = []
    for name, text in sorted(files):
        match = _FILE.match(name)
        if match is None:
            raise ValueError(f"{name}: name it NNNN_expand_<what>.sql or NNNN_contract_<what>.sql")
        version, before = int(match[1]), found[-1].version if found else 0
        if version <= before or (not found and version != 1):
            raise ValueError(f"{name}: the next number is {before + 1:04}")
        found.append(Migration(version, match[2], text))
    return found


async def pending(dsn: str, *, migrations: Sequence[Migration] | None = None) -> list[Migration]:
    """What `migrate` would apply; changes nothing. Raises as `migrate` does."""
    connection = await connect(dsn, application_name="rowferry migrate")
    try:
        return await _missing(connection, available() if migrations is None else migrations)
    except Exception as error:
        raise mapped(error) or error from error
    finally:
        await connection.close()


async def migrate(dsn: str, *, migrations: Sequence[Migration] | None = None) -> list[Migration]:
    """
    Apply what is missing, each file in a transaction of its own, and return it. Any number of processes may do this
    at once: one works, the others wait for it (at most two minutes) and find nothing left.

    Raises Permanent: `schema_newer` (this version is older than the database), `migration_changed` (a file differs
    from the one that was applied), `schema_refused` (the role may not create the schema); Transient when away.
    """
    wanted = available() if migrations is None else migrations
    connection = await connect(dsn, application_name="rowferry migrate")
    try:
        await connection.execute(f"SET lock_timeout = '{_LOCK_SECONDS}s'")
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
        try:
            await _ensure_table(connection)
            missing = await _missing(connection, wanted)
            for migration in missing:
                await _apply(connection, migration)
        finally:
            if not connection.is_closed():
                await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)
    except Exception as error:
        raise mapped(error) or error from error
    else:
        return missing
    finally:
        await connection.close()


async def _ensure_table(connection: Connection) -> None:
    exists = await connection.fetchval("SELECT to_regclass('rowferry.migrations') IS NOT NULL")
    if exists:
        return
    try:
        async with connection.transaction():
            await connection.execute("CREATE SCHEMA IF NOT EXISTS rowferry")
            await connection.execute(
                "CREATE TABLE rowferry.migrations (version integer PRIMARY KEY, name text NOT NULL,"
                " checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
            )
    except Exception as error:
        if getattr(error, "sqlstate", None) == "42501":
            raise Permanent(
                "schema_refused",
                f"the control database refused to create the schema rowferry: {error}",
                hint="create the schema for this role, or grant it CREATE on the database",
            ) from error
        raise


async def _missing(connection: Connection, wanted: Sequence[Migration]) -> list[Migration]:
    if not await connection.fetchval("SELECT to_regclass('rowferry.migrations') IS NOT NULL"):
        return list(wanted)
    rows = await connection.fetch("SELECT version, name, checksum FROM rowferry.migrations ORDER BY version")
    applied = {row["version"]: row for row in rows}
    newest = wanted[-1].version if wanted else 0
    if applied and max(applied) > newest:
        raise Permanent(
            "schema_newer",
            f"the control database has schema version {max(applied)}, this rowferry knows {newest}",
            hint="run a newer rowferry, or restore a backup from before the upgrade",
        )
    for migration in wanted:
        row = applied.get(migration.version)
        if row is not None and row["checksum"] != migration.checksum:
            raise Permanent(
                "migration_changed",
                f"migration {migration.version:04}_{migration.name} differs from the one that was applied",
                hint="restore the released file; write a new migration for a change",
            )
    return [migration for migration in wanted if migration.version not in applied]


async def _apply(connection: Connection, migration: Migration) -> None:
    async with connection.transaction():
        await connection.execute(migration.sql)
        await connection.execute(
            "INSERT INTO rowferry.migrations (version, name, checksum) VALUES ($1, $2, $3)",
            migration.version,
            migration.name,
            migration.checksum,
        )
