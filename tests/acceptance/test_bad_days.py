"""Servers that go away, disks that fill, tables and topics that change in the middle: shown, survived, nothing lost."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.days import says, with_port, within
from tests.support.disk import fill, make_room, mounted, unmounted
from tests.support.kafka import KafkaServer
from tests.support.proxy import FaultProxy
from tests.support.service import ServiceProcess
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.acceptance.days import Days
    from tests.support.postgres import PostgresServer

ROWS = 12_000


# -- the broker ---------------------------------------------------------------------------------------------------


async def test_a_broker_that_is_not_there_is_said_retried_and_left_at_once(days: Days, kafka_server: KafkaServer):
    await days.orders(ROWS)
    kafka_server.create_topic(days.name)
    spec = days.spec(sink=days.into_kafka(bootstrap=kafka_server.proxied_bootstrap))
    found = days.findings(await days.api.validate(spec))
    says(found["sink_unreachable"], "sink_unreachable", kafka_server.proxied_bootstrap, "bootstrap_servers", "Check")
    await days.api.create(spec, start=True)
    job = await days.retrying("sink_unreachable")
    says(job["retrying"]["cause"], "sink_unreachable", kafka_server.proxied_bootstrap, "bootstrap_servers", "Check")
    async with within(1, "an abort"):
        job = await days.api.abort(days.name, wait=10)
    assert job["state"] == "aborted"
    await days.api.start(days.name)
    await days.retrying("sink_unreachable")
    async with within(2, "a stop"):
        job = await days.api.stop(days.name, wait=10)
    assert (job["state"], job["retrying"]) == ("stopped", None)
    await days.api.start(days.name)
    await days.retrying("sink_unreachable")
    async with FaultProxy(kafka_server.proxied_port, port=kafka_server.proxy_port):
        await days.succeeds(start=False)


@pytest.mark.parametrize("verb", ["stop", "abort"])
async def test_a_running_kafka_job_stops_within_two_seconds_and_aborts_within_one(days: Days, verb: str, kafka_server):
    await days.orders(200_000)
    kafka_server.create_topic(days.name)
    await days.api.create(days.spec(sink=days.into_kafka(), options={"chunk": {"rows": 10_000}}), start=True)
    await days.api.wait_for_rows(days.name, 10_000)
    async with within({"stop": 2, "abort": 1}[verb], f"a {verb}"):
        job = await getattr(days.api, verb)(days.name, wait=10)
    assert job["state"] == {"stop": "stopped", "abort": "aborted"}[verb]
    assert 10_000 <= job["totals"]["rows_sent"] < 200_000
    await days.succeeds()


async def test_a_broker_that_dies_in_the_middle_is_waited_for(days: Days, kafka_server: KafkaServer):
    await days.orders(ROWS)
    kafka_server.create_topic(days.name)
    await days.in_the_middle(days.spec(sink=days.into_kafka()))
    kafka_server.kill()
    job = await days.retrying("sink_unreachable", "outcome_unknown")
    says(job["retrying"]["cause"], job["retrying"]["cause"]["code"], kafka_server.bootstrap)
    assert job["state"] == "running"
    await kafka_server.start_async()
    await days.full_speed()
    await days.succeeds(start=False)


@pytest.fixture
async def small_broker(tmp_path: Path) -> AsyncIterator[KafkaServer]:
    """A broker with a disk of its own that can be filled."""
    data = tmp_path / "kafka" / "data"
    data.mkdir(parents=True)
    if not mounted(data, size=256 << 20):
        pytest.skip("no file system of our own can be mounted here: it takes root")
    server = KafkaServer(folder=data.parent)
    try:
        yield await server.start_async()
    finally:
        await asyncio.to_thread(server.close)
        unmounted(data)


async def test_a_broker_whose_disk_is_full_ends_itself_and_is_waited_for(days: Days, small_broker: KafkaServer):
    """What Kafka does itself: https://kafka.apache.org/documentation/#brokerconfigs_log.dirs"""
    days = replace(days, kafka=small_broker)
    await days.orders(ROWS)
    small_broker.create_topic(days.name)
    await days.in_the_middle(days.spec(sink=days.into_kafka()))
    await asyncio.to_thread(fill, small_broker.folder / "data")
    await days.full_speed()
    await asyncio.to_thread(small_broker.process.wait_exit, 60)
    job = await days.retrying("sink_unreachable", "outcome_unknown", "sink_unavailable")
    assert job["state"] == "running"
    make_room(small_broker.folder / "data")
    await small_broker.start_async()
    await days.succeeds(start=False)


