from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from service.api.answers.jobs import JobAnswer
from tests.integration.api_cases import ApiCase, definition, kafka

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SECRET = "correct-horse-battery"


@pytest.fixture
async def api(control_database: str, database: str) -> AsyncIterator[ApiCase]:
    async with ApiCase(control_database, database) as case:
        await case.shop()
        yield case


async def test_a_job_is_created_read_and_removed(api: ApiCase) -> None:
    reply = await api.call("POST", "/v1/jobs", definition("orders"))
    assert reply.status == 201
    job = reply.body
    assert reply.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert reply.headers["Cache-Control"] == "no-store"
    JobAnswer.model_validate(job)
    assert (job["state"], job["verbs"], job["desired"], job["run"]) == ("created", ["start"], None, None)
    assert (job["guarantee"], job["owner"], job["account"]) == ("counts", "admin", "default")
    assert job["created_at"].endswith("Z")
    assert len(job["created_at"]) == len("2026-01-01T00:00:00.000000Z")
    by_name = await api.ok("GET", "/v1/jobs/orders")
    assert by_name == await api.ok("GET", f"/v1/jobs/{job['id']}")
    await api.refused("POST", "/v1/jobs", definition("orders"), 409, "name_taken")
    await api.ok("DELETE", "/v1/jobs/orders", status=204)
    await api.refused("GET", "/v1/jobs/orders", None, 404, "not_found")
    assert (await api.call("POST", "/v1/jobs", definition("orders"))).status == 201, "the name is free at once"


async def test_if_none_match_spares_the_answer_and_if_match_guards_the_definition(api: ApiCase) -> None:
    made = await api.call("PUT", "/v1/jobs/j", definition(), If_None_Match="*")
    assert made.status == 201
    tag = made.headers["ETag"]
    assert (await api.call("GET", "/v1/jobs/j", If_None_Match=tag)).status == 304
    await api.refused("PUT", "/v1/jobs/j", definition(), 412, "precondition_failed", If_None_Match="*")
    changed = await api.call("PUT", "/v1/jobs/j", definition(labels={"a": "b"}), If_Match=tag)
    assert changed.status == 200
    assert changed.body["spec"]["labels"] == {"a": "b"}
    assert (await api.call("GET", "/v1/jobs/j", If_None_Match=tag)).status == 200
    await api.refused("PUT", "/v1/jobs/j", definition(), 412, "revision_changed", If_Match=tag)
    await api.refused("PUT", "/v1/jobs/nobody", definition("nobody"), 412, "revision_changed", If_Match=tag)
    # A status that has moved on does not make the definition another one.
    start = await api.call("POST", "/v1/jobs/j/start")
    assert start.headers["ETag"] != changed.headers["ETag"]
    await api.ok("POST", "/v1/jobs/j/abort", status=202)
    assert (await api.call("PUT", "/v1/jobs/j", definition(), If_Match=changed.headers["ETag"])).status == 200


async def test_a_name_can_not_change(api: ApiCase) -> None:
    problem = await api.refused("PUT", "/v1/jobs/one", definition("other"), 422, "name_mismatch")
    assert problem["errors"][0]["pointer"] == "/name"


async def test_a_secret_is_kept_encrypted_and_answered_as_stars(api: ApiCase) -> None:
    reply = await api.call("PUT", "/v1/jobs/k", kafka(password=SECRET))
    assert reply.status == 201, reply
    assert SECRET.encode() not in reply.raw
    assert reply.body["spec"]["sink"]["security"]["password"] == "***"
    rows = (
        await api.store._pool.fetch("SELECT j::text AS text FROM jobs j") if hasattr(api.store._pool, "fetch") else []
    )
    assert not any(SECRET in row["text"] for row in rows)
    kept = await api.call("PUT", "/v1/jobs/k", kafka(password="***"))
    assert kept.status == 200, kept
    assert (await api.store.secrets("default", kept.body["id"])) == {"/sink/security/password": SECRET}
    elsewhere = kafka(password="***")
    elsewhere["sink"]["bootstrap_servers"] = "127.0.0.2:9"
    for path in ("/v1/jobs:validate", "/v1/jobs/k"):
        method = "PUT" if path.endswith("k") else "POST"
        problem = await api.refused(method, path, elsewhere, 422, "secret_required")
        assert problem["errors"][0]["pointer"] == "/sink/security/password"
    await api.refused("POST", "/v1/jobs", kafka("other", password="***"), 422, "secret_required")
    await api.refused("POST", "/v1/jobs", kafka("x", password="env:ROWFERRY_SECRET_PG"), 422, "reference_not_allowed")


