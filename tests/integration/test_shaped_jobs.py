"""Whole jobs whose rows have a shape of their own: created, previewed, delivered, verified, sent again."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from pyarrow import parquet

from tests.integration.api_cases import ApiCase, definition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SALT = "pepper-that-nobody-sees"
COLUMNS: list[Any] = [
    {"column": "id", "as": "number"},
    {"column": "note", "mask": {"kind": "sha256", "credential": "masking"}},
    {"expression": "(amount * 100)::bigint", "as": "cents"},
    {"constant": "shop", "as": "origin"},
]


@pytest.fixture
async def api(control_database: str, database: str) -> AsyncIterator[ApiCase]:
    async with ApiCase(control_database, database) as made:
        await made.shop()
        await made.rows(300)
        yield made


def given(**more: Any) -> dict[str, Any]:
    made = definition(sink={"kind": "file", "path": "out"}, options={"splits": 2, "chunk": {"rows": 100}}, **more)
    made["source"] |= {"columns": COLUMNS}
    return made


async def salted(api: ApiCase) -> None:
    await api.ok("PUT", "/v1/credentials/masking", {"secrets": {"salt": SALT}}, 201)


def records(api: ApiCase, pattern: str) -> list[Any]:
    found: list[Any] = []
    for path in sorted((api.folder / "files" / "default" / "out").rglob(pattern)):
        if path.name.startswith("_manifest"):
            continue
        if path.suffix == ".parquet":
            found += parquet.read_table(path).to_pylist()
        elif path.suffix == ".csv":
            found += list(csv.DictReader(io.StringIO(path.read_text())))
        else:
            found += map(json.loads, path.read_text().splitlines())
    return found


async def verified(api: ApiCase, **body: Any) -> dict[str, Any]:
    found = await api.verified(**body)
    return {"state": found["state"], "differences": found["differences"], "notes": found["notes"]}


@pytest.mark.parametrize("kind", ["json", "csv", "parquet"])
async def test_rows_arrive_in_their_shape_and_are_verified_by_the_key_under_its_new_name(
    api: ApiCase, kind: str
) -> None:
    await salted(api)
    await api.engine.start()
    made = given(format={"kind": kind})
    shown = await api.ok("POST", "/v1/jobs?start=true", made, 201)
    assert shown["spec"]["source"]["columns"] == COLUMNS
    await api.until_state("j", "successful")
    rows = await api.source.fetch("SELECT id, note, amount FROM orders ORDER BY id")
    found = {int(one["number"]): one for one in records(api, "*.*")}
    assert list(found) == [row["id"] for row in rows]
    for row in rows:
        one = found[row["id"]]
        assert one["note"] == hashlib.sha256((SALT + row["note"]).encode()).hexdigest()
        assert (int(one["cents"]), one["origin"]) == (int(row["amount"] * 100), "shop")
    assert await verified(api) == {"state": "successful", "differences": [], "notes": []}
    if kind != "parquet":
        assert (await verified(api, checksums=True))["differences"] == []
    (first,) = (await api.ok("POST", "/v1/jobs:preview?limit=1", made))["rows"]
    assert (first["key"], SALT in json.dumps(first)) == ("1", False)


async def test_a_mask_needs_a_salt_and_a_salt_in_use_stays(api: ApiCase) -> None:
    found = (await api.ok("POST", "/v1/jobs:validate", given()))["findings"]
    assert [one["code"] for one in found if one["severity"] == "error"] == ["salt_missing"]
    await salted(api)
    found = (await api.ok("POST", "/v1/jobs:validate", given()))["findings"]
    assert not [one for one in found if one["severity"] == "error"]
    await api.ok("POST", "/v1/jobs", given(), 201)
    await api.refused("DELETE", "/v1/credentials/masking", None, 409, "credential_in_use")
    shown = await api.ok("GET", "/v1/credentials/masking")
    assert shown["secrets"] == {"salt": "***"}


async def test_an_envelope_tells_of_the_run_and_split_that_delivered_and_verification_knows_the_row(
    api: ApiCase,
) -> None:
    await salted(api)
    await api.engine.start()
    await api.ok("POST", "/v1/jobs?start=true", given(format={"kind": "json", "envelope": "with_metadata"}), 201)
    job = await api.until_state("j", "successful")
    rows = records(api, "*.jsonl")
    told = [row["_rowferry"] for row in rows]
    assert [one["key"] for one in told] == [str(row["number"]) for row in rows]
    assert {one["split"] for one in told} == {0, 1}
    assert {(one["run"], one["job"], one["job_id"]) for one in told} == {(job["run"]["id"], "j", job["id"])}
    found = await verified(api, checksums=True)
    assert (found["differences"], "metadata" in found["notes"][0]) == ([], True)
    problem = await api.refused(
        "POST", "/v1/jobs", given(format={"kind": "csv", "envelope": "with_metadata"}), 422, "invalid_definition"
    )
    assert [one["pointer"] for one in problem["errors"]] == ["/format/envelope"]


@pytest.mark.parametrize(
    ("columns", "pointer"),
    [
        (["id", {"column": "note", "as": "id"}], "/source"),
        (["id", {"column": "note", "mask": {"kind": "sha256"}}], "/source/columns/1"),
        (["id", {"expression": "1"}], "/source/columns/1"),
        (["id", {"expression": "true) UNION ALL SELECT (true", "as": "x"}], "/source/columns/1/expression"),
    ],
)
async def test_a_shape_that_can_not_be_is_refused_before_anything_is_stored(
    api: ApiCase, columns: list[Any], pointer: str
) -> None:
    made = given()
    made["source"]["columns"] = columns
    answer = await api.call("POST", "/v1/jobs", made)
    assert answer.status == 422, answer
    assert answer.body["errors"][0]["pointer"].startswith(pointer), answer