@pytest.mark.parametrize("verb", ["stop", "abort"])
async def test_verbs_while_the_broker_is_dead_keep_their_time_and_nothing_is_lost(days: Days, verb: str, kafka_server):
    await days.orders(ROWS)
    kafka_server.create_topic(days.name)
    await days.in_the_middle(days.spec(sink=days.into_kafka()))
    kafka_server.kill()
    try:
        if verb == "stop":
            await days.retrying("sink_unreachable", "outcome_unknown")
        async with within({"stop": 2, "abort": 1}[verb], f"a {verb}"):
            job = await getattr(days.api, verb)(days.name, wait=10)
        assert job["state"] == {"stop": "stopped", "abort": "aborted"}[verb]
    finally:
        await kafka_server.start_async()
    await days.full_speed()
    await days.succeeds()


async def test_a_broker_that_hangs_does_not_hold_an_abort_nor_a_transaction_on_the_source(
    days: Days, kafka_server: KafkaServer
):
    await days.orders(ROWS)
    kafka_server.create_topic(days.name)
    async with FaultProxy(kafka_server.proxied_port, port=kafka_server.proxy_port) as proxy:
        await days.in_the_middle(days.spec(sink=days.into_kafka(bootstrap=kafka_server.proxied_bootstrap)))
        proxy.stall = True
        await days.full_speed()
        async with within(1, "an abort"):
            job = await days.api.abort(days.name, wait=10)
        assert job["state"] == "aborted"
        proxy.heal()
        await days.succeeds()


@pytest.mark.parametrize("how", ["from=beginning", "checkpoint"])
async def test_a_topic_that_was_made_again_is_said_and_a_new_generation_fills_it(
    days: Days, how: str, kafka_server: KafkaServer
):
    await days.orders(ROWS)
    kafka_server.create_topic(days.name)
    await days.in_the_middle(days.spec(sink=days.into_kafka()))
    await days.api.stop(days.name, wait=10)
    kafka_server.delete_topic(days.name)
    await days.api.start(days.name)
    says((await days.ends_in_error())["errors"][0], "topic_missing", days.name, "Create it")
    kafka_server.create_topic(days.name)
    await days.api.start(days.name)
    job = await days.ends_in_error()
    says(job["errors"][0], "topic_recreated", days.name, "from the beginning", "checkpoint")
    await days.full_speed()
    sent_before = job["totals"]["rows_sent"]
    if how == "checkpoint":
        await days.api.put_checkpoint(days.name, {"generation": 1, "last_id": "0", "allow_repeats": True})
    await days.api.start(days.name, beginning=how != "checkpoint")
    job = await days.api.wait_for_state(days.name, "successful")
    assert (job["generation"], job["run"]["rows_sent"]) == (2, ROWS)
    assert job["totals"]["rows_sent"] == sent_before + ROWS
    await days.every_row_once(job, generation=2)


async def test_a_topic_deleted_and_made_again_under_a_running_job_never_ends_as_if_nothing_was_lost(
    days: Days, kafka_server: KafkaServer
):
    await days.orders(ROWS)
    kafka_server.create_topic(days.name)
    await days.in_the_middle(days.spec(sink=days.into_kafka()))
    kafka_server.delete_topic(days.name)
    kafka_server.create_topic(days.name)
    job = await days.ends_in_error()
    says(job["errors"][0], "topic_recreated", days.name, "from the beginning")
    await days.full_speed()
    await days.api.start(days.name, beginning=True)
    await days.every_row_once(await days.api.wait_for_state(days.name, "successful"), generation=2)