async def test_a_clone_has_definition_and_secrets_and_no_position(api: ApiCase) -> None:
    await api.ok("PUT", "/v1/jobs/k", kafka(password=SECRET), 201)
    made = await api.ok("POST", "/v1/jobs/k:clone", {"name": "copy"}, 201)
    assert made["name"] == made["spec"]["name"] == "copy"
    assert (await api.store.secrets("default", made["id"])) == {"/sink/security/password": SECRET}
    await api.refused("POST", "/v1/jobs/k:clone", {"name": "copy"}, 409, "name_taken")


async def test_a_patch_merges_what_may_change_at_any_time(api: ApiCase) -> None:
    await api.ok("POST", "/v1/jobs", definition(labels={"team": "shop", "old": "x"}), 201)
    patch = {"labels": {"old": None, "new": "y"}, "options": {"rate": {"rows_per_second": 5.5}}}
    changed = await api.ok("PATCH", "/v1/jobs/j", patch)
    assert changed["spec"]["labels"] == {"team": "shop", "new": "y"}
    assert changed["spec"]["options"]["rate"] == {"rows_per_second": 5.5, "bytes_per_second": None}
    back = await api.ok("PATCH", "/v1/jobs/j", {"options": {"rate": None}})
    assert back["spec"]["options"]["rate"]["rows_per_second"] is None
    problem = await api.refused("PATCH", "/v1/jobs/j", {"mode": "full", "options": {"splits": 2}}, 422, "not_patchable")
    assert [entry["pointer"] for entry in problem["errors"]] == ["/mode", "/options/splits"]
    await api.refused("PATCH", "/v1/jobs/j", {"schedule": {"cron": "* * * * *"}}, 422, "invalid_definition")
    await api.refused("PATCH", "/v1/jobs/j", {"labels": {"a": 1}}, 422, "invalid_definition")


async def test_validate_connects_and_changes_nothing(api: ApiCase) -> None:
    found = await api.ok("POST", "/v1/jobs:validate", definition())
    assert found["valid"], found
    wrong = definition(source={"datasource": "shop", "table": "public.nowhere"})
    found = await api.ok("POST", "/v1/jobs:validate", wrong)
    assert not found["valid"]
    assert found["findings"][0]["pointer"].startswith("/source")
    unknown = definition(source={"datasource": "nobody", "table": "t"})
    found = await api.ok("POST", "/v1/jobs:validate", unknown)
    assert [(one["pointer"], one["code"]) for one in found["findings"]] == [
        ("/source/datasource", "datasource_unknown")
    ]
    assert (await api.ok("GET", "/v1/jobs"))["jobs"] == []


async def test_preview_shows_rows_as_the_sink_would_get_them(api: ApiCase) -> None:
    await api.rows(5)
    found = await api.ok("POST", "/v1/jobs:preview?limit=2", definition())
    assert found["format"] == "json"
    assert [row["key"] for row in found["rows"]] == ["1", "2"]
    assert found["rows"][0]["value"] == '{"id":1,"amount":1.25,"note":"note 1"}'
    await api.refused("POST", "/v1/jobs:preview?limit=1000", definition(), 422, "invalid_parameter")


