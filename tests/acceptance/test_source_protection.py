"""The source is protected: short statements, shorter than its operators would notice, and none while a sink is slow.

The source's own log is the witness: every statement with its duration. The version over 10 million rows is
`python -m bench.sparse`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import asyncpg
import pytest

from bench.watch import DATABASE_SETTINGS, SETTINGS, SourceLog
from tests.support.postgres import PostgresServer
from tests.support.proxy import FaultProxy
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.acceptance.days import Days
    from tests.support.kafka import KafkaServer

STATEMENT_SECONDS, TRANSACTION_SECONDS = 1.0, 2.0
NARROW, WIDE, WIDE_BYTES = 20_000, 40, 1_000_000
SPARSE_ROWS = 2_000_000


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[PostgresServer]:
    """A source that logs every statement of the databases that ask for it."""
    server = PostgresServer(settings=SETTINGS)
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture
async def log(postgres_server: PostgresServer, database: str) -> SourceLog:
    connection = await asyncpg.connect(database)
    name = await connection.fetchval("SELECT current_database()")
    for setting, value in DATABASE_SETTINGS.items():
        await connection.execute(f"ALTER DATABASE {name} SET {setting} = '{value}'")
    await connection.close()
    return SourceLog(postgres_server.log, name)


async def protected(days: Days, log: SourceLog) -> None:
    """When the job has ended nothing took longer than promised; the witness has seen something at all. Asked before
    another client reads the table, which may take as long as it likes."""
    await days.api.wait_for_state(days.name, "successful")
    seen = log.longest()
    assert 0 < seen.statement < STATEMENT_SECONDS, seen
    assert 0 < seen.transaction < TRANSACTION_SECONDS, seen


async def test_wide_rows_behind_narrow_ones(days: Days, postgres_server: PostgresServer, log: SourceLog):
    await days.orders(NARROW)
    await days.sql("ALTER TABLE orders ALTER note SET STORAGE EXTERNAL")
    await days.sql(
        "INSERT INTO orders (amount, note) SELECT 1, repeat(md5(n::text), $2::int / 32) FROM generate_series(1, $1) n",
        WIDE,
        WIDE_BYTES,
    )
    await days.sql("VACUUM ANALYZE orders")
    during = SourceLog(postgres_server.log, log._database)
    await days.api.create(days.spec(), start=True)
    await protected(days, during)
    await days.succeeds(start=False)


async def test_a_where_that_few_rows_match(days: Days, postgres_server: PostgresServer, log: SourceLog):
    await days.orders(10)
    await days.sql("ALTER TABLE orders SET UNLOGGED")
    await days.sql(
        "INSERT INTO orders (note) SELECT CASE WHEN n % 400000 = 0 THEN 'rare' ELSE 'plenty' END "
        "FROM generate_series(1, $1::int) n",
        SPARSE_ROWS,
    )
    await days.sql("ANALYZE orders")
    during = SourceLog(postgres_server.log, log._database)
    await days.api.create(days.spec(source={"where": "note = 'rare'"}), start=True)
    job = await days.api.wait_for_state(days.name, "successful")
    assert job["totals"]["rows_sent"] == SPARSE_ROWS // 400_000
    await protected(days, during)


async def test_no_transaction_is_open_while_the_sink_is_blocked(
    days: Days, postgres_server: PostgresServer, log: SourceLog, kafka_server: KafkaServer
):
    await days.orders(200_000)
    kafka_server.create_topic(days.name)
    during = SourceLog(postgres_server.log, log._database)
    async with FaultProxy(kafka_server.proxied_port, port=kafka_server.proxy_port) as proxy:
        spec = days.spec(
            sink=days.into_kafka(bootstrap=kafka_server.proxied_bootstrap), options={"chunk": {"rows": 20_000}}
        )
        await days.api.create(spec, start=True)
        await days.api.wait_for_rows(days.name, 20_000)
        proxy.stall = True
        connection = await asyncpg.connect(days.source_dsn)
        try:
            await none_open(connection)
        finally:
            await connection.close()
        proxy.heal()
        await protected(days, during)
        job = await days.succeeds(start=False)
    assert job["totals"]["rows_sent"] == 200_000


async def none_open(connection: asyncpg.Connection) -> None:
    """For two seconds on end no session of the job is in a transaction, after at most three in which pages end."""
    begun = quiet_since = time.monotonic()

    async def quiet_long_enough() -> bool:
        nonlocal quiet_since
        opened = await connection.fetch(
            "SELECT application_name, state, now() - xact_start AS age FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL"
        )
        now = time.monotonic()
        if opened:
            quiet_since = now
            assert now - begun < 3, opened
        return now - quiet_since > 2

    await until(quiet_long_enough, 10, "no transaction open for two seconds")
