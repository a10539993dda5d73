"""`rowferry secrets rekey`: what the newest key does not encrypt yet, it does afterwards."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from service.check import database
from service.domain.errors import Permanent
from service.store.migrate import pending
from service.store.pool import Pool
from service.store.rekey import rekey
from service.store.secrets import SecretBox

if TYPE_CHECKING:
    from config.settings import Settings


async def secrets(settings: Settings) -> int:
    """Re-encrypt every stored secret and say how many; 1 while an older key is still needed. Raises Permanent
    `secret_key_required`, `schema_is_old`."""
    box = SecretBox(settings.secret_key)
    if not box.has_key:
        raise Permanent("secret_key_required", "ROWFERRY_SECRET_KEY is not set: put the new key in front of the old")
    async with AsyncExitStack() as stack:
        dsn = await database(settings, stack)
        if await pending(dsn):
            raise Permanent("schema_is_old", "the control database has an older schema; run `rowferry migrate` first")
        pool = await Pool.open(dsn, size=2)
        stack.push_async_callback(pool.close)
        found = await rekey(pool, box)
    print(f"renewed: {found.renewed}")  # noqa: T201 -- a command prints
    print(f"under the newest key already: {found.newest}")  # noqa: T201
    for what in found.unreadable:
        print(f"none of the keys opens the secret of: {what}")  # noqa: T201
    if found.changed:
        print(f"changed by somebody else meanwhile: {found.changed}; run it once more")  # noqa: T201
    if found.unreadable or found.changed:
        return 1
    print("the older keys can be taken out of ROWFERRY_SECRET_KEY, once every service runs with the newest in front")  # noqa: T201
    return 0
