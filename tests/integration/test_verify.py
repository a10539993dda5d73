"""Verifications as operators meet them: who may and when, what is compared, aborted, killed, of removed jobs."""

from __future__ import annotations

import asyncio
import gzip
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from confluent_kafka import Producer

from tests.integration.api_cases import ApiCase, definition
from tests.support.service import ServiceProcess
from tests.support.signalled import Points
from tests.support.topics import read_topic
from tests.support.waiting import happened, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.client import Client
    from tests.support.elasticsearch import SearchServer
    from tests.support.kafka import KafkaServer
    from tests.support.signalled import Hold

FILES = {"kind": "file", "path": "out/orders"}


@pytest.fixture
async def api(control_database: str, database: str) -> AsyncIterator[ApiCase]:
    """With the datasource `shop`; the engine does not run yet."""
    async with ApiCase(control_database, database) as made:
        await made.shop()
        yield made


async def delivered(api: ApiCase, *, rows: int = 300, **more: Any) -> dict[str, Any]:
    """The job `j`, which has delivered all rows of `orders` to files."""
    await api.rows(rows)
    await api.engine.start()
    given = definition(sink=FILES, options={"chunk": {"rows": 100}}, **more)
    await api.ok("POST", "/v1/jobs?start=true", given, 201)
    ended: dict[str, Any] = await api.until_state("j", "successful")
    return ended


async def ended(api: ApiCase, made: dict[str, Any]) -> dict[str, Any]:
    async def look() -> Any:
        found = await api.ok("GET", f"/v1/jobs/{made['job_id']}/verify/{made['id']}")
        return found if found["ended_at"] is not None else None

    found: dict[str, Any] = await until(look, 40, "the verification's end")
    return found


async def verified(api: ApiCase, body: Any = None) -> dict[str, Any]:
    return await ended(api, await api.ok("POST", "/v1/jobs/j/verify", body or {}, 202))


def parts(api: ApiCase) -> list[Path]:
    return sorted((api.folder / "files" / "default" / "out" / "orders").glob("*.jsonl*"))


# -- who and when ---------------------------------------------------------------------------------------------------


async def test_operators_may_and_viewers_may_not(api: ApiCase):
    await delivered(api)
    viewer, operator = await api.token("viewer"), await api.token("operator")
    made = await api.ok("POST", "/v1/jobs/j/verify", {}, 202, token=operator)
    path = f"/v1/jobs/j/verify/{made['id']}"
    for method, where, body in (
        ("POST", "/v1/jobs/j/verify", {}),
        ("GET", path, None),
        ("POST", f"{path}/abort", None),
    ):
        await api.refused(method, where, body, 403, "forbidden", token=viewer)
    assert (await ended(api, made))["state"] == "successful"


async def test_what_can_not_be_verified_is_refused_before_anything_is_queued(api: ApiCase):
    await api.rows(10)
    await api.ok("POST", "/v1/jobs", definition("never", sink=FILES), 201)
    await api.refused("POST", "/v1/jobs/never/verify", {}, 409, "never_run")
    await api.refused("POST", "/v1/jobs/nobody/verify", {}, 404, "not_found")
    await api.engine.start()
    await api.ok("POST", "/v1/jobs?start=true", definition("counted"), 201)
    await api.until_state("counted", "successful")
    await api.refused("POST", "/v1/jobs/counted/verify", {}, 422, "not_verifiable")
    foreign = (await api.ok("GET", "/v1/jobs/counted/runs"))["runs"][0]["id"]
    await api.refused("POST", "/v1/jobs/never/verify", {"run_id": foreign}, 404, "not_found")
    await api.refused("POST", "/v1/jobs/never/verify", {"run_id": "x"}, 404, "not_found")
    await api.refused("POST", "/v1/jobs/never/verify", {"checksums": 1}, 422, "invalid_definition")
    await api.refused("POST", "/v1/jobs/never/verify", {"runs": []}, 422, "unknown_field")
    assert await api.control("SELECT FROM rowferry.verifications") == []


async def test_a_running_generation_is_refused_and_the_one_before_it_is_not(api: ApiCase):
    job = await delivered(api, mode="full")
    await api.engine.stop(5)
    await api.ok("POST", "/v1/jobs/j/start", status=202)
    problem = await api.refused("POST", "/v1/jobs/j/verify", {}, 409, "job_running")
    assert problem["state"] == "queued"
    made = await api.ok("POST", "/v1/jobs/j/verify", {"run_id": job["run"]["id"]}, 202)
    assert (made["generation"], made["run_id"], made["chunks_total"]) == (1, job["run"]["id"], 3)


