"""Every answer that Devo's documentation or its clients' sources show, against the file that holds it: the same keys in
the same order, the same values but for ids, times and counts. What stands behind the documented keys is ours to add.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.integration.devo_cases import DevoCase, launch
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.integration.api_cases import Reply

_GOLDEN: Final = Path(__file__).parents[1] / "golden" / "devo"
_VARIES: Final = {
    "cid": str,
    "timestamp": int,
    "id": str,
    "eventGenerated": int,
    "eventsSent": int,
    "lastDatetime": int,
}
_ONE_ID: Final = "3f6002a9-69cb-4495-9745-d47216fc58bf"


@pytest.fixture
async def devo(control_database: str, database: str) -> AsyncIterator[DevoCase]:
    async with DevoCase(control_database, database, rate_limit=100_000) as case:
        yield case


def golden(name: str) -> Any:
    """The documented answer, objects as pairs in their order."""
    return json.loads((_GOLDEN / f"{name}.json").read_text(), object_pairs_hook=list)


def differences(documented: Any, answered: Any, at: str = "") -> list[str]:
    """Where an answer is not as documented."""
    if type(documented) is not type(answered):
        return [f"{at}: {answered!r}, documented as {documented!r}"]
    if not isinstance(documented, list):
        return [] if documented in (answered, "text") else [f"{at}: {answered!r} is not {documented!r}"]
    if documented and all(isinstance(member, tuple) for member in documented):
        names = [name for name, _ in answered]
        if names[: len(documented)] != [name for name, _ in documented]:
            return [f"{at}: keys {names}, documented as {[name for name, _ in documented]}"]
        found = []
        for (name, said), (_, given) in zip(documented, answered, strict=False):
            if type(said) is not type(given) or type(said) is not _VARIES.get(name):
                found += differences(said, given, f"{at}/{name}")
        return found
    if len(documented) != len(answered):
        return [f"{at}: {len(answered)} members, documented with {len(documented)}"]
    pairs = enumerate(zip(documented, answered, strict=True))
    return [text for n, (said, given) in pairs for text in differences(said, given, f"{at}/{n}")]


def compare(name: str, reply: Reply, status: int = 200) -> None:
    """Fail with every difference."""
    assert reply.status == status, reply
    answered = json.loads(reply.raw, object_pairs_hook=list)
    assert differences(golden(name), answered) == []


async def _completed(devo: DevoCase) -> str:
    await devo.events(3)
    await devo.engine.start()
    job_id = await devo.job()

    async def done() -> bool:
        return bool((await devo.status(job_id))["status"] == "COMPLETED")

    await until(done, 30, "the job to complete")
    return job_id


async def test_jobs(devo: DevoCase) -> None:
    job_id = await _completed(devo)
    compare("job_completed", await devo.devo("GET", f"/search/job/{job_id}"))
    compare("cannot_change_status", await devo.devo("GET", f"/search/job/stop/{job_id}"))
    named = launch({"type": "donothing", "params": {"friendlyName": "nightly"}})
    compare("launched", await devo.devo("POST", "/search/query", named))
    compare("friendly_name_taken", await devo.devo("POST", "/search/query", named), 500)
    compare("task_not_found", await devo.devo("GET", f"/search/job/{_ONE_ID}"), 404)


async def test_refusals(devo: DevoCase) -> None:
    compare("signature_refused", await devo.devo("GET", "/search/jobs", secret="another"), 401)
    compare("unauthorized", await devo.send("GET", "/search/jobs", b"", {}), 401)
    bucket = launch({"type": "s3", "params": {"aws.bucket": "b"}})
    compare("setting_wrong", await devo.devo("POST", "/search/query", bucket), 400)
    unknown = {"query": "from no.such", "from": "1d", "to": "now"}
    compare("table_unknown", await devo.devo("POST", "/search/query", unknown), 500)
    without = {"query": "from web.events", "to": "now"}
    compare("request_invalid", await devo.devo("POST", "/search/query", without), 400)
    compare("path_unknown", await devo.devo("GET", "/search/nothing"), 404)
    wrong = {"query": "from web.events group by x", "from": "1d", "to": "now"}
    compare("query_not_understood", await devo.devo("POST", "/search/query", wrong), 500)


def _rows(mode: str) -> dict[str, Any]:
    asked = {**launch(query="from web.events select id, eventdate, user"), "mode": {"type": mode}}
    del asked["destination"]
    return asked


async def test_rows_and_columns(devo: DevoCase) -> None:
    await devo.events(2)
    for mode, name in (("json", "rows_json"), ("json/compact", "rows_json_compact")):
        compare(name, await devo.devo("POST", "/search/query", _rows(mode)))
    for mode, name in (
        ("json/simple", "rows_json_simple.txt"),
        ("json/simple/compact", "rows_json_simple_compact.txt"),
        ("csv", "rows.csv"),
        ("tsv", "rows.tsv"),
    ):
        reply = await devo.devo("POST", "/search/query", {**_rows(mode), "progressInfo": True})
        assert (reply.status, reply.raw) == (200, (_GOLDEN / name).read_bytes()), mode
    await devo.table("web.two", columns=["id", "at"])
    compare("table_columns", await devo.devo("GET", "/search/table/web.two"))


def test_a_difference_is_found() -> None:
    documented = [("a", 1), ("b", [[("id", "x"), ("c", "text")]])]
    assert differences(documented, [("a", 1), ("b", [[("id", "y"), ("c", "other"), ("d", 1)]]), ("e", 1)]) == []
    for other in (
        [("b", []), ("a", 1)],
        [("a", 2), ("b", [[("id", "x"), ("c", "d")]])],
        [("a", 1), ("b", [[("id", 3), ("c", "d")]])],
        [("a", 1), ("b", [[("id", "x"), ("c", 3)]])],
        [("a", 1), ("b", [])],
        [("a", 1)],
    ):
        assert differences(documented, other) != [], other
