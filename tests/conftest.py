"""Fixtures over tests/support: real servers for a session, a database and a topic for a test."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.support.elasticsearch import SearchServer
from tests.support.hdfs import HdfsProxies, HdfsServer
from tests.support.kafka import KafkaServer
from tests.support.memory import claim, give_back
from tests.support.postgres import PostgresServer
from tests.support.processes import REGISTRY
from tests.support.proxy import FaultProxy
from tests.support.s3 import MotoServer, NoGo, S3Server
from tests.support.secrecy import told

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator

    from xdist.remote import Producer

    from tests.support.distribution import FromBothEnds


# Whatever the container says: the services that tests start by the hundred would compile all their modules each time.
os.environ["PYTHONDONTWRITEBYTECODE"] = ""
NEWEST = 18


settings.register_profile("rowferry", deadline=None)  # other tests run beside, and take the processor for a while
settings.load_profile("rowferry")


def pytest_configure(config: pytest.Config) -> None:
    """Servers keep their data in memory; who runs tests side by side claims it for all sides."""
    if (folder := claim()) is not None:
        config.add_cleanup(lambda: give_back(folder))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FromBothEnds | None:
    """How tests are divided among processes that run side by side."""
    if config.getoption("dist") != "loadfile":
        return None
    from tests.support.distribution import FromBothEnds

    config.option.loadscopereorder = False
    return FromBothEnds(config, log)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL for the whole session. A test that kills it starts it again."""
    with closing(PostgresServer()) as server:
        yield server.start()


@pytest.fixture(scope="session")
def newest_postgres_server() -> Iterator[PostgresServer]:
    """The newest major that can be had, for what differs between majors."""
    server = PostgresServer(version=NEWEST)
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture(params=["oldest", "newest"])
async def database_of_each_major(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """As `database`, of the session's server and of the newest one."""
    server: PostgresServer = request.getfixturevalue(
        "postgres_server" if request.param == "oldest" else "newest_postgres_server"
    )
    dsn = await server.create_database()
    yield dsn
    await server.drop_database(dsn)


@pytest.fixture
async def database(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """The dsn of a fresh, empty database; dropped afterwards, with whoever is still connected."""
    if not postgres_server.process.running:
        postgres_server.start()
    dsn = await postgres_server.create_database()
    yield dsn
    if postgres_server.process.running:
        await postgres_server.drop_database(dsn)


@pytest.fixture
async def control_database(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """A second fresh database, with the service's own tables and no row in them."""
    dsn = await postgres_server.create_control_database()
    yield dsn
    if postgres_server.process.running:
        await postgres_server.drop_database(dsn)


@pytest.fixture(scope="session")
def _kafka_server_of_session() -> Iterator[KafkaServer]:
    with closing(KafkaServer()) as server:
        yield server.start()


@pytest.fixture
def kafka_server(_kafka_server_of_session: KafkaServer) -> KafkaServer:
    """One Apache Kafka for the whole session, running (and started again if a test left it dead)."""
    if not _kafka_server_of_session.process.running:
        _kafka_server_of_session.start()
    return _kafka_server_of_session


@pytest.fixture
def topic(kafka_server: KafkaServer) -> str:
    """A fresh topic of one partition."""
    return kafka_server.create_topic()


@pytest.fixture
async def kafka_proxy(kafka_server: KafkaServer) -> AsyncIterator[FaultProxy]:
    """A fault proxy that clients of `kafka_server.proxied_bootstrap` go through."""
    proxy = FaultProxy(kafka_server.proxied_port, port=kafka_server.proxy_port, framing="kafka")
    async with proxy:
        yield proxy


def _search_server(flavour: str) -> Iterator[SearchServer]:
    with closing(SearchServer(flavour)) as server:
        yield server.start()


@pytest.fixture(scope="session")
def _opensearch_of_session() -> Iterator[SearchServer]:
    yield from _search_server("opensearch")


@pytest.fixture(scope="session")
def _elasticsearch_of_session() -> Iterator[SearchServer]:
    yield from _search_server("elasticsearch")


@pytest.fixture
def opensearch_server(_opensearch_of_session: SearchServer) -> SearchServer:
    """One OpenSearch node for the whole session, running (and started again if a test left it dead)."""
    if not _opensearch_of_session.process.running:
        _opensearch_of_session.start()
    return _opensearch_of_session


@pytest.fixture
def elasticsearch_server(_elasticsearch_of_session: SearchServer) -> SearchServer:
    """As `opensearch_server`, an Elasticsearch node."""
    if not _elasticsearch_of_session.process.running:
        _elasticsearch_of_session.start()
    return _elasticsearch_of_session


@pytest.fixture
async def postgres_proxy(postgres_server: PostgresServer) -> AsyncIterator[FaultProxy]:
    """A fault proxy in front of PostgreSQL: put its port into a dsn."""
    async with FaultProxy(postgres_server.port) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def _s3_server_of_session() -> Iterator[S3Server]:
    server = S3Server()
    try:
        yield server.start()
    except NoGo as error:
        pytest.skip(str(error))
    finally:
        server.close()


@pytest.fixture
def s3_server(_s3_server_of_session: S3Server) -> S3Server:
    """One versitygw for the whole session, running (and started again if a test left it dead)."""
    if not _s3_server_of_session.process.running:
        _s3_server_of_session.start()
    return _s3_server_of_session


@pytest.fixture
def bucket(s3_server: S3Server) -> str:
    """A fresh bucket."""
    return s3_server.create_bucket()


@pytest.fixture
async def s3_proxy(s3_server: S3Server) -> AsyncIterator[FaultProxy]:
    """A fault proxy in front of the S3 server: its address is the endpoint."""
    async with FaultProxy(s3_server.port) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def moto_server() -> Iterator[MotoServer]:
    """One moto for the whole session."""
    with closing(MotoServer()) as server:
        yield server.start()


@pytest.fixture(scope="session")
def _hdfs_server_of_session() -> Iterator[HdfsServer]:
    with closing(HdfsServer()) as server:
        yield server.start()


@pytest.fixture
def hdfs_server(_hdfs_server_of_session: HdfsServer) -> HdfsServer:
    """One HDFS for the whole session, running (and started again if a test left it dead)."""
    if not _hdfs_server_of_session.running:
        _hdfs_server_of_session.start()
    return _hdfs_server_of_session


@pytest.fixture
async def hdfs_proxies(hdfs_server: HdfsServer) -> AsyncIterator[HdfsProxies]:
    """Fault proxies before `hdfs_server`: use their `url`."""
    async with HdfsProxies(hdfs_server) as proxies:
        yield proxies


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Print the ends of all servers' logs under a failure; what a test printed or logged holds no secret."""
    report = yield
    leak = told("".join(text for _, text in report.sections))
    if leak is not None and report.passed:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: the captured output holds the secret {leak}"
    if report.failed:
        for process in sorted(REGISTRY, key=lambda child: child.name):
            state = "runs" if process.running else f"ended with {process.exit_code}"
            report.sections.append((f"{process.name} ({state})", process.log_tail()))
    return report