async def test_two_at_once_are_one_and_a_refusal_that_names_it(api: ApiCase):
    await delivered(api)
    await api.engine.stop(5)
    made = await api.ok("POST", "/v1/jobs/j/verify", {}, 202)
    problem = await api.refused("POST", "/v1/jobs/j/verify", {}, 409, "verification_running")
    assert problem["id"] == made["id"]
    assert made["state"] == "queued"


async def test_an_abort_ends_it_before_and_after_it_was_leased(api: ApiCase):
    await delivered(api)
    await api.engine.stop(5)
    made = await api.ok("POST", "/v1/jobs/j/verify", {}, 202)
    path = f"/v1/jobs/j/verify/{made['id']}/abort"
    assert (await api.ok("POST", path, status=202))["state"] == "aborted"
    assert (await api.ok("POST", path, status=200))["state"] == "aborted"
    await api.refused("POST", "/v1/jobs/j/verify/nothing/abort", None, 404, "not_found")
    again = await api.ok("POST", "/v1/jobs/j/verify", {}, 202)
    assert again["id"] != made["id"]


async def test_a_removed_job_takes_its_verification_down_and_what_was_found_stays(api: ApiCase):
    await delivered(api)
    found = await verified(api)
    await api.engine.stop(5)
    made = await api.ok("POST", "/v1/jobs/j/verify", {}, 202)
    await api.ok("DELETE", "/v1/jobs/j", status=204)
    for one, state in ((found, "successful"), (made, "aborted")):
        assert (await api.ok("GET", f"/v1/jobs/{found['job_id']}/verify/{one['id']}"))["state"] == state


async def test_who_asked_and_what_was_found_stands_in_the_events(api: ApiCase):
    await delivered(api)
    parts(api)[0].unlink()
    found = await verified(api)
    told = {one["event"]: one for one in (await api.ok("GET", "/v1/jobs/j/events"))["events"]}
    assert told["verification_asked"]["actor"] == "admin"
    assert told["verification_ended"]["details"] == {
        "id": found["id"],
        "state": "successful",
        "counts": {"gone": 1, "missing": 100},
    }
    job = await api.ok("GET", "/v1/jobs/j")
    assert (job["state"], job["errors"], job["retrying"]) == ("successful", [], None)


# -- what is compared ----------------------------------------------------------------------------------------------


async def test_a_stopped_job_is_verified_as_far_as_it_came(api: ApiCase):
    await api.rows(1000)
    await api.engine.start()
    options = {"chunk": {"rows": 100}, "rate": {"rows_per_second": 400}, "splits": 2}
    await api.ok("POST", "/v1/jobs?start=true", definition(sink=FILES, options=options), 201)

    async def some() -> Any:
        return (await api.ok("GET", "/v1/jobs/j"))["totals"]["rows_sent"] >= 200

    await until(some, 30, "two chunks are delivered")
    await api.ok("POST", "/v1/jobs/j/stop?wait=20")
    await api.ok("PATCH", "/v1/jobs/j", {"options": {"rate": {"rows_per_second": None}}})
    sent = (await api.ok("GET", "/v1/jobs/j"))["totals"]["rows_sent"]
    found = await verified(api)
    assert 200 <= sent < 1000
    assert (found["state"], found["rows_done"], found["differences"]) == ("successful", sent, [])


async def test_of_one_run_only_its_own_chunks_are_compared(api: ApiCase):
    first = await delivered(api, mode="incremental")
    await api.rows(200)
    await api.ok("POST", "/v1/jobs/j/start?wait=30")
    second = await api.until_state("j", "successful")
    parts(api)[0].unlink()
    of_first = await verified(api, {"run_id": first["run"]["id"]})
    of_second = await verified(api, {"run_id": second["run"]["id"]})
    assert (of_first["generation"], of_first["rows_done"], of_first["gone"]) == (1, 300, 1)
    assert (of_second["generation"], of_second["rows_done"], of_second["gone"]) == (2, 200, 0)