async def test_an_incremental_job_does_not_go_on_into_a_topic_that_was_made_again(days: Days, kafka_server):
    """Nobody said that the rows of the runs before may be gone."""
    await days.orders(1000)
    kafka_server.create_topic(days.name)
    await days.api.create({**days.spec(sink=days.into_kafka()), "mode": "incremental"}, start=True)
    await days.api.wait_for_state(days.name, "successful")
    kafka_server.delete_topic(days.name)
    kafka_server.create_topic(days.name)
    await days.sql("INSERT INTO orders (amount, note) SELECT n, 'new' FROM generate_series(1, 500) n")
    await days.api.start(days.name)
    says((await days.ends_in_error())["errors"][0], "topic_recreated", days.name, "from the beginning")
    await days.api.start(days.name, beginning=True)
    job = await days.api.wait_for_state(days.name, "successful")
    await days.every_row_once(job, generation=job["generation"])


# -- the source ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["restart", "crash"])
async def test_a_source_that_goes_away_in_the_middle_is_waited_for(days: Days, how: str, kafka_server, postgres_server):
    await days.orders(ROWS)
    await days.sql("CHECKPOINT")
    kafka_server.create_topic(days.name)
    await days.in_the_middle(days.spec(sink=days.into_kafka(), options={"page_bytes": 65536}))
    (postgres_server.stop if how == "restart" else postgres_server.kill)()
    try:
        job = await days.retrying("source_unreachable")
        says(job["retrying"]["cause"], "source_unreachable", "Postgres")
        assert job["state"] == "running"
    finally:
        postgres_server.start()
    await days.full_speed()
    await days.succeeds(start=False)


async def test_a_source_that_is_away_at_the_start_is_said_and_waited_for(days: Days, postgres_server: PostgresServer):
    await days.orders(1000)
    proxy = await FaultProxy(postgres_server.port).start()
    await days.api.put_datasource(days.name, with_port(days.source_dsn, proxy.port))
    await proxy.close()
    found = days.findings(await days.api.validate(days.spec()))
    says(found["source_unreachable"], "source_unreachable", f"127.0.0.1:{proxy.port}", days.name, "check that Postgres")
    await days.api.create(days.spec(), start=True)
    job = await days.retrying("source_unreachable")
    says(job["retrying"]["cause"], "source_unreachable", f"127.0.0.1:{proxy.port}", days.name, "check that Postgres")
    async with within(1, "an abort"):
        await days.api.abort(days.name, wait=10)
    await days.api.start(days.name)
    await days.retrying("source_unreachable")
    async with FaultProxy(postgres_server.port, port=proxy.port):
        await days.succeeds(start=False)


async def test_a_column_dropped_in_the_middle_ends_in_error_and_its_return_finishes_the_job(days: Days):
    await days.orders(ROWS)
    await days.in_the_middle(days.spec(options={"page_bytes": 65536}))
    await days.sql("ALTER TABLE orders RENAME COLUMN note TO gone")
    job = await days.ends_in_error()
    says(job["errors"][0], "schema_changed", "note", "put the column or table back", "public.orders")
    assert 1000 <= job["totals"]["rows_sent"] < ROWS
    await days.full_speed()
    await days.sql("ALTER TABLE orders RENAME COLUMN gone TO note")
    await days.succeeds()


async def test_a_dropped_column_is_gone_and_a_definition_without_it_finishes_the_job(days: Days):
    await days.orders(ROWS)
    spec = days.spec(source={"columns": ["id", "amount", "note"]}, options={"page_bytes": 65536})
    await days.in_the_middle(spec)
    await days.sql("ALTER TABLE orders DROP COLUMN note")
    says((await days.ends_in_error())["errors"][0], "schema_changed", "note", "definition")
    await days.api.start(days.name)
    says((await days.ends_in_error())["errors"][0], "column_unknown", "note", "source.columns", "amount")
    changed = {**spec, "source": {**spec["source"], "columns": ["id", "amount"]}}
    job = await days.api.call("PUT", f"/v1/jobs/{days.name}", 200, json=changed)
    assert job["generation"] == 1
    await days.api.start(days.name)
    job = await days.api.wait_for_state(days.name, "successful")
    await days.every_row_once(job, values=False)


