"""Targets that can not take rows: told by validation at the field, and by a run in its causes, with a remedy."""

from __future__ import annotations

import asyncio
import json
import ssl
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from aiohttp import web

from tests.integration.serving import serving
from tests.support.authority import Authority
from tests.support.gateway import Gateway
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.client import Client, Json
    from tests.support.elasticsearch import SearchServer
    from tests.support.hdfs import HdfsServer
    from tests.support.s3 import S3Server


@pytest.fixture
async def api(database: str, control_database: str) -> AsyncIterator[Client]:
    """A service with a datasource over a table of 300 rows."""
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text)")
        await connection.execute("INSERT INTO orders (note) SELECT 'note ' || n FROM generate_series(1, 300) n")
    finally:
        await connection.close()
    async with serving(control_database, database) as service, service.client() as client:
        yield client


@dataclass(frozen=True)
class Bad:
    """What is wrong with a sink, where that is told, and what to do about it."""

    sink: Json
    pointer: str
    code: str
    remedy: str
    waits: bool = False
    """The run retries instead of ending in error."""
    secrets: tuple[str, ...] = field(default=())


def definition(sink: Json, name: str) -> Json:
    source = {"datasource": "shop", "table": "public.orders"}
    return {"name": name, "source": source, "sink": sink, "options": {"chunk": {"rows": 100}}}


async def found(api: Client, sink: Json) -> list[Json]:
    answer = await api.validate(definition(sink, "looked-at"))
    return [one for one in answer["findings"] if one["pointer"].startswith("/sink") and one["severity"] == "error"]


async def causes(api: Client, name: str, *, waits: bool) -> list[Json]:
    """What a run of the job ends in, or waits for."""

    async def told() -> list[Json] | None:
        job = await api.get(name)
        if job["state"] == "error":
            assert job["run"]["errors"] == job["errors"]
            return list(job["errors"])
        assert job["state"] != "successful"
        return [job["retrying"]["cause"]] if job["retrying"] else None

    told_: list[Json] = await until(told, 40, f"{name} says what is wrong")
    assert ((await api.get(name))["state"] == "error") is not waits, told_
    return told_


async def is_told(api: Client, case: Bad, name: str) -> None:
    """Validation names the field, the run the cause; both the remedy, none a secret."""
    errors = await found(api, case.sink)
    assert [(one["pointer"], one["code"]) for one in errors] == [(case.pointer, case.code)], (name, errors)
    assert case.remedy in errors[0]["message"] + (errors[0]["hint"] or ""), (name, errors)
    await api.create(definition(case.sink, name), start=True)
    run = await causes(api, name, waits=case.waits)
    assert case.code in [one["code"] for one in run], (name, run)
    assert any(case.remedy in one["message"] for one in run), (name, run)
    assert not [secret for secret in case.secrets if secret in f"{errors} {run}"]
    await api.remove(name, force=True)


# -- S3 ---------------------------------------------------------------------------------------------------------------


# What AWS answers, which the servers of the tests do not: they look neither at the region nor at the clock.
# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
OF_AWS = {
    "elsewhere": (400, "<Code>AuthorizationHeaderMalformed</Code><Region>eu-north-1</Region>"),
    "skewed": (403, "<Code>RequestTimeTooSkewed</Code>"),
}


@pytest.fixture
async def no_s3() -> AsyncIterator[str]:
    """The port of a web server that knows two buckets of AWS, and else nothing: called localhost it has a page for
    everything."""

    async def answer(request: web.Request) -> web.Response:
        status, code = OF_AWS.get(request.path.strip("/").partition("/")[0], (0, ""))
        if code:
            text = f'<?xml version="1.0" encoding="UTF-8"?><Error>{code}<Message>no</Message></Error>'
            return web.Response(text=text, status=status, content_type="application/xml")
        status = 200 if request.host.startswith("localhost") else 404
        return web.Response(text="<html><body>hello</body></html>", status=status, content_type="text/html")

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield str(runner.addresses[0][1])
    await runner.cleanup()