async def test_whole_rows_are_compared_when_asked_for(api: ApiCase):
    await delivered(api, format={"kind": "json", "compression": "gzip"})
    target = parts(api)[0]
    content = gzip.decompress(target.read_bytes())
    target.write_bytes(gzip.compress(content.replace(b'"note 42"', b'"by hand"')))
    await api.source.execute("UPDATE orders SET note = 'later' WHERE id = 242")
    plain, whole = await verified(api), await verified(api, {"checksums": True})
    assert (plain["checksum"], plain["source_changed"]) == (1, 0)
    told = {(one["kind"], one["key"]) for one in whole["differences"] if one["key"] is not None}
    assert told == {("checksum", "42"), ("source_changed", "242")}


async def test_records_without_the_key_are_counted_and_it_is_said(api: ApiCase):
    source = {"datasource": "shop", "table": "public.orders", "columns": ["note"]}
    await delivered(api, source=source)
    target = parts(api)[0]
    found = await verified(api)
    assert (found["differences"], len(found["notes"])) == ([], 1)
    assert "do not hold the key" in found["notes"][0]
    target.write_bytes(b"".join(target.read_bytes().splitlines(keepends=True)[:90]))
    found = await verified(api)
    assert (found["checksum"], found["missing"]) == (1, 10)


async def test_a_key_of_several_columns_and_types_is_told_apart(api: ApiCase):
    await api.source.execute(
        "CREATE TABLE points (day timestamptz, ratio numeric, flag boolean, place text, PRIMARY KEY (day, ratio, flag,"
        " place))"
    )
    await api.source.execute(
        "INSERT INTO points SELECT timestamptz '2026-01-01' + n * interval '1 hour', n / 7.0, n % 2 = 0,"
        " E'a\"\\\\b\\n' || n FROM generate_series(1, 250) n"
    )
    await delivered(api, source={"datasource": "shop", "table": "public.points"})
    assert (await verified(api))["differences"] == []
    target = parts(api)[0]
    target.write_bytes(b"".join(target.read_bytes().splitlines(keepends=True)[:-1]))
    found = await verified(api)
    (missing,) = [one for one in found["differences"] if one["kind"] == "missing"]
    assert missing["key"] == ["2026-01-05 04:00:00+00", "14.2857142857142857", "true", 'a"\\b\n100']


async def test_a_source_that_is_away_ends_it_in_error_and_leaves_the_job_alone(api: ApiCase):
    await delivered(api)
    await api.source.execute("DROP TABLE orders")
    found = await verified(api)
    assert (found["state"], found["errors"][0]["code"]) == ("error", "table_unknown")
    assert (await api.ok("GET", "/v1/jobs/j"))["state"] == "successful"


async def test_chunk_records_that_retention_removed_are_not_taken_for_rows_that_are_there(api: ApiCase):
    await delivered(api)
    await api.control("DELETE FROM rowferry.chunks WHERE sequence = 1")
    problem = await api.refused("POST", "/v1/jobs/j/verify", {}, 422, "not_verifiable")
    assert "RETENTION" in problem["detail"]


async def test_dead_letters_are_accounted_for_kept_sent_or_deleted(api: ApiCase, opensearch_server: SearchServer):
    index = opensearch_server.index_name()
    mapping = {"mappings": {"properties": {"note": {"type": "long", "ignore_malformed": False}}}}
    sink = {"kind": "elasticsearch", "url": opensearch_server.url, "index": index, "mapping": mapping}
    await api.rows(300)
    await api.source.execute("UPDATE orders SET note = CASE WHEN id IN (7, 150, 151) THEN 'x' ELSE id::text END")
    await api.engine.start()
    options = {"chunk": {"rows": 100}, "dead_letters": {"max_rows": 10}}
    await api.ok("POST", "/v1/jobs?start=true", definition(sink=sink, options=options), 201)
    ended_job = await api.until_state("j", "successful", "error")
    assert ended_job["totals"]["rows_dead"] == 3, ended_job["errors"]
    found = await verified(api)
    assert (found["differences"], sum(split["rows_dead"] for split in found["splits"])) == ([], 3)
    await api.source.execute("UPDATE orders SET note = '7' WHERE id = 7")
    await api.ok("POST", "/v1/jobs/j/dead-letters:retry", {}, 202)

    async def sent() -> Any:
        events = (await api.ok("GET", "/v1/jobs/j/events?limit=500"))["events"]
        return any(one["event"] == "dead_letters_retried" for one in events)

    await until(sent, 30, "the dead letters are sent again")
    assert (await verified(api))["differences"] == []
    await api.ok("DELETE", "/v1/jobs/j/dead-letters?all=true")
    assert (await verified(api))["missing"] == 0
    await asyncio.to_thread(opensearch_server.call, "DELETE", f"/{index}/_doc/%5B%22200%22%5D")
    assert (await verified(api))["missing"] == 1