async def test_a_table_dropped_in_the_middle_ends_in_error(days: Days):
    await days.orders(ROWS)
    await days.in_the_middle(days.spec(options={"page_bytes": 65536}))
    await days.sql("ALTER TABLE orders RENAME TO old_orders")
    says((await days.ends_in_error())["errors"][0], "schema_changed", "orders", "put the column or table back")
    await days.full_speed()
    await days.sql("ALTER TABLE old_orders RENAME TO orders")
    await days.succeeds()


@pytest.mark.parametrize("verb", ["stop", "abort"])
async def test_a_source_that_hangs_does_not_hold_the_verbs(days: Days, verb: str, postgres_server):
    await days.orders(ROWS)
    await days.in_the_middle(days.spec(options={"page_bytes": 65536}))
    await days.full_speed()
    postgres_server.freeze()
    try:
        async with within({"stop": 2, "abort": 1}[verb], f"a {verb}"):
            job = await getattr(days.api, verb)(days.name, wait=10)
        assert job["state"] == {"stop": "stopped", "abort": "aborted"}[verb]
    finally:
        postgres_server.thaw()
    await days.succeeds()


async def test_a_source_that_hangs_is_said_and_the_job_goes_on_when_it_answers(days: Days, postgres_server):
    await days.orders(ROWS)
    await days.in_the_middle(days.spec(options={"page_bytes": 65536}))
    postgres_server.freeze()
    try:
        job = await days.retrying("source_unreachable", "source_timeout")
        says(job["retrying"]["cause"], job["retrying"]["cause"]["code"], "public.orders")
    finally:
        postgres_server.thaw()
    await days.full_speed()
    await days.succeeds(start=False)


# -- folders and disks --------------------------------------------------------------------------------------------


async def test_a_file_where_the_folder_should_be_is_said(days: Days):
    await days.orders(1000)
    place = days.service.files(days.name)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("in the way")
    found = days.findings(await days.api.validate(days.spec()))
    says(found["folder_not_writable"], "folder_not_writable", days.name, "remove it")
    says((await days.fails(days.spec()))["errors"][0], "folder_not_writable", days.name, "remove it")
    place.unlink()
    await days.succeeds()