async def test_a_bucket_that_can_not_be_written_is_told(api: Client, s3_server: S3Server, bucket: str, no_s3: str):
    good = s3_server.definition(bucket)
    aws = good | {"endpoint_url": f"http://127.0.0.1:{no_s3}"}
    secret = s3_server.secret_key
    wrong = "not-the-secret-at-all"
    cases = {
        "missing": Bad(good | {"bucket": "nobody-has-this"}, "/sink/bucket", "bucket_missing", "Create it"),
        "secret": Bad(
            good | {"secret_access_key": wrong},
            *("/sink/secret_access_key", "authentication_failed", "Check sink.access_key_id"),
            secrets=(wrong,),
        ),
        "key": Bad(
            good | {"access_key_id": "NOBODY"},
            *("/sink/secret_access_key", "authentication_failed", "Check sink.access_key_id"),
            secrets=(secret,),
        ),
        "region": Bad(aws | {"bucket": "elsewhere"}, "/sink/region", "region_wrong", "set sink.region to 'eu-north-1'"),
        "clock": Bad(aws | {"bucket": "skewed"}, "/sink", "clock_skewed", "set the host's clock (NTP)", waits=True),
        "no-s3": Bad(aws, "/sink/endpoint_url", "no_s3", "endpoint"),
        "page": Bad(good | {"endpoint_url": f"http://localhost:{no_s3}"}, "/sink/endpoint_url", "no_s3", "endpoint"),
        "nobody": Bad(
            good | {"endpoint_url": "http://127.0.0.1:1"},
            *("/sink/endpoint_url", "sink_unreachable", "Check that the store runs"),
            waits=True,
        ),
        "tls": Bad(
            good | {"endpoint_url": s3_server.endpoint.replace("http:", "https:")},
            *("/sink/endpoint_url", "tls_failed", "Check the scheme of sink.endpoint_url"),
        ),
    }
    for name, case in cases.items():
        await is_told(api, case, name)


# -- HDFS -------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def folder(hdfs_server: HdfsServer) -> AsyncIterator[str]:
    path = f"/bad/{uuid.uuid4().hex}"
    await asyncio.to_thread(hdfs_server.call, "PUT", "MKDIRS", path, permission="777")
    yield path
    await asyncio.to_thread(lambda: hdfs_server.call("DELETE", "DELETE", path, recursive="true"))


def into_hdfs(server: HdfsServer, path: str, **changes: Any) -> Json:
    return {"kind": "hdfs", "url": server.url, "path": path, "user": "ann", **changes}


async def test_a_folder_of_hdfs_that_can_not_be_written_is_told(api: Client, hdfs_server: HdfsServer, folder: str):
    await asyncio.to_thread(hdfs_server.call, "PUT", "MKDIRS", f"{folder}/closed", permission="700")
    await asyncio.to_thread(hdfs_server.write, f"{folder}/file", b"a file")
    cases = {
        "permission": Bad(
            into_hdfs(hdfs_server, f"{folder}/closed"), "/sink/path", "permission_denied", "or name another sink.user"
        ),
        "file": Bad(
            into_hdfs(hdfs_server, f"{folder}/file/deeper"),
            *("/sink/path", "folder_not_writable", "choose another"),
        ),
        "nobody": Bad(
            into_hdfs(hdfs_server, folder, url="http://127.0.0.1:1"),
            *("/sink/url", "sink_unreachable", "check that the NameNodes of sink.url"),
            waits=True,
        ),
    }
    for name, case in cases.items():
        await is_told(api, case, name)


async def test_safe_mode_is_told_and_waited_for(api: Client, hdfs_server: HdfsServer, folder: str):
    await asyncio.to_thread(hdfs_server.administer, "-safemode", "enter")
    try:
        sink = into_hdfs(hdfs_server, folder)
        await is_told(api, Bad(sink, "/sink/url", "safe_mode", "until it leaves safe mode", waits=True), "safe")
    finally:
        await asyncio.to_thread(hdfs_server.administer, "-safemode", "leave")