# -- kills ---------------------------------------------------------------------------------------------------------


@pytest.fixture
async def service(database: str, control_database: str, tmp_path: Path) -> AsyncIterator[ServiceProcess]:
    """With a job `j` that has delivered 1,000 rows in ten chunks; it asks at `tmp_path/s` before each point."""
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text)")
        await connection.execute("INSERT INTO orders (note) SELECT 'note ' || n FROM generate_series(1, 1000) n")
    finally:
        await connection.close()
    made = ServiceProcess(
        control_database,
        module="tests.support.signalled",
        loaded=True,
        signals=tmp_path / "s",
        settings={"ROWFERRY_TEST_LEASE_SECONDS": "3", "ROWFERRY_SHUTDOWN_TIMEOUT_SECONDS": "2"},
    )
    try:
        yield made
    finally:
        made.close()


async def asked(api: Client, verification: dict[str, Any], *states: str) -> dict[str, Any]:
    async def look() -> Any:
        found = await api.call("GET", f"/v1/jobs/j/verify/{verification['id']}")
        return found if found["state"] in states else None

    found: dict[str, Any] = await until(look, 40, f"a verification in {states}")
    return found


async def test_killed_in_the_middle_it_goes_on_behind_the_last_chunk_it_stored(
    service: ServiceProcess, database: str, tmp_path: Path
):
    async with Points(tmp_path / "s") as points:
        await service.start()
        async with service.client() as api:
            await api.put_datasource("shop", database)
            options = {"chunk": {"rows": 100}}
            await api.create(definition(sink=FILES, options=options), start=True)
            await api.wait_for_state("j", "successful")
            files = sorted(service.files("out/orders").glob("*.jsonl"))
            for lost in (files[0], files[8]):
                lost.unlink()
            hold = points.hold("compared", skip=4)
            made = await api.call("POST", "/v1/jobs/j/verify", 202, json={})
            await happened(hold.reached, 20, "the fifth chunk is compared")
        service.kill()
        before = sum(one["point"] == "compared" for one in points.seen)
        hold.release()
        await service.start()
        async with service.client() as api:
            found = await asked(api, made, "successful", "error", "aborted")
        after = sum(one["point"] == "compared" for one in points.seen) - before
    assert (found["state"], found["chunks_done"], found["rows_done"]) == ("successful", 10, 1000)
    assert (found["gone"], found["missing"]) == (2, 200)
    assert sum(split["rows_source"] for split in found["splits"]) == 1000
    assert before == 5
    assert after < 11, "ten chunks and the end of the split: nothing was stored before the kill"


@asynccontextmanager
async def comparing(
    service: ServiceProcess, database: str, points: Points, passed: int
) -> AsyncIterator[tuple[Client, Hold, dict[str, Any]]]:
    """A verification of ten chunks, held where it has compared one more than `passed`."""
    await service.start()
    async with service.client() as api:
        await api.put_datasource("shop", database)
        await api.create(definition(sink=FILES, options={"chunk": {"rows": 100}}), start=True)
        await api.wait_for_state("j", "successful")
        hold = points.hold("compared", skip=passed)
        made = await api.call("POST", "/v1/jobs/j/verify", 202, json={})
        await happened(hold.reached, 20, f"{passed + 1} chunks are compared")
        yield api, hold, made


async def test_an_abort_in_the_middle_frees_the_step_and_its_holder_writes_nothing_more(
    service: ServiceProcess, database: str, tmp_path: Path
):
    async with (
        Points(tmp_path / "s") as points,
        comparing(service, database, points, 1) as (api, hold, made),
    ):
        after = await api.call("POST", f"/v1/jobs/j/verify/{made['id']}/abort", 202)
        assert after["state"] == "aborted"
        hold.release()
        again = await api.call("POST", "/v1/jobs/j/verify", 202, json={})
        found = await asked(api, again, "successful", "error")
        assert (found["state"], found["chunks_done"]) == ("successful", 10)
        first = await asked(api, made, "aborted")
        assert first["chunks_done"] < 10


