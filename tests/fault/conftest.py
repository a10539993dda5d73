"""What the fault tests share: a broker of their own that ends timed-out transactions soon, and the scenario."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.fault.kafka_target import KafkaTarget
from tests.fault.scenario import Scenario
from tests.fault.summary import RESULTS, table
from tests.support.kafka import KafkaServer
from tests.support.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.support.proxy import FaultProxy


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of all runs of the fault suite."""
    if RESULTS:
        terminalreporter.section("faults")
        terminalreporter.write_line("\n".join(table(RESULTS)))


def _postgres() -> Iterator[PostgresServer]:
    with closing(PostgresServer()) as server:
        yield server.start()


@pytest.fixture(scope="session")
def source_server() -> Iterator[PostgresServer]:
    """A source that other tests do not share: it is killed and frozen."""
    yield from _postgres()


@pytest.fixture(scope="session")
def control_server() -> Iterator[PostgresServer]:
    """The same for the control database."""
    yield from _postgres()


@pytest.fixture(scope="session")
def _kafka_server_of_faults() -> Iterator[KafkaServer]:
    # Looked for every half second instead of every ten, or a test could not tell a time-out from an orphan.
    with closing(
        KafkaServer(settings={"transaction.abort.timed.out.transaction.cleanup.interval.ms": "500"})
    ) as server:
        yield server.start()


@pytest.fixture
def kafka_server(_kafka_server_of_faults: KafkaServer) -> KafkaServer:
    """A broker that other suites do not share, running."""
    if not _kafka_server_of_faults.process.running:
        _kafka_server_of_faults.start()
    return _kafka_server_of_faults


@pytest.fixture
def kafka_target(kafka_server: KafkaServer) -> Iterator[KafkaTarget]:
    """Kafka, reached directly."""
    target = KafkaTarget(kafka_server)
    yield target
    target.close()


@pytest.fixture
def proxied_kafka_target(kafka_server: KafkaServer, kafka_proxy: FaultProxy) -> Iterator[KafkaTarget]:
    """Kafka, reached through `kafka_proxy`, which must be asked for too."""
    target = KafkaTarget(kafka_server, kafka_server.proxied_bootstrap, transaction_timeout=60.0)
    yield target
    target.close()


@pytest.fixture
async def kafka_scenario(database: str, control_database: str, kafka_target: KafkaTarget) -> AsyncIterator[Scenario]:
    """A service and a table of 1,200 rows, jobs go to Kafka."""
    async with Scenario(database, control_database, kafka_target) as scenario:
        yield scenario


@pytest.fixture
async def proxied_scenario(
    database: str, control_database: str, proxied_kafka_target: KafkaTarget
) -> AsyncIterator[Scenario]:
    """As `kafka_scenario`, through `kafka_proxy`."""
    async with Scenario(database, control_database, proxied_kafka_target) as scenario:
        yield scenario
