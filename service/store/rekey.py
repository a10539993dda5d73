"""Encrypts every stored secret anew under the newest key, so that an older one can be thrown away."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from service.domain.errors import Permanent
from service.store.sql import load

if TYPE_CHECKING:
    from service.store.pool import Pool
    from service.store.secrets import SecretBox

SQL = load("rekey")

TABLES = ("jobs", "generations", "datasources", "credentials", "keys")


@dataclass(slots=True)
class Rekeyed:
    """What was found."""

    renewed: int = 0
    """Secrets that were under an older key and are under the newest now."""
    newest: int = 0
    """Secrets that were under the newest key already."""
    changed: int = 0
    """Secrets that somebody else stored, or removed, meanwhile: a service writes with the newest key that it has."""
    unreadable: list[str] = field(default_factory=list)
    """Whose secret none of the keys opens; it stays as it is."""


async def rekey(pool: Pool, box: SecretBox) -> Rekeyed:
    """Go through everything that is encrypted. Safe while services run, and to be repeated: each secret is replaced
    only while it is the one that was read. Raises Permanent `secret_key_required`."""
    found = Rekeyed()
    for table in TABLES:
        async with pool.connection() as connection:
            rows = await connection.fetch(SQL[table])
        for row in rows:
            try:
                renewed = box.renewed(row["sealed"])
            except Permanent as error:
                if error.code != "secret_key_wrong":
                    raise
                found.unreadable.append(row["what"])
                continue
            if renewed is None:
                found.newest += 1
                continue
            async with pool.connection() as connection:
                done = await connection.execute(
                    SQL[f"write_{table}"], row["key"], row["number"], row["sealed"], renewed
                )
            if done == "UPDATE 1":
                found.renewed += 1
            else:
                found.changed += 1
    return found