async def test_a_full_folder_is_told_and_the_job_goes_on_when_there_is_room(
    api: Client, hdfs_server: HdfsServer, folder: str
):
    await asyncio.to_thread(hdfs_server.limit_space, folder, 1 << 20)
    case = Bad(into_hdfs(hdfs_server, f"{folder}/rows"), "/sink/path", "no_space", "quota", waits=True)
    errors = await found(api, case.sink)
    assert [(one["pointer"], one["code"]) for one in errors] == [("/sink/path", "no_space")]
    await api.create(definition(case.sink, "orders"), start=True)
    (cause,) = await causes(api, "orders", waits=True)
    assert cause["code"] == "no_space"
    assert "quota" in cause["message"]
    await asyncio.to_thread(hdfs_server.limit_space, folder, None)
    await api.wait_for_state("orders", "successful", timeout=60)


async def test_missing_parents_are_made_and_said(api: Client, hdfs_server: HdfsServer, folder: str):
    sink = into_hdfs(hdfs_server, f"{folder}/a/b/c")
    answer = await api.validate(definition(sink, "orders"))
    (told,) = [one for one in answer["findings"] if one["code"] == "folder_will_be_created"]
    assert (told["pointer"], told["severity"]) == ("/sink/path", "info")
    assert f"below {folder!r}" in told["message"]
    await api.create(definition(sink, "orders"), start=True)
    assert (await api.wait_for_state("orders", "successful", timeout=40))["totals"]["rows_sent"] == 300


# -- Elasticsearch ----------------------------------------------------------------------------------------------------


def into_search(url: str, index: str, **changes: Any) -> Json:
    return {"kind": "elasticsearch", "url": url, "index": index, **changes}


async def test_an_index_that_takes_no_documents_is_told(api: Client, opensearch_server: SearchServer):
    server = opensearch_server
    closed, read_only, blocked = (server.index_name() for _ in range(3))
    for index in (closed, read_only, blocked):
        server.call("PUT", f"/{index}")
    server.call("POST", f"/{closed}/_close")
    server.call("PUT", f"/{read_only}/_settings", {"index.blocks.read_only": True})
    server.call("PUT", f"/{blocked}/_settings", {"index.blocks.write": True})
    try:
        cases = {
            "closed": Bad(into_search(server.url, closed), "/sink/index", "index_closed", f"POST /{closed}/_open"),
            "read-only": Bad(
                into_search(server.url, read_only), "/sink/index", "index_read_only", f"PUT /{read_only}/_settings"
            ),
            "blocked": Bad(
                into_search(server.url, blocked), "/sink/index", "index_read_only", f"PUT /{blocked}/_settings"
            ),
        }
        for name, case in cases.items():
            await is_told(api, case, name)
    finally:
        server.call("PUT", f"/{read_only}/_settings", {"index.blocks.read_only": False})


async def test_an_index_whose_mapping_does_not_fit_is_told(api: Client, opensearch_server: SearchServer):
    server, index = opensearch_server, opensearch_server.index_name()
    server.call("PUT", f"/{index}", {"mappings": {"properties": {"note": {"type": "integer"}}}})
    await api.create(definition(into_search(server.url, index), "conflict"), start=True)
    told = await causes(api, "conflict", waits=False)
    assert [one["code"] for one in told[:2]] == ["dead_letters_exceeded", "mapping_conflict"]
    assert "the row with key " in told[1]["message"]
    wrong = {"mappings": {"properties": {"note": {"type": "no such type"}}}}
    await api.create(definition(into_search(server.url, server.index_name(), mapping=wrong), "no-type"), start=True)
    told = await causes(api, "no-type", waits=False)
    assert told[0]["code"] == "mapping_refused"
    assert "sink.mapping" in told[0]["message"]


