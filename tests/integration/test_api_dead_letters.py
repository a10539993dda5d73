"""/v1/jobs/{job}/dead-letters: listed, sent again and deleted over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.api_cases import ApiCase, definition
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PATH = "/v1/jobs/orders/dead-letters"


@pytest.fixture
async def api(control_database: str, database: str) -> AsyncIterator[ApiCase]:
    async with ApiCase(control_database, database) as case:
        await case.shop()
        yield case


async def with_letters(api: ApiCase, *, mode: str = "full") -> Any:
    """A job of 20 rows that has ended; 3, 7 and 11 are too long for it."""
    await api.rows(20)
    await api.source.execute("UPDATE orders SET note = repeat('x', 5000) WHERE id IN (3, 7, 11)")
    options = {"dead_letters": {"max_rows": 10}, "max_row_bytes": 2000}
    spec = definition("orders", mode=mode, sink={"kind": "file", "path": "orders"}, options=options)
    await api.ok("POST", "/v1/jobs", spec, 201)
    await api.engine.start()
    await api.ok("POST", "/v1/jobs/orders/start", status=202)
    return await api.until_state("orders", "successful")


async def listed(api: ApiCase, query: str = "") -> list[Any]:
    found: list[Any] = (await api.ok("GET", PATH + query))["dead_letters"]
    return found


async def test_they_are_counted_on_the_job_and_its_run_and_listed_in_pages(api: ApiCase) -> None:
    job = await with_letters(api)
    for books in (job["run"], job["totals"]):
        assert (books["rows_read"], books["rows_sent"], books["rows_dead"]) == (20, 17, 3)
    found, path = [], f"{PATH}?limit=2"
    while path:
        page = await api.ok("GET", path)
        found += page["dead_letters"]
        path = page["next"]
    assert [one["key"] for one in found] == ["3", "7", "11"]
    one = found[0]
    assert (one["run_id"], one["generation"], one["split"]) == (job["run"]["id"], 1, 0)
    assert (one["payload"], one["payload_bytes"], one["retries"], one["note"]) == (None, None, 0, None)
    assert (one["reason"]["code"], one["retrying"]) == ("row_too_large", False)
    assert "max_row_bytes" in one["reason"]["message"]
    assert len(await listed(api, f"?run_id={job['run']['id']}&code=row_too_large")) == 3
    assert await listed(api, "?code=mapping_conflict") == []
    assert await listed(api, "?run_id=nothing") == []
    await api.refused("GET", f"{PATH}?after=nonsense", None, 422, "invalid_parameter")
    await api.refused("GET", f"{PATH}?reason=x", None, 422, "unknown_parameter")
    await api.refused("GET", "/v1/jobs/nobody/dead-letters", None, 404, "not_found")


async def test_a_retry_is_asked_for_once_with_an_idempotency_key_and_tells_its_end(api: ApiCase) -> None:
    await with_letters(api)
    await api.source.execute("UPDATE orders SET note = 'short' WHERE id IN (3, 7)")
    body = {"from": "source"}
    first = await api.call("POST", f"{PATH}:retry", body, Idempotency_Key="again")
    assert (first.status, first.body) == (202, {"from": "source", "dead_letters": 3, "notes": []})
    replayed = await api.call("POST", f"{PATH}:retry", body, Idempotency_Key="again")
    assert (replayed.status, replayed.headers["Idempotent-Replayed"]) == (202, "true")

    async def ended() -> bool:
        events = [event["event"] for event in (await api.ok("GET", "/v1/jobs/orders/events"))["events"]]
        assert events.count("dead_letters_retry") == 1
        return "dead_letters_retried" in events

    await until(ended, 30, "the retry has ended")
    (left,) = await listed(api)
    assert (left["key"], left["retries"]) == ("11", 1)
    job = await api.ok("GET", "/v1/jobs/orders")
    assert (job["state"], job["totals"]["rows_sent"], job["totals"]["rows_dead"]) == ("successful", 19, 1)
    outputs = (await api.ok("GET", "/v1/jobs/orders/outputs"))["outputs"]
    assert (outputs[-1]["split"], outputs[-1]["rows"], outputs[-1]["first_id"]) == (-1, 2, "3")


async def test_only_these_are_sent_again_and_an_unknown_one_is_not_found(api: ApiCase) -> None:
    await with_letters(api)
    await api.source.execute("UPDATE orders SET note = 'short'")
    ids = {one["key"]: one["id"] for one in await listed(api)}
    unknown = "0199a1b2-0000-7000-8000-000000000000"
    for wrong in (unknown, "no id"):
        await api.refused("POST", f"{PATH}:retry", {"ids": [ids["3"], wrong]}, 404, "not_found")
    assert (await api.ok("POST", f"{PATH}:retry", {"ids": [ids["7"]]}, 202))["dead_letters"] == 1

    async def sent() -> bool:
        return [one["key"] for one in await listed(api)] == ["3", "11"]

    await until(sent, 30, "the one that was asked for is sent")
    for body in ({"from": "sink"}, {"ids": []}, {"id": "x"}, []):
        reply = await api.call("POST", f"{PATH}:retry", body)
        assert reply.status == 422, reply


async def test_while_a_run_is_active_nothing_is_sent_again_and_without_one_nothing_is_nothing(api: ApiCase) -> None:
    await with_letters(api)
    await api.engine.stop(1.0)
    await api.ok("POST", "/v1/jobs/orders/start", status=202)
    problem = await api.refused("POST", f"{PATH}:retry", {}, 409, "job_running")
    assert problem["state"] == "queued"
    await api.ok("POST", "/v1/jobs/orders/stop?wait=5")
    assert await api.ok("DELETE", f"{PATH}?all=true") == {"deleted": 3}
    assert await api.ok("POST", f"{PATH}:retry", {}) == {"from": "source", "dead_letters": 0, "notes": []}


async def test_while_they_are_sent_again_a_start_a_put_and_a_delete_wait(api: ApiCase) -> None:
    await with_letters(api)
    await api.engine.stop(1.0)
    await api.ok("POST", f"{PATH}:retry", {}, 202)
    assert all(one["retrying"] for one in await listed(api))
    spec = (await api.ok("GET", "/v1/jobs/orders"))["spec"]
    for method, path, body in (
        ("POST", "/v1/jobs/orders/start", None),
        ("POST", f"{PATH}:retry", {}),
        ("DELETE", f"{PATH}?all=true", None),
        ("PUT", "/v1/jobs/orders", spec),
    ):
        await api.refused(method, path, body, 409, "retry_running")
    # Removal ends it.
    await api.ok("DELETE", "/v1/jobs/orders", status=204)
    await api.refused("GET", PATH, None, 404, "not_found")


async def test_some_or_all_are_deleted_by_who_may_and_it_is_told(api: ApiCase) -> None:
    await with_letters(api)
    first, second, _ = await listed(api)
    viewer = await api.token("viewer")
    for method, path in (("GET", PATH), ("DELETE", f"{PATH}?all=true"), ("POST", f"{PATH}:retry")):
        await api.refused(method, path, {} if method == "POST" else None, 403, "forbidden", token=viewer)
    other = await api.token("admin", account="elsewhere")
    await api.refused("GET", PATH, None, 404, "not_found", token=other)
    for query in ("", "?all=false", f"?all=true&id={first['id']}"):
        await api.refused("DELETE", PATH + query, None, 422, "invalid_parameter")
    assert await api.ok("DELETE", f"{PATH}?id={first['id']}&id={second['id']}") == {"deleted": 2}
    await api.refused("DELETE", f"{PATH}?id={first['id']}", None, 404, "not_found")
    assert [one["key"] for one in await listed(api)] == ["11"]
    assert await api.ok("DELETE", f"{PATH}?all=true") == {"deleted": 1}
    events = (await api.ok("GET", "/v1/jobs/orders/events"))["events"]
    told = [event for event in events if event["event"] == "dead_letters_deleted"]
    assert [(event["details"], event["actor"]) for event in told] == [
        ({"dead_letters": 2}, "admin"),
        ({"dead_letters": 1}, "admin"),
    ]
    assert (await api.ok("GET", "/v1/jobs/orders"))["totals"]["rows_dead"] == 3


async def test_limits_are_patched_and_judged_together(api: ApiCase) -> None:
    await with_letters(api)
    path = "/v1/jobs/orders"
    changed = await api.ok("PATCH", path, {"options": {"dead_letters": {"max_rows": 50, "max_ratio": 0.25}}})
    assert changed["spec"]["options"]["dead_letters"] == {"max_rows": 50, "max_ratio": 0.25}
    for wrong in ({"max_rows": 0}, {"max_rows": -1}, {"max_ratio": 1.5}, {"max_ratio": 0}, {"rows": 1}):
        reply = await api.call("PATCH", path, {"options": {"dead_letters": wrong}})
        assert reply.status == 422, (wrong, reply)
    cleared = await api.ok("PATCH", path, {"options": {"dead_letters": None}})
    assert cleared["spec"]["options"].get("dead_letters", {}).get("max_rows", 0) == 0
