"""Devo's own clients, unmodified, against the service as it is run: address and keys are all that is changed."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from service.api.dialects.devo_auth import signature
from tests.integration.devo_cases import EVENTS, FIRST
from tests.support.authority import Authority
from tests.support.devo_clients import NoNode, browser_client, python_client
from tests.support.ports import LOOPBACK, free_port
from tests.support.service import ServiceProcess
from tests.support.topics import read_topic
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.kafka import KafkaServer

ROWS = 1000
DATES = {"from": FIRST * 1000, "to": (FIRST + 100_000) * 1000}
QUERY = "from web.events where status = 200 select eventdate, id, user"
MATCHING = list(range(1, ROWS + 1, 3))


class Site:
    """A service with http and https, a table of events and a key."""

    def __init__(self, service: ServiceProcess, folder: Path, tls_port: int) -> None:
        self.service = service
        self.tls = f"{LOOPBACK}:{tls_port}"
        self.authority = folder / "authority.pem"
        self.key = self.secret = ""

    def python(self, **auth: str) -> dict[str, Any]:
        """How the Python client is told where and who."""
        known = auth or {"key": self.key, "secret": self.secret}
        return {"address": f"https://{self.tls}/search/query", "auth": known, "verify": str(self.authority)}

    def browser(self) -> dict[str, Any]:
        """How the browser client is."""
        return {"url": f"{self.service.url}/search", "apiKey": self.key, "apiSecret": self.secret}


@pytest.fixture
async def site(control_database: str, database: str, tmp_path: Path) -> AsyncIterator[Site]:
    authority, tls_port = Authority(), free_port()
    certificate, key = authority.issue("rowferry")
    for name, text in (("authority", authority.pem), ("certificate", certificate), ("key", key)):
        (tmp_path / f"{name}.pem").write_text(text)
    settings = {
        "ROWFERRY_TLS_LISTEN": f"{LOOPBACK}:{tls_port}",
        "ROWFERRY_TLS_CERT": str(tmp_path / "certificate.pem"),
        "ROWFERRY_TLS_KEY": str(tmp_path / "key.pem"),
        "ROWFERRY_DIALECT_DELAY_SECONDS": "0.2",
    }
    async with AsyncExitStack() as stack:
        source = await asyncpg.connect(database)
        stack.push_async_callback(source.close)
        await source.execute(EVENTS)
        await source.execute(
            'INSERT INTO web_events (at, status, "user") SELECT to_timestamp($1::bigint + n), 200 + n % 3, $3 || n'
            " FROM generate_series(0, $2::bigint - 1) n",
            FIRST,
            ROWS,
            "user ",
        )
        service = await stack.enter_async_context(ServiceProcess(control_database, settings=settings, loaded=True))
        client = await stack.enter_async_context(service.client())
        await client.put_datasource("shop", database)
        table = {"datasource": "shop", "table": "public.web_events", "time_column": "at", "key": ["id"]}
        await client.call("PUT", "/v1/tables/web.events", json=table)
        made = await client.call("POST", "/v1/keys", json={"name": "devo", "role": "operator"})
        found = Site(service, tmp_path, tls_port)
        found.key, found.secret = made["key"], made["secret"]
        yield found


async def test_the_python_client_reads_rows_in_every_mode(site: Site) -> None:
    asked = [
        {"do": "query", "mode": mode, "query": QUERY, "dates": DATES, "stream": stream}
        for mode, stream in (
            ("json", False), ("json/compact", False), ("json/simple", True), ("json/simple/compact", True),
            ("csv", False), ("tsv", False), ("csv", True),
        )
    ]  # fmt: skip
    json_, compact, simple, simple_compact, comma, tab, streamed = [
        one["result"] for one in await python_client(site.python(), *asked)
    ]
    assert [row["id"] for row in json_["object"]] == MATCHING
    assert [row[1] for row in compact] == MATCHING
    assert [row["id"] for row in simple] == MATCHING
    assert simple_compact[0] == {"eventdate": FIRST * 1000, "id": 1, "user": "user 0"}
    assert [row["id"] for row in simple_compact] == MATCHING
    for text, separator in ((comma, ","), (tab, "\t")):
        header, *rows = csv.reader(io.StringIO(text), delimiter=separator)
        assert header == ["eventdate", "id", "user"]
        assert [int(row[1]) for row in rows] == MATCHING
    assert len(streamed) == 1 + len(MATCHING)


async def test_the_python_client_follows_a_query_without_an_end(site: Site) -> None:
    step = {"do": "query", "mode": "json/simple/compact", "query": QUERY, "stream": True, "until": len(MATCHING)}
    (found,) = await python_client(site.python(), {**step, "dates": {"from": FIRST * 1000, "to": None}})
    assert [row["id"] for row in found["result"]] == MATCHING


async def test_the_python_client_launches_watches_stops_starts_and_removes_a_job(site: Site) -> None:
    to = {"type": "donothing", "params": {"friendlyName": "nightly"}}
    launch = {"do": "query", "query": QUERY, "dates": {**DATES, "to": None}, "destination": to}
    # The client sends "to": "now()" where it does not stream: a bounded job.
    (made,) = await python_client(site.python(), launch)
    assert made["result"]["status"] == 0, made
    job_id = made["result"]["object"]["id"]

    async def completed() -> Any:
        (found,) = await python_client(site.python(), {"do": "get_job", "with": [job_id]})
        return found["result"]["object"] if found["result"]["object"]["status"] == "COMPLETED" else None

    job = await until(completed, 60, "the job to complete")
    assert (job["eventGenerated"], job["eventsSent"], job["friendlyName"]) == (len(MATCHING), len(MATCHING), "nightly")
    listed, stopped, started, removed, gone, after = await python_client(
        site.python(),
        {"do": "get_jobs"},
        {"do": "stop_job", "with": [job_id]},
        {"do": "start_job", "with": [job_id]},
        {"do": "remove_job", "with": [job_id]},
        {"do": "get_job", "with": [job_id]},
        {"do": "get_jobs"},
    )
    assert [one["id"] for one in listed["result"]["object"]] == [job_id]
    assert (stopped["result"]["status"], started["result"]["status"]) == (101, 101)
    assert removed["result"]["object"]["status"] == "REMOVED"
    # A 4xx is an empty answer to it.
    assert gone["result"] == {}
    assert after["result"]["object"] == []


async def test_the_python_client_is_told_what_is_wrong(site: Site) -> None:
    step = {"do": "query", "mode": "json", "dates": DATES}
    wrong, unknown, table = await python_client(
        site.python(),
        {**step, "query": "from web.events group by id"},
        {**step, "query": "from web.events where nothing = 1"},
        {**step, "query": "from no.such"},
    )
    assert wrong["message"].startswith("Error Launching Query: 'group'")
    assert "'nothing'" in unknown["message"]
    assert table["code"] == 624
    (refused,) = await python_client(site.python(key=site.key, secret="wrong"), {**step, "query": QUERY})
    assert (refused["code"], refused["status"]) == (12, 401)
    (token,) = await python_client(site.python(token="wrong"), {**step, "query": QUERY})
    assert (token["code"], token["message"]) == (401, "Unauthorized")
    (bearer,) = await python_client(site.python(token=site.service.admin_token), {**step, "query": QUERY})
    assert len(bearer["result"]["object"]) == len(MATCHING)


@pytest.mark.kafka
async def test_the_python_client_sends_rows_to_kafka(site: Site, kafka_server: KafkaServer, topic: str) -> None:
    to = {"type": "kafka", "params": {"topic": topic, "bootstrap.servers": kafka_server.bootstrap}}
    (made,) = await python_client(
        site.python(), {"do": "query", "query": "from web.events", "dates": DATES, "destination": to}
    )
    async with site.service.client() as client:
        job_id = made["result"]["object"]["id"]

        async def done() -> Any:
            found = await client.call("GET", f"/v1/jobs/{job_id}")
            assert found["state"] != "error", found
            return found["state"] == "successful"

        await until(done, 60, "the job")
    records = await asyncio.to_thread(read_topic, kafka_server.bootstrap, topic)
    assert sorted(json.loads(record.value)["id"] for record in records) == list(range(1, ROWS + 1))


async def test_the_browser_client_does_it_all(site: Site) -> None:
    span = {"dateFrom": "2023-11-14T00:00:00Z", "dateTo": "2023-11-20T00:00:00Z"}
    to = {"type": "donothing", "params": {"friendlyName": "from-a-browser"}}
    try:
        answers = await browser_client(
            site.browser(),
            {"do": "query", "with": [{**span, "query": QUERY, "format": "json"}]},
            {"do": "stream", "with": [{**span, "query": QUERY}]},
            {"do": "table", "with": ["web.events"]},
            {"do": "query", "with": [{**span, "query": QUERY, "destination": to}]},
            {"do": "getTasks", "with": []},
            {"do": "getTasksByType", "with": ["donothing"]},
            {"do": "stream", "with": [{**span, "query": "from web.events group by id"}]},
            {"do": "stream", "with": [{**span, "query": QUERY}], "connect": {"apiSecret": "wrong"}},
            {"do": "stream", "with": [{"dateFrom": span["dateFrom"], "query": QUERY}], "until": len(MATCHING)},
        )
    except NoNode as error:
        pytest.skip(str(error))
    rows, stream, table, launched, tasks, typed, wrong, unsigned, endless = answers
    assert [row["id"] for row in rows["result"]["object"]] == MATCHING
    assert [row[1] for row in stream["result"]["rows"]] == MATCHING
    assert [column["name"] for column in stream["result"]["meta"]] == ["eventdate", "id", "user"]
    assert table["result"]["object"][0] == {"fieldName": "id", "type": "int8"}
    job_id = launched["result"]["object"]["id"]
    assert (
        [job["id"] for job in tasks["result"]["object"]] == [job["id"] for job in typed["result"]["object"]] == [job_id]
    )
    assert "group" in json.dumps(wrong["result"]["error"])
    assert "Invalid signature validation" in json.dumps(unsigned["result"]["error"])
    assert [row[1] for row in endless["result"]["rows"]] == MATCHING
    (info, stopped, started, deleted) = await browser_client(
        site.browser(),
        *({"do": verb, "with": [job_id]} for verb in ("getTaskInfo", "stopTask", "startTask", "deleteTask")),
    )
    assert info["result"]["object"]["friendlyName"] == "from-a-browser"
    assert {stopped["result"]["status"], started["result"]["status"]} <= {0, 101}
    assert deleted["result"]["object"]["status"] == "REMOVED"


async def test_curl_with_headers_signed_by_hand(site: Site) -> None:
    body = json.dumps({"query": QUERY, "from": FIRST, "to": FIRST + 100_000, "mode": {"type": "json"}})
    stamp = str(int(time.time() * 1000))
    process = await asyncio.create_subprocess_exec(
        "curl", "--silent", "--show-error", "--cacert", str(site.authority), "--data-binary", body,
        "-H", f"x-logtrust-apikey: {site.key}", "-H", f"x-logtrust-timestamp: {stamp}",
        "-H", f"x-logtrust-sign: {signature(site.key, site.secret, body.encode(), stamp)}",
        "-H", "Content-Type: application/json", f"https://{site.tls}/search/query",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert [row["id"] for row in json.loads(out)["object"]] == MATCHING