async def test_a_cluster_that_lets_nobody_in_is_told(api: Client, opensearch_server: SearchServer, tmp_path: Path):
    server, index = opensearch_server, opensearch_server.index_name()
    authority = Authority()
    certificate, private = authority.issue("gateway")
    (tmp_path / "pair.pem").write_text(certificate + private)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "pair.pem")
    wrong = "bm90LXRoZS1rZXk6YXQtYWxs"
    async with (
        Gateway(server.url, authorization="ApiKey right") as guarded,
        Gateway(server.url, tls=tls) as encrypted,
    ):
        refused = ("authentication_failed", "Check sink.username")
        cases = {
            "api-key": Bad(into_search(guarded.url, index, api_key=wrong), "/sink/api_key", *refused, secrets=(wrong,)),
            "password": Bad(
                into_search(guarded.url, index, username="ann", password=wrong),
                *("/sink/password", *refused),
                secrets=(wrong,),
            ),
            "nobody": Bad(into_search(guarded.url, index), "/sink/username", *refused),
            "authority": Bad(into_search(encrypted.url, index), "/sink/ca", "certificate_refused", "sink.ca"),
            "another": Bad(
                into_search(encrypted.url, index, ca=Authority().pem), "/sink/ca", "certificate_refused", "sink.ca"
            ),
            "plain": Bad(into_search(server.url.replace("http:", "https:"), index), "/sink/url", "tls_failed", "https"),
        }
        for name, case in cases.items():
            await is_told(api, case, name)


# -- what no target is needed for -------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["/v1/jobs", "/v1/jobs:validate"])
async def test_a_bad_variable_of_a_template_is_told_before_anything(api: Client, route: str):
    keys = {"kind": "s3", "bucket": "rows", "access_key_id": "k", "secret_access_key": "s"}
    cases = {
        "/sink/prefix": [keys | {"prefix": prefix} for prefix in ("a/{when}", "{date:%B}", "{job", "{}")],
        "/sink/path": [{"kind": "file", "path": "a/{when}"}],
    }
    for pointer, sinks in cases.items():
        for sink in sinks:
            answer = await api.request("POST", route, json=definition(sink, "orders"))
            told = answer.body["errors"] if answer.status == 422 else answer.body["findings"]
            (error,) = [one for one in told if one["pointer"] == pointer]
            said = json.dumps(error)
            assert "{" in said or "brace" in said, (sink, error)
            assert any(word in said for word in ("choose from", "written", "write", "template")), (sink, error)


@pytest.mark.parametrize("route", ["/v1/jobs", "/v1/jobs:validate"])
async def test_a_format_that_can_not_be_is_told_before_anything(api: Client, route: str):
    files = {"kind": "file", "path": "rows"}
    topic = {"kind": "kafka", "bootstrap_servers": "127.0.0.1:9", "topic": "rows"}
    cases: list[tuple[Json, Json, str, str]] = [
        (files, {"kind": "csv", "delimiter": ",,"}, "/format/delimiter", "one ASCII character"),
        (files, {"kind": "csv", "compression": "snappy"}, "/format/compression", "none, gzip, zstd"),
        (files, {"kind": "parquet", "compression": "brotli"}, "/format/compression", "snappy"),
        (topic, {"kind": "json", "compression": "gzip"}, "/format/compression", "sink.compression"),
        (topic, {"kind": "parquet"}, "/format/kind", "format.kind"),
    ]
    for sink, form, pointer, remedy in cases:
        answer = await api.request("POST", route, json={**definition(sink, "orders"), "format": form})
        if route == "/v1/jobs":
            assert answer.status == 422
        told = answer.body["errors"] if answer.status == 422 else answer.body["findings"]
        (error,) = [one for one in told if one["pointer"] == pointer]
        assert remedy in json.dumps(error), (form, error)