@pytest.mark.parametrize(
    "where",
    [
        "true)) q) TO PROGRAM 'id' --",
        "… TO STDOUT; COMMIT; BEGIN READ WRITE; CREATE TABLE stolen() --",
        "false) UNION ALL SELECT * FROM orders WHERE (true",
    ],
)
async def test_hostile_sql_is_refused_before_anything_is_stored(api: ApiCase, where: str) -> None:
    body = definition(source={"datasource": "shop", "table": "public.orders", "where": where})
    problem = await api.refused("POST", "/v1/jobs", body, 422, "sql_refused")
    assert problem["errors"][0]["pointer"] == "/source/where"
    assert (await api.ok("GET", "/v1/jobs"))["jobs"] == []


async def test_refused_sql_says_where_in_the_text(api: ApiCase) -> None:
    body = definition(source={"datasource": "shop", "table": "public.orders", "where": "amount > > 3"})
    problem = await api.refused("POST", "/v1/jobs", body, 422, "sql_refused")
    assert "(at character 9)" in problem["errors"][0]["message"]


@pytest.mark.parametrize(
    ("part", "pointer", "code"),
    [
        ({"sink": {"kind": "file", "path": "../x"}}, "/sink/path", "path_not_allowed"),
        (
            {
                "sink": {"kind": "kafka", "bootstrap_servers": "127.0.0.1:9092", "topic": "t"},
                "format": {"kind": "json", "compression": "gzip"},
            },
            "/format/compression",
            "format_not_supported",
        ),
    ],
)
async def test_what_two_parts_say_together_is_refused_by_its_pointer(
    api: ApiCase, part: dict[str, Any], pointer: str, code: str
) -> None:
    problem = await api.refused("POST", "/v1/jobs", {**definition(), **part}, 422, code)
    assert [error["pointer"] for error in problem["errors"]] == [pointer]


async def test_pages_follow_each_other_with_their_filters(api: ApiCase) -> None:
    for number in range(5):
        await api.ok("POST", "/v1/jobs", definition(f"job-{number}", labels={"n": str(number), "all": "yes"}), 201)
    await api.ok("POST", "/v1/jobs", definition("other"), 201)
    path, names = "/v1/jobs?limit=2&sort=name&label=all:yes&state=created", []
    while path:
        page = await api.ok("GET", path)
        assert len(page["jobs"]) <= 2
        names += [job["name"] for job in page["jobs"]]
        path = page["next"]
        assert path is None or ("label=all%3Ayes" in path and path.startswith("/v1/jobs?"))
    assert names == [f"job-{number}" for number in range(5)]
    assert [j["name"] for j in (await api.ok("GET", "/v1/jobs?label=all:yes&label=n:3"))["jobs"]] == ["job-3"]
    await api.refused("GET", "/v1/jobs?after=rubbish", None, 422, "invalid_parameter")


async def test_another_accounts_objects_do_not_exist(api: ApiCase) -> None:
    job = await api.ok("POST", "/v1/jobs", definition(), 201)
    token = await api.token("admin", account="elsewhere")
    for path in ("/v1/jobs/j", f"/v1/jobs/{job['id']}", "/v1/datasources/shop"):
        await api.refused("GET", path, None, 404, "not_found", token=token)
    assert (await api.ok("GET", "/v1/jobs", token=token))["jobs"] == []
    await api.refused("POST", "/v1/jobs", definition(), 422, "datasource_unknown", token=token)
    as_admin = await api.ok("GET", "/v1/jobs", X_Rowferry_Account="elsewhere")
    assert as_admin["jobs"] == []
    await api.refused("GET", "/v1/jobs", None, 403, "account_not_allowed", token=token, X_Rowferry_Account="default")


async def test_a_change_of_target_on_a_job_with_a_position_is_asked_about(api: ApiCase) -> None:
    await api.rows(10)
    await api.engine.start()
    await api.ok("POST", "/v1/jobs?start=true", definition(), 201)
    done = await api.until_state("j", "successful")
    assert done["last_id"] == "10"
    other = definition(source={"datasource": "shop", "table": "public.orders", "where": "id > 3"})
    await api.refused("PUT", "/v1/jobs/j", other, 409, "position_incompatible")
    kept = await api.ok("PUT", "/v1/jobs/j?position=keep", other)
    assert kept["generation"] == done["generation"] + 1
    assert "start" in kept["verbs"]
