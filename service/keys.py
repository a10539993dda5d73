"""`rowferry keys create`: a key and secret pair without the API, for who sets up a client of the Devo dialect."""

from __future__ import annotations

import getpass
import re
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from service.check import database
from service.domain.errors import Permanent
from service.domain.records import Actor
from service.domain.spec import NAME_PATTERN
from service.lifecycle import Keys
from service.store.migrate import pending
from service.store.secrets import SecretBox
from service.store.store import Store

if TYPE_CHECKING:
    from config.settings import Settings


async def create(settings: Settings, *, name: str, role: str, account: str) -> int:
    """Make and print it; the only place that ever shows the secret. Raises Permanent `invalid_name`, `schema_is_old`,
    `secret_key_required`, Conflict `name_taken`."""
    for what, value in (("name", name), ("account", account)):
        if not re.fullmatch(NAME_PATTERN, value):
            raise Permanent("invalid_name", f"{what} {value!r} can not be used; names match {NAME_PATTERN}")
    async with AsyncExitStack() as stack:
        dsn = await database(settings, stack)
        if await pending(dsn):
            raise Permanent("schema_is_old", "the control database has an older schema; run `rowferry migrate` first")
        store = await stack.enter_async_context(await Store.open(dsn, box=SecretBox(settings.secret_key), size=2))
        made = await Keys(store).create(account, Actor(getpass.getuser(), "command line"), name, role)
    told = {"key": made.key, "secret": made.secret, "account": account, "role": role}
    for word, text in told.items():
        print(f"{word}: {text}")  # noqa: T201 -- a command prints
    return 0
