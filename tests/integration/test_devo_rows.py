"""Rows without a destination: every mode that can be read while it comes."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import tracemalloc
from typing import TYPE_CHECKING, Any

import msgpack
import openpyxl
import pytest

from tests.integration.devo_cases import FIRST, DevoCase, shape
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TYPES = {
    "id": "int8",
    "at": "timestamp",
    "status": "int4",
    "user": "str",
    "amount": "float8",
    "ip": "ip4",
    "ok": "bool",
    "extra": "json",
}
FIRST_ROW = {
    "id": 1,
    "at": FIRST * 1000,
    "status": 200,
    "user": "user 0",
    "amount": 0,
    "ip": 0x0A000001,
    "ok": True,
    "extra": {"n": 0},
}


@pytest.fixture
async def devo(control_database: str, database: str) -> AsyncIterator[DevoCase]:
    async with DevoCase(control_database, database, rate_limit=100_000, dialect_delay_seconds=0.1) as case:
        yield case


def ask(mode: str, **more: Any) -> dict[str, Any]:
    return {"query": "from web.events", "from": FIRST, "to": FIRST + 1_000_000, "mode": {"type": mode}, **more}


async def rows(devo: DevoCase, mode: str, **more: Any) -> bytes:
    reply = await devo.devo("POST", "/search/query", ask(mode, **more))
    assert reply.status == 200, reply
    return reply.raw


async def test_json(devo: DevoCase) -> None:
    await devo.events(3)
    raw = await rows(devo, "json")
    document = json.loads(raw)
    assert list(document) == ["msg", "status", "timestamp", "cid", "object"]
    assert document["object"][0] == FIRST_ROW
    assert [row["id"] for row in document["object"]] == [1, 2, 3]
    assert shape(raw).startswith('{"msg": "", "status": 0, "timestamp": <ms>, "cid": "<cid>", "object": [{"id": 1, ')
    assert json.loads(await rows(devo, "json", query="from web.events where id = 99"))["object"] == []


async def test_json_compact(devo: DevoCase) -> None:
    await devo.events(2)
    document = json.loads(await rows(devo, "json/compact"))
    assert list(document["object"]) == ["m", "metadata", "d"]
    assert document["object"]["m"] == {name: {"type": kind, "index": n} for n, (name, kind) in enumerate(TYPES.items())}
    assert document["object"]["metadata"] == [{"name": name, "type": kind} for name, kind in TYPES.items()]
    assert document["object"]["d"][0] == list(FIRST_ROW.values())


async def test_json_simple(devo: DevoCase) -> None:
    await devo.events(2)
    lines = (await rows(devo, "json/simple")).split(b"\r\n")
    assert [json.loads(line) for line in lines[:1]] == [FIRST_ROW]
    assert (len(lines), lines[-1]) == (3, b"")


async def test_json_simple_compact(devo: DevoCase) -> None:
    await devo.events(2)
    lines = [json.loads(line) for line in (await rows(devo, "json/simple/compact", progressInfo=True)).splitlines()]
    assert list(lines[0]) == ["m", "metadata"]
    assert lines[1] == {"d": list(FIRST_ROW.values())}
    assert lines[-1] == {"p": [(FIRST + 1) * 1000]}
    plain = (await rows(devo, "json/simple/compact")).splitlines()
    assert len(plain) == 3


async def test_csv_and_tsv(devo: DevoCase) -> None:
    await devo.source.execute(
        "INSERT INTO web_events (at, status, \"user\") VALUES (to_timestamp($1), 1, 'a,\"b\"\tc' || chr(10) || 'd')",
        FIRST,
    )
    for mode, separator in (("csv", ","), ("tsv", "\t")):
        raw = await rows(devo, mode, query="from web.events select eventdate, user as who, amount, ok")
        header, row = csv.reader(io.StringIO(raw.decode()), delimiter=separator)
        assert header == ["eventdate", "who", "amount", "ok"]
        assert row == ["2023-11-14 22:13:20.000", 'a,"b"\tc\nd', "", ""]
    local = await rows(
        devo, "csv", query="from web.events select eventdate", dateFormat="DD/MM/YY HH:mm", timeZone="GMT+2"
    )
    assert local.decode().splitlines() == ["eventdate", "15/11/23 00:13"]
    wrong = await devo.devo("POST", "/search/query", ask("csv", dateFormat="QQ"))
    assert (wrong.status, wrong.body["code"]) == (400, 1)


async def test_addresses_and_limits(devo: DevoCase) -> None:
    await devo.events(10)
    document = json.loads(await rows(devo, "json", query="from web.events select ip", limit=1, ipAsString=True))
    assert document["object"] == [{"ip": "10.0.0.1"}]
    for spelling in ("skip", "offset"):
        part = json.loads(await rows(devo, "json", query="from web.events select id", limit=3, **{spelling: 4}))
        assert [row["id"] for row in part["object"]] == [5, 6, 7]
    assert json.loads(await rows(devo, "json", limit=0))["object"] == []


async def test_every_row_once_over_many_pages(devo: DevoCase) -> None:
    await devo.events(30_000)
    lines = (await rows(devo, "json/simple", query="from web.events where status = 200 select id")).splitlines()
    assert [json.loads(line)["id"] for line in lines] == list(range(1, 30_001, 3))


async def test_wide_rows_are_held_by_the_page_while_they_are_sent(devo: DevoCase) -> None:
    await devo.source.execute(
        'ALTER TABLE web_events ALTER "user" SET STORAGE EXTERNAL;'
        'INSERT INTO web_events (at, status, "user")'
        f" SELECT to_timestamp({FIRST} + n), 1, repeat('x', 1000000) FROM generate_series(1, 60) n"
    )
    body = json.dumps(ask("json/simple", query="from web.events select user")).encode()
    size = 0
    tracemalloc.start()
    try:
        async with devo.client.post("/search/query", data=body, headers=devo.headers(body)) as answer:
            async for block in answer.content.iter_any():
                size += len(block)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size > 60_000_000
    assert most < 40_000_000, f"{most:,} bytes"


async def test_what_is_wrong_before_the_first_row_has_its_status(devo: DevoCase) -> None:
    for body, status in (
        (ask("json", query="from web.events where nothing = 1"), 500),
        (ask("json", query="from web.events where status = 'x'"), 500),
        (ask("json", query="from no.such"), 500),
        (ask("avro"), 400),
        (ask("json", to=FIRST - 1), 400),
    ):
        reply = await devo.devo("POST", "/search/query", body)
        assert reply.status == status, reply


@pytest.mark.parametrize(
    ("mode", "end"),
    [
        ("json", b'], "error": [500,"'),
        ("json/compact", b']}, "e": [500,"'),
        ("json/simple", b'["error",500,"'),
        ("json/simple/compact", b'{"e":[500,"'),
        ("csv", b"devo.api.error,500,"),
        ("tsv", b"devo.api.error\t500\t"),
    ],
)
async def test_what_goes_wrong_later_is_told_in_the_body(devo: DevoCase, mode: str, end: bytes) -> None:
    await devo.events(20_000)
    await devo.source.execute("UPDATE web_events SET amount = 0 WHERE id = 19999")
    # Division fails where it is met: at a row far behind the first page.
    await devo.source.execute("ALTER TABLE web_events ADD COLUMN half float8 GENERATED ALWAYS AS (1) STORED")
    await devo.source.execute(
        "CREATE VIEW failing AS SELECT id, at, status, 1 / (amount <> 0)::int AS x FROM web_events WHERE id > 1"
    )
    await devo.table("web.failing", table="public.failing", key=["id"])
    raw = await rows(devo, mode, query="from web.failing")
    assert len(raw) > 100_000
    assert end in raw[-400:], raw[-400:]
    assert b'"' not in raw.rpartition(end)[2].rstrip(b'"]}\r\n')


async def test_without_an_end_rows_follow_until_the_caller_leaves_and_nothing_stays_behind(devo: DevoCase) -> None:
    await devo.events(2)
    body = json.dumps({**ask("json/simple", query="from web.events select id"), "to": None}).encode()
    async with devo.client.post("/search/query", data=body, headers=devo.headers(body)) as answer:
        assert [json.loads(await answer.content.readline())["id"] for _ in range(2)] == [1, 2]
        await devo.events(2, first=2)
        async with asyncio.timeout(20):
            assert [json.loads(await answer.content.readline())["id"] for _ in range(2)] == [3, 4]
        assert await _sessions(devo)
        answer.close()
    await until(lambda: _no_sessions(devo), 10, "the source's session to end")


async def _sessions(devo: DevoCase) -> int:
    found = await devo.source.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'rowferry%' AND datname = current_database()"
    )
    return int(found)


async def _no_sessions(devo: DevoCase) -> bool:
    return await _sessions(devo) == 0


async def test_msgpack_is_the_json_document(devo: DevoCase) -> None:
    await devo.events(1_200)
    await devo.source.execute("UPDATE web_events SET extra = '{\"big\": 123456789012345678901234567890}' WHERE id = 2")
    document = msgpack.unpackb(await rows(devo, "msgpack"))
    assert list(document) == ["msg", "status", "timestamp", "cid", "object"]
    assert (document["msg"], document["status"], len(document["cid"])) == ("", 0, 12)
    assert document["object"][0] == FIRST_ROW
    assert document["object"][1]["extra"] == {"big": 123456789012345678901234567890.0}
    assert [row["id"] for row in document["object"]] == list(range(1, 1_201))
    assert msgpack.unpackb(await rows(devo, "msgpack", query="from web.events where id = 9999"))["object"] == []
    part = msgpack.unpackb(await rows(devo, "msgpack", query="from web.events select id", skip=7, limit=2))
    assert part["object"] == [{"id": 8}, {"id": 9}]


async def test_xls_is_a_workbook_without_formulas_and_without_rounded_numbers(devo: DevoCase) -> None:
    await devo.events(600)
    await devo.source.execute(
        'INSERT INTO web_events (id, at, status, "user", extra) VALUES (9007199254740993, to_timestamp($1), 1,'
        " '=HYPERLINK(\"x\")', '[1]')",
        FIRST + 700,
    )
    raw = await rows(devo, "xls", query="from web.events select id, eventdate, user, ok, extra, status")
    book = openpyxl.load_workbook(io.BytesIO(raw))
    header, first, *others = list(book.worksheets[0].iter_rows(values_only=True))
    assert header == ("id", "eventdate", "user", "ok", "extra", "status")
    assert first == (1, "2023-11-14 22:13:20.000", "user 0", True, '{"n":0}', 200)
    assert others[-1] == ("9007199254740993", "2023-11-14 22:25:00.000", '=HYPERLINK("x")', None, "[1]", 1)
    cell = book.worksheets[0].cell(row=602, column=3)
    assert (cell.data_type, cell.hyperlink) == ("s", None)
    assert len(others) == 600


async def test_what_a_workbook_can_not_hold_is_refused_by_name(devo: DevoCase) -> None:
    await devo.source.execute(
        "INSERT INTO web_events (at, status, \"user\") VALUES (to_timestamp($1), 1, repeat('x', 32768))", FIRST
    )
    reply = await devo.devo("POST", "/search/query", ask("xls"))
    assert (reply.status, reply.body["code"]) == (400, 1)
    assert "column 'user' of row 1 has 32,768" in reply.body["msg"]


@pytest.mark.parametrize("mode", ["msgpack", "xls"])
async def test_a_whole_document_needs_an_end_and_tells_failures_by_their_status(devo: DevoCase, mode: str) -> None:
    await devo.events(20_000)
    for endless in ({"to": None}, {"to": "1d", "from": "now"}):
        reply = await devo.devo("POST", "/search/query", {**ask(mode), **endless})
        assert (reply.status, reply.body["code"]) == (400, 1), reply
        assert "give to" in reply.body["msg"]
    await devo.source.execute("UPDATE web_events SET amount = 0 WHERE id = 19999")
    await devo.source.execute(
        "CREATE VIEW failing AS SELECT id, at, status, 1 / (amount <> 0)::int AS x FROM web_events WHERE id > 1"
    )
    await devo.table("web.failing", table="public.failing", key=["id"])
    reply = await devo.devo("POST", "/search/query", ask(mode, query="from web.failing"))
    assert reply.status == 500, reply
    assert "division by zero" in str(reply.body["object"])