async def test_a_shutdown_gives_it_back_and_the_next_start_ends_it(
    service: ServiceProcess, database: str, tmp_path: Path
):
    async with Points(tmp_path / "s") as points:
        async with comparing(service, database, points, 6) as (_, _, made):
            pass
        service.process.send(signal.SIGTERM)
        assert await asyncio.to_thread(service.process.wait_exit, 20) == 0
        given_back = [one["ordinal"] for one in points.seen if one["point"] == "parked" and one["kind"] == "verify"]
        await service.start()
        async with service.client() as api:
            found = await asked(api, made, "successful", "error")
    assert given_back == [0]
    assert (found["state"], found["chunks_done"], found["differences"]) == ("successful", 10, [])


# -- what is compared -------------------------------------------------------------------------------------------------

KINDS = ("missing", "doubled", "foreign", "checksum", "gone", "not_verifiable", "source_changed")


def counts(found: dict[str, Any]) -> dict[str, int]:
    return {kind: found[kind] for kind in KINDS if found[kind]}


async def test_each_layout_is_read_back_through_each_of_its_compressions(api: ApiCase):
    """Those that the sinks' own contract of verification has not."""
    await api.rows(300)
    await api.engine.start()
    forms = [(kind, how) for kind in ("json", "csv") for how in ("none", "zstd", "zip")]
    forms += [("csv", "gzip"), *(("parquet", how) for how in ("none", "gzip", "snappy"))]
    for kind, how in forms:
        sink = {"kind": "file", "path": f"out/{kind}-{how}"}
        given = definition(f"{kind}-{how}", sink=sink, options={"chunk": {"rows": 100}})
        given["format"] = {"kind": kind, "compression": how}
        await api.ok("POST", "/v1/jobs?start=true", given, 201)
    for name in (f"{kind}-{how}" for kind, how in forms):
        await api.until_state(name, "successful")
        asked = {"checksums": True}
        found = await ended(api, await api.ok("POST", f"/v1/jobs/{name}/verify", asked, 202))
        assert (counts(found), found["rows_done"], found["differences"]) == ({}, 300, []), name
        folder = api.folder / "files" / "default" / "out" / name
        file = min(one for one in folder.iterdir() if one.is_file() and not one.name.startswith("_"))
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0x10
        file.write_bytes(content)
        found = await ended(api, await api.ok("POST", f"/v1/jobs/{name}/verify", asked, 202))
        assert counts(found).get("checksum"), f"{name}: {counts(found)}"


@pytest.mark.kafka
async def test_what_a_compacted_topic_let_go_of_is_neither_missing_nor_the_sources_change(
    api: ApiCase, kafka_server: KafkaServer
):
    """Of each key it keeps the last record. Where somebody has written a newer one the chunk can not be judged any
    more, and is told so; the chunks beside it are compared as ever."""
    quick = {"cleanup.policy": "compact", "segment.ms": "50", "min.cleanable.dirty.ratio": "0.0"}
    topic = kafka_server.create_topic(config={**quick, "max.compaction.lag.ms": "100"})
    await api.rows(300)
    await api.engine.start()
    sink = {"kind": "kafka", "bootstrap_servers": kafka_server.bootstrap, "topic": topic, "key": ["id"]}
    await api.ok("POST", "/v1/jobs?start=true", definition(sink=sink, options={"chunk": {"rows": 100}}), 201)
    await api.until_state("j", "successful")
    producer = Producer({"bootstrap.servers": kafka_server.bootstrap})

    def write_until_compacted() -> bool:
        """A segment is closed by the next record, and only closed ones are compacted."""
        for number in range(1, 51):
            producer.produce(topic, key=str(number).encode(), value=b'{"id":%d,"note":"newer"}' % number)
        assert producer.flush(20) == 0
        old = [one for one in read_topic(kafka_server.bootstrap, topic) if one.offset < 50]
        return not old

    await until(lambda: asyncio.to_thread(write_until_compacted), 60, "the old records are compacted away")
    found = await verified(api)
    assert counts(found) == {"not_verifiable": 1}
    (difference,) = found["differences"]
    assert (difference["expected"], difference["found"]) == (100, 50)
    assert "compacted" in difference["note"]