@pytest.fixture
def disk(days: Days) -> Iterator[Path]:
    """A file system of 1 MiB where the job's files go; only root can have one."""
    place = days.service.files(days.name)
    place.mkdir(parents=True)
    made = shutil.which("mount") and os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], check=False, capture_output=True
    )  # fmt: skip
    if not made or made.returncode:
        pytest.skip("no file system of our own can be mounted here: it takes root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


async def remount(disk: Path, how: str) -> None:
    process = await asyncio.create_subprocess_exec("mount", "-o", f"remount,{how}", str(disk))
    assert await process.wait() == 0


async def test_a_folder_that_may_not_be_written_is_said_and_mended(days: Days, disk: Path):
    await days.orders(1000)
    await remount(disk, "ro")
    found = days.findings(await days.api.validate(days.spec()))
    says(found["folder_not_writable"], "folder_not_writable", days.name, "writ")
    says((await days.fails(days.spec()))["errors"][0], "folder_not_writable", days.name, "read-only")
    await remount(disk, "rw")
    await days.succeeds()


async def test_a_full_disk_is_said_and_the_job_goes_on_by_itself_once_there_is_room(days: Days, disk: Path):
    await days.orders(4000)
    ballast = disk / "_ballast"
    ballast.write_bytes(b"\0" * 960 * 1024)
    await days.api.create(days.spec(options={"chunk": {"rows": 500}}), start=True)
    job = await days.retrying("no_space")
    says(job["retrying"]["cause"], "no_space", days.name, "free space", "by itself")
    async with within(2, "a stop"):
        assert (await days.api.stop(days.name, wait=10))["state"] == "stopped"
    await days.api.start(days.name)
    await days.retrying("no_space")
    ballast.unlink()
    await days.succeeds(start=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; a read-only file system is tested instead")
async def test_a_folder_of_somebody_else_is_said_and_mended(days: Days):
    await days.orders(1000)
    place = days.service.files(days.name)
    place.mkdir(parents=True)
    place.chmod(0o500)
    found = days.findings(await days.api.validate(days.spec()))
    says(found["folder_not_writable"], "folder_not_writable", days.name, "right to write")
    says((await days.fails(days.spec()))["errors"][0], "folder_not_writable", days.name, "right to")
    place.chmod(0o700)
    await days.succeeds()


async def test_a_file_larger_than_the_process_may_write_is_said_and_mended(days: Days, control_database: str):
    await days.orders(20_000)
    limited = ServiceProcess(
        control_database, module="tests.support.limited", settings={"ROWFERRY_TEST_FILE_BYTES": "400000"}
    )
    try:
        await limited.start()
        async with limited.client() as api:
            mine = replace(days, service=limited, api=api)
            await api.put_datasource(days.name, days.source_dsn)
            job = await mine.fails(days.spec(options={"chunk": {"rows": 20_000}}))
            says(job["errors"][0], "file_too_large", days.name, "chunk.bytes")
            await limited.terminate()
            limited.module = "service"
            await limited.start()
            await mine.succeeds()
    finally:
        limited.close()


async def test_a_folder_that_was_removed_is_said_and_a_new_beginning_fills_it_again(days: Days):
    await days.orders(ROWS)
    await days.in_the_middle(days.spec())
    await days.api.stop(days.name, wait=10)
    shutil.rmtree(days.service.files(days.name))
    await days.api.start(days.name)
    job = await days.ends_in_error()
    says(job["errors"][0], "folder_missing", days.name, "bring it back", "start from the beginning")
    await days.full_speed()
    await days.api.start(days.name, beginning=True)
    await days.every_row_once(await days.api.wait_for_state(days.name, "successful"), generation=2)


@pytest.mark.parametrize("how", ["removed", "changed", "added"])
async def test_a_file_that_somebody_touched_is_named_by_the_finish_step(days: Days, how: str):
    await days.orders(3000)
    await days.in_the_middle(days.spec())
    await days.api.stop(days.name, wait=10)
    victim = min(days.service.files(days.name).glob("*.jsonl"))
    content = victim.read_bytes()
    other = victim.with_name(victim.name.replace("-00000001-", "-00000099-"))
    {"removed": victim.unlink, "changed": lambda: victim.write_bytes(b"{}\n"), "added": lambda: other.write_bytes(b"")}[
        how
    ]()
    await days.full_speed()
    await days.api.start(days.name)
    cause = (await days.ends_in_error())["errors"][0]
    code = {"removed": "output_missing", "changed": "output_differs", "added": "output_unknown"}[how]
    says(cause, code, days.name, "from the beginning" if how != "added" else "move away")
    if how == "added":
        other.unlink()
    victim.write_bytes(content)
    await days.succeeds()


# -- the control database -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "seconds_away"), [("stop", 14), ("kill", 3)])
async def test_a_control_database_that_goes_away_costs_time_and_nothing_else(
    days: Days, how: str, seconds_away: int, control_server: PostgresServer, kafka_server: KafkaServer
):
    """Longer and shorter than a lease; shut down in order, and crashed."""
    await days.orders(ROWS)
    kafka_server.create_topic(days.name)
    await days.in_the_middle(days.spec(sink=days.into_kafka()))
    getattr(control_server, how)()
    gone = asyncio.get_running_loop().time()
    try:
        answer = await days.api.request("GET", f"/v1/jobs/{days.name}")
        assert (answer.status, answer.body["retryable"]) == (503, True)
        assert "Retry-After" in answer.headers
        assert (await days.api.request("GET", "/healthz")).status == 200
        ready = await days.api.request("GET", "/readyz")
        assert (ready.status, ready.body["ready"], ready.body["checks"]["database"]["ok"]) == (503, False, False)
        says({"code": "", "message": ready.body["checks"]["database"]["error"]}, "", "database")
        await until(
            lambda: asyncio.get_running_loop().time() - gone > seconds_away, 60, "the database was away so long"
        )
    finally:
        control_server.start()
    await until(lambda: is_ready(days), 10, "ready again")
    await days.full_speed()
    job = await days.succeeds(start=False)
    assert job["totals"]["runs"] == 1


async def is_ready(days: Days) -> bool:
    return (await days.api.request("GET", "/readyz")).status == 200
