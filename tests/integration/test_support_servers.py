"""The starters of real servers do what the other suites build on."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import asyncpg
import pytest
from confluent_kafka import Producer

from tests.support.ports import LOOPBACK, free_port, is_free
from tests.support.postgres import PostgresServer
from tests.support.processes import ChildProcess, StartError
from tests.support.proxy import END_TXN, FaultProxy
from tests.support.topics import StallWatch, read_topic, topic_ends
from tests.support.waiting import happened, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.kafka import KafkaServer


def producer(bootstrap: str, transactional_id: str | None = None, **settings: object) -> Producer:
    config: dict[str, object] = {"bootstrap.servers": bootstrap, "log_level": 0, "linger.ms": 1, **settings}
    if transactional_id is not None:
        config["transactional.id"] = transactional_id
    return Producer(config)


def produce_committed(bootstrap: str, topic: str, values: list[bytes], transactional_id: str) -> None:
    client = producer(bootstrap, transactional_id)
    client.init_transactions(20)
    client.begin_transaction()
    for value in values:
        client.produce(topic, value, key=value)
    client.commit_transaction(20)


async def test_a_database_is_empty_utf8_and_gone_afterwards(postgres_server: PostgresServer, database: str):
    connection = await asyncpg.connect(database)
    try:
        assert await connection.fetchval("SHOW server_encoding") == "UTF8"
        assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
        assert int(await connection.fetchval("SHOW max_connections")) == 200
    finally:
        await connection.close()
    other = await postgres_server.create_database()
    await postgres_server.drop_database(other)
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await asyncpg.connect(other)


async def test_a_wrong_password_is_refused(postgres_server: PostgresServer, database: str):
    await postgres_server.create_user("reader", "right:/@word")
    name = database.rpartition("/")[2]
    connection = await asyncpg.connect(postgres_server.dsn(name, user="reader", password="right:/@word"))
    assert await connection.fetchval("SELECT current_user") == "reader"
    await connection.close()
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(postgres_server.dsn(name, user="reader", password="wrong"))


async def test_postgres_keeps_committed_rows_over_kill_and_restart():
    async with PostgresServer(fsync=True) as server:
        connection = await asyncpg.connect(server.dsn())
        await connection.execute("CREATE TABLE kept AS SELECT generate_series(1, 100) AS id")
        first = server.process.pid
        server.kill()
        assert not server.process.running
        assert is_free(server.port)
        with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)):
            await connection.fetchval("SELECT 1")
        await connection.close()
        server.start()
        assert server.process.pid != first
        connection = await asyncpg.connect(server.dsn())
        assert await connection.fetchval("SELECT count(*) FROM kept") == 100
        await connection.close()
        folder = server.folder
    assert not folder.exists()


async def test_a_frozen_postgres_answers_only_after_the_thaw():
    async with PostgresServer() as server:
        connection = await asyncpg.connect(server.dsn())
        server.freeze()
        answer = asyncio.create_task(connection.fetchval("SELECT 42"))
        done, _ = await asyncio.wait({answer}, timeout=0.3)
        assert not done
        server.thaw()
        assert await asyncio.wait_for(answer, 10) == 42
        await connection.close()


def test_a_start_that_fails_shows_the_log(tmp_path: Path):
    child = ChildProcess(
        "liar", [sys.executable, "-c", "print('no such disk'); raise SystemExit(3)"], log=tmp_path / "liar.log"
    )
    child.launch()
    with pytest.raises(StartError, match=r"ended with code 3\n(.|\n)*no such disk"):
        child.wait_ready(lambda: False, 20)


def test_a_listener_that_is_not_ours_is_told_apart(tmp_path: Path):
    child = ChildProcess("idle", [sys.executable, "-c", "import signal; signal.pause()"], log=tmp_path / "log")
    child.launch()
    port = free_port()
    try:
        assert not child.listens_on(port)
        with socket.create_server((LOOPBACK, port)), pytest.raises(RuntimeError, match="another program"):
            child.listens_on(port)
    finally:
        child.kill()


def test_tests_side_by_side_give_out_different_ports(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "3")
    given = []
    for worker in ("gw0", "gw1", "gw2"):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", worker)
        given.append({free_port() for _ in range(20)})
    assert max(given[0]) < min(given[1])
    assert max(given[1]) < min(given[2])


def test_what_tests_start_keeps_its_compiled_modules():
    said = [sys.executable, "-c", "import sys; print(sys.dont_write_bytecode)"]
    assert subprocess.run(said, capture_output=True, text=True, check=True, timeout=30).stdout == "False\n"


async def test_a_child_dies_with_us(tmp_path: Path):
    script = (
        "import sys, os, pathlib\n"
        "from tests.support.processes import ChildProcess\n"
        f"log = pathlib.Path({str(tmp_path / 'log')!r})\n"
        "child = ChildProcess('c', [sys.executable, '-c', 'import signal; signal.pause()'], log=log).launch()\n"
        "print(child.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)  # noqa: ASYNC221
    assert done.returncode == -9, done.stderr
    pid = int(done.stdout)

    def gone() -> bool:
        try:
            with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123
                return stat.read().rpartition(")")[2].split()[0] in "ZX"
        except FileNotFoundError:
            return True

    await until(gone, 10, "the grandchild has died with its parent")


@pytest.mark.kafka
def test_a_message_travels_and_an_aborted_one_is_hidden(kafka_server: KafkaServer, topic: str):
    produce_committed(kafka_server.bootstrap, topic, [b"1", b"2"], "travels")
    client = producer(kafka_server.bootstrap, "aborts")
    client.init_transactions(20)
    client.begin_transaction()
    client.produce(topic, b"never", headers=[("h", b"v")])
    client.flush(20)
    client.abort_transaction(20)
    assert [(r.key, r.value) for r in read_topic(kafka_server.bootstrap, topic)] == [(b"1", b"1"), (b"2", b"2")]
    everything = read_topic(kafka_server.bootstrap, topic, isolation="read_uncommitted")
    assert [r.value for r in everything] == [b"1", b"2", b"never"]
    assert everything[-1].headers == [("h", b"v")]


@pytest.mark.kafka
async def test_an_open_transaction_shows_as_a_stall(kafka_server: KafkaServer, topic: str):
    client = producer(kafka_server.bootstrap, "stalls")
    await asyncio.to_thread(client.init_transactions, 20)
    with StallWatch(kafka_server.bootstrap, topic, interval=0.05) as watch:
        client.begin_transaction()
        client.produce(topic, b"held")
        client.flush(20)
        ends = topic_ends(kafka_server.bootstrap, topic)[0]
        assert (ends.stable, ends.high) == (0, 1)
        await until(lambda: watch.longest_seconds > 0.3, 20, "the watch sees the stall")
        await asyncio.to_thread(client.commit_transaction, 20)
        ends = topic_ends(kafka_server.bootstrap, topic)[0]
        assert (ends.stable, ends.high) == (2, 2)
    assert watch.longest_seconds < 20
    assert [r.value for r in read_topic(kafka_server.bootstrap, topic)] == [b"held"]


@pytest.mark.kafka
def test_topics_are_made_with_partitions_and_settings_and_deleted(kafka_server: KafkaServer):
    name = kafka_server.create_topic(partitions=3, config={"max.message.bytes": "2000"})
    assert len(topic_ends(kafka_server.bootstrap, name)) == 3
    kafka_server.delete_topic(name)
    assert name not in kafka_server.admin().list_topics(timeout=5).topics


@pytest.mark.kafka
def test_kafka_keeps_messages_over_kill_and_restart(kafka_server: KafkaServer, topic: str):
    produce_committed(kafka_server.bootstrap, topic, [b"kept"], "kept")
    kafka_server.kill()
    assert is_free(kafka_server.port)
    kafka_server.start()
    assert [r.value for r in read_topic(kafka_server.bootstrap, topic)] == [b"kept"]
    produce_committed(kafka_server.bootstrap, topic, [b"more"], "kept")
    assert [r.value for r in read_topic(kafka_server.bootstrap, topic)] == [b"kept", b"more"]


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("action", "visible"),
    [("swallow_reply", [b"x"]), ("cut_after", [b"x"]), ("drop_request", []), ("cut_before", [])],
)
async def test_a_commit_is_lost_before_or_after_the_server_executed_it(
    kafka_server: KafkaServer, kafka_proxy: FaultProxy, topic: str, action, visible
):
    client = producer(kafka_server.proxied_bootstrap, f"victim-{action}", **{"socket.timeout.ms": 60_000})
    await asyncio.to_thread(client.init_transactions, 20)
    client.begin_transaction()
    client.produce(topic, b"x")
    await asyncio.to_thread(client.flush, 20)
    rule = kafka_proxy.on_request(action, api_key=END_TXN, count=1000)
    commit = asyncio.create_task(asyncio.to_thread(_commit_quietly, client))
    await happened(rule.triggered, 20, "the EndTxn request passed the proxy")
    if visible:
        await until(lambda: topic_ends(kafka_server.bootstrap, topic)[0].stable == 2, 20, "the commit is visible")
    else:
        assert topic_ends(kafka_server.bootstrap, topic)[0].stable == 0
    records = await asyncio.to_thread(read_topic, kafka_server.bootstrap, topic)
    assert [r.value for r in records] == visible
    await commit


def _commit_quietly(client: Producer) -> None:
    from confluent_kafka import KafkaException

    try:
        client.commit_transaction(1.5)
    except KafkaException:
        return


@pytest.mark.kafka
async def test_a_held_commit_goes_on_when_released(kafka_server: KafkaServer, kafka_proxy: FaultProxy, topic: str):
    client = producer(kafka_server.proxied_bootstrap, "held")
    await asyncio.to_thread(client.init_transactions, 20)
    client.begin_transaction()
    client.produce(topic, b"x")
    rule = kafka_proxy.on_request("hold_request", api_key=END_TXN)
    commit = asyncio.create_task(asyncio.to_thread(client.commit_transaction, 20))
    await happened(rule.triggered, 20, "EndTxn is held")
    assert topic_ends(kafka_server.bootstrap, topic)[0].stable == 0
    rule.release()
    await commit
    assert [r.value for r in read_topic(kafka_server.bootstrap, topic)] == [b"x"]


async def test_the_proxy_cuts_refuses_and_forwards_again(
    postgres_server: PostgresServer, postgres_proxy: FaultProxy, database: str
):
    dsn = database.replace(f":{postgres_server.port}/", f":{postgres_proxy.port}/")
    connection = await asyncpg.connect(dsn)
    assert await connection.fetchval("SELECT 1") == 1
    assert postgres_proxy.cut() == 1
    with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)):
        await connection.fetchval("SELECT 1")
    await connection.close()
    await postgres_proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await asyncpg.connect(dsn)
    await postgres_proxy.accept_again()
    connection = await asyncpg.connect(dsn)
    assert await connection.fetchval("SELECT 2") == 2
    await connection.close()


async def test_the_proxy_swallows_the_reply_to_a_commit_that_happened(
    postgres_server: PostgresServer, postgres_proxy: FaultProxy, database: str
):
    dsn = database.replace(f":{postgres_server.port}/", f":{postgres_proxy.port}/")
    through, direct = await asyncpg.connect(dsn), await asyncpg.connect(database)
    await through.execute("CREATE TABLE t (id int)")
    rule = postgres_proxy.on_request("swallow_reply", predicate=lambda data: b"COMMIT" in data)
    with pytest.raises(TimeoutError):
        await through.execute("BEGIN; INSERT INTO t VALUES (1); COMMIT", timeout=0.5)
    await happened(rule.triggered, 5, "the server answered the COMMIT")
    assert await direct.fetchval("SELECT count(*) FROM t") == 1
    through.terminate()
    await direct.close()


async def test_a_stalled_proxy_forwards_after_the_stall(
    postgres_server: PostgresServer, postgres_proxy: FaultProxy, database: str
):
    connection = await asyncpg.connect(database.replace(f":{postgres_server.port}/", f":{postgres_proxy.port}/"))
    postgres_proxy.stall = True
    answer = asyncio.create_task(connection.fetchval("SELECT 7"))
    done, _ = await asyncio.wait({answer}, timeout=0.2)
    assert not done
    postgres_proxy.stall = False
    assert await asyncio.wait_for(answer, 5) == 7
    postgres_proxy.bytes_per_second = 2000
    began = asyncio.get_running_loop().time()
    assert len(await connection.fetchval("SELECT repeat('x', 1000)")) == 1000
    assert asyncio.get_running_loop().time() - began > 0.3
    await connection.close()
