"""`rowferry check` and `rowferry migrate`: one look at the settings and at every dependency, named one by one."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from config.references import References
from service.domain.errors import Permanent, RowferryError
from service.store import embedded
from service.store.migrate import migrate, pending
from service.store.secrets import SecretBox
from service.store.store import Store
from workers.app import StoredSinks, StoredSources
from workers.inspector import DefinitionInspector
from workers.sources.budget import ConnectionBudget

if TYPE_CHECKING:
    from config.settings import Settings


async def migrate_only(settings: Settings) -> int:
    """Apply what is missing; prints each."""
    async with AsyncExitStack() as stack:
        applied = await migrate(await database(settings, stack))
    for migration in applied:
        _say("migrated", migration.name)
    if not applied:
        _say("migrated", "nothing: the schema is this version's")
    return 0


async def check(settings: Settings) -> int:
    """Look at everything, change nothing; 1 when something is wrong."""
    _say("settings", "ok")
    async with AsyncExitStack() as stack:
        try:
            dsn = await database(settings, stack)
            missing = await pending(dsn)
        except RowferryError as error:
            return _fail("control database", error)
        _say("control database", "ok")
        if missing:
            _say("schema", f"lacks {len(missing)} migrations: run `rowferry migrate`, or `rowferry serve`")
            return 1
        _say("schema", "ok")
        try:
            box = SecretBox(settings.secret_key)
            store = await stack.enter_async_context(await Store.open(dsn, box=box))
            return await _check_datasources(settings, store)
        except RowferryError as error:
            return _fail("secret key", error)


async def _check_datasources(settings: Settings, store: Store) -> int:
    """Every datasource of account `default`: reachable, password right, role not too powerful."""
    references = References(os.environ, settings.secrets_dir)
    connections = ConnectionBudget(settings.max_connections_per_datasource)
    sources = StoredSources(store, references, settings.destinations, connections, lambda _: None)
    sinks = StoredSinks(store, references, settings.destinations, settings.data_dir, lambda _: None)
    inspector = DefinitionInspector(sources, sinks)
    code = 0
    for stored in await store.datasources("default"):
        try:
            findings = await inspector.check_datasource(sources.datasources.resolved(stored))
        except RowferryError as error:
            code = _fail(f"datasource {stored.name}", error)
            continue
        wrong = [finding for finding in findings if finding.severity == "error"]
        code = 1 if wrong else code
        _say(f"datasource {stored.name}", "; ".join(f.message for f in findings) or "ok")
    return code


async def database(settings: Settings, stack: AsyncExitStack) -> str:
    """The control database; a private one is started, and stopped with the stack. Raises Permanent
    `database_url_required`."""
    if settings.database_url is not None:
        return settings.database_url
    if not embedded.available():
        raise Permanent(
            "database_url_required",
            "ROWFERRY_DATABASE_URL is not set, and the extra rowferry[embedded] is not installed",
        )
    return await stack.enter_async_context(embedded.embedded_postgres(settings.data_dir))


def _fail(what: str, error: RowferryError) -> int:
    _say(what, f"FAILED: {error.message} {error.hint}".rstrip())
    return 1


def _say(what: str, news: str) -> None:
    print(f"{what}: {news}")  # noqa: T201 -- a command prints
