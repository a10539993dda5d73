from __future__ import annotations

import asyncio

import pytest
from aiohttp import StreamReader, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.test_utils import make_mocked_request

from config.redaction import Redactor, register
from service.api import bodies, problems, validation
from service.api.models import DatasourceDefinition, JobDefinition
from service.api.problems import Problem
from service.api.rate_limit import RateLimit
from service.domain.errors import Conflict, LeaseLost, NotFound, Permanent, Transient
from service.domain.inspection import Finding
from service.lifecycle.errors import Refused
from service.secret_fields import SecretRefused


def job(**more):
    return {"name": "j", "source": {"datasource": "d", "table": "t"}, "sink": {"kind": "donothing"}, **more}


def errors(data, model=JobDefinition):
    with pytest.raises(Problem) as refused:
        validation.validate(model, data)
    assert refused.value.status == 422
    return refused.value


@pytest.mark.parametrize(
    ("error", "status", "code", "retryable"),
    [
        (NotFound("job", "x"), 404, "not_found", False),
        (Conflict("name_taken", "m"), 409, "name_taken", False),
        (Conflict("revision_changed", "m"), 412, "revision_changed", False),
        (Conflict("idempotency_key_reused", "m"), 422, "idempotency_key_reused", False),
        (Conflict("request_in_progress", "m"), 409, "request_in_progress", True),
        (Transient("store_unreachable", "m"), 503, "store_unreachable", True),
        (Permanent("key_invalid", "m"), 422, "key_invalid", False),
        (Refused([Finding("/a", "error", "sql_refused", "m")]), 422, "sql_refused", False),
        (SecretRefused("secret_required", "/a", "m", "h"), 422, "secret_required", False),
        (web.HTTPMethodNotAllowed("PUT", ["GET", "POST"]), 405, "method_not_allowed", False),
        (web.HTTPRequestEntityTooLarge(1, 2), 413, "body_too_large", False),
    ],
)
def test_what_errors_become(error: BaseException, status: int, code: str, retryable: bool) -> None:
    problem = problems.of(error)
    assert problem is not None
    assert (problem.status, problem.code, problem.retryable) == (status, code, retryable)
    body = problem.body(instance="/x", request_id="r")
    assert ("errors" in body) is (status == 422)
    assert body["type"].endswith(code)


def test_bugs_and_control_flow_are_nobodys_fault_but_ours() -> None:
    assert problems.of(KeyError("x")) is None
    lost = problems.of(LeaseLost())
    assert lost is None or lost.status == 500


def test_waiting_is_told_where_it_helps() -> None:
    for error in (Transient("a", "m"), Conflict("request_in_progress", "m")):
        problem = problems.of(error)
        assert problem is not None
        assert problem.headers["Retry-After"] == "1"
    allow = problems.of(web.HTTPMethodNotAllowed("PUT", ["GET", "POST"]))
    assert allow is not None
    assert allow.headers["Allow"] == "GET,POST"


def test_facts_of_a_conflict_are_members_and_never_replace_one() -> None:
    problem = problems.of(Conflict("verb_refused", "m", state="running", verbs=["stop"], status="x"))
    assert problem is not None
    body = problem.body(instance="/x", request_id="r")
    assert (body["state"], body["verbs"], body["status"]) == ("running", ["stop"], 409)


def test_no_problem_shows_a_registered_secret() -> None:
    register("s3cr3t-of-this-test")
    problem = Problem(409, "x", "password s3cr3t-of-this-test, postgresql://u:other-pass@h/d")
    text = problem.response(instance="/x", request_id="r").body
    assert isinstance(text, bytes)
    assert b"s3cr3t" not in text
    assert b"other-pass" not in text
    assert b"postgresql://u:***@h/d" in text


@pytest.mark.parametrize(
    ("data", "pointer", "words"),
    [
        (job(mode="twice"), "/mode", ["mode 'twice'", "once"]),
        (job(options={"splits": 0}), "/options/splits", ["options.splits 0", "greater than or equal to 1"]),
        (job(options={"splits": "4"}), "/options/splits", ["options.splits '4'", "integer"]),
        (job(mode="continuous", options={"late_window": 0}), "/options/late_window", ["options.late_window 0", "than"]),
        (job(mode="continuous", options={"late_window": 100_001}), "/options/late_window", ["100001", "100000"]),
        (job(mode="continuous", options={"late_window": "9"}), "/options/late_window", ["'9'", "integer"]),
        (job(options={"late_window": 9}), "/options", ["late_window", "mode once", "leave late_window out"]),
        (job(mode="full", options={"late_window": 9}), "/options", ["late_window", "incremental or continuous"]),
        (job(mode="incremental", source={"datasource": "d", "table": "t", "limit": 5}, options={"late_window": 9}),
         "/options", ["late_window", "source.limit", "leave one"]),
        (job(sink={"kind": "ftp"}), "/sink/kind", ["sink.kind 'ftp'", "'kafka'"]),
        (job(sink={}), "/sink/kind", ["sink.kind: field required"]),
        (job(source={"datasource": "d", "table": "t", "time": {"column": "c", "from": "0001-01-01T00:00:00+23:00"}}),
         "/source/time/from", ["source.time.from '0001-01-01T00:00:00+23:00'", "not every time zone"]),
        (job(source={"datasource": "d", "table": "t", "time": {"column": "c", "to": "9999-12-31T23:00:00"}}),
         "/source/time/to", ["source.time.to", "9999-12-29"]),
        (job(source={"datasource": "d", "table": "t",
                     "time": {"column": "c", "from": "2026-01-02T00:00:00Z", "to": "2026-01-02T00:59:59+01:00"}}),
         "/source/time", ["source.time", "from is after to", "swap them"]),
        (job(options={"timeout_seconds": 1e300}), "/options/timeout_seconds", ["1e+300", "3153600000"]),
        (job(options={"retry": {"max_without_progress_seconds": 1e300}}),
         "/options/retry/max_without_progress_seconds", ["3153600000"]),
        (job(options={"rate": {"rows_per_second": 1e300}}), "/options/rate/rows_per_second", ["1000000000000000"]),
        (job(sink={"kind": "file"}), "/sink/path", ["sink.path", "required"]),
        (job(sink={"kind": "kafka", "bootstrap_servers": "h", "topic": "t"}), "/sink/bootstrap_servers",
         ["'h'", "host:port"]),
        (job(source={"datasource": "d"}), "/source", ["table or query"]),
        (job(name="a b"), "/name", ["name 'a b'"]),
        (job(name="0199a1b2-0000-7000-8000-000000000000"), "/name", ["form of an id"]),
        ({"name": "j", "sink": {"kind": "donothing"}}, "/source", ["source", "required"]),
        ([], "", ["the body"]),
    ],
)  # fmt: skip
def test_bad_definitions_name_field_value_and_remedy(data, pointer: str, words: list[str]) -> None:
    problem = errors(data)
    assert problem.errors[0].pointer == pointer
    assert all(word in problem.errors[0].message for word in words), problem.errors
    assert problem.errors[0].hint


def test_an_unknown_field_is_told_the_nearest_and_its_value_is_not_repeated() -> None:
    sink = {"kind": "kafka", "bootstrap_servers": "h:1", "topic": "t", "security": {"pasword": "hunter2"}}
    problem = errors(job(sink=sink))
    assert problem.code == "unknown_field"
    entry = next(one for one in problem.errors if one.pointer == "/sink/security/pasword")
    assert "did you mean password?" in entry.hint
    assert "hunter2" not in problem.detail


def test_a_secret_of_the_wrong_kind_is_not_repeated() -> None:
    problem = errors({"host": "h", "database": "d", "user": "u", "password": 12345678}, DatasourceDefinition)
    assert problem.errors[0].pointer == "/password"
    assert "12345678" not in problem.detail
    sink = {"kind": "kafka", "bootstrap_servers": "h:1", "topic": "t", "security": {"password": "hunter2"}}
    assert "hunter2" not in errors(job(sink=sink)).detail


@pytest.mark.parametrize(
    "raw",
    [
        b"{", b"nul", b"\xff", b'{"a": NaN}', b'{"a": 1e999}', b'{"a": 1, "a": 2}', b'"\\ud800"', b'{"\\u0000": 1}',
        b"[" * 5000 + b"]" * 5000, b"[" * 70 + b"]" * 70, b"9" * 5000, b"92233720368547758080", b"",
    ],
)  # fmt: skip
def test_json_that_nobody_could_keep_is_malformed(raw: bytes) -> None:
    with pytest.raises(Problem) as refused:
        bodies.parse(raw)
    assert (refused.value.status, refused.value.code) == (400, "malformed_json")


def test_a_bucket_fills_again_at_its_rate() -> None:
    now = [100.0]
    limit = RateLimit(2, clock=lambda: now[0])
    limit.take(b"a")
    limit.take(b"a")
    with pytest.raises(Problem) as refused:
        limit.take(b"a")
    assert (refused.value.status, refused.value.headers["Retry-After"]) == (429, "1")
    limit.take(b"b")
    now[0] += 0.5
    limit.take(b"a")
    with pytest.raises(Problem):
        limit.take(b"a")


def test_a_redactor_knows_the_forms_in_which_secrets_are_printed() -> None:
    redactor = Redactor()
    redactor.register('p@ss "word"\n', None, "abc")
    for text in ('p@ss "word"\n', "p%40ss%20%22word%22%0A", 'p@ss \\"word\\"\\n', "p%40ss+%22word%22%0A"):
        assert redactor.scrub(f"<{text}>") == "<***>"
    assert redactor.scrub("abc") == "abc", "too short to be told from chance"
    assert redactor.scrub("kafka://u:x:y@h:1 http://h:80/a") == "kafka://u:***@h:1 http://h:80/a"
    assert redactor.scrub("postgresql://u:pa/ss@h/d") == "postgresql://u:***@h/d", "not valid, and typed all the same"
    assert redactor.scrub_value({"password": "x", "a": [{"b": 'p@ss "word"\n'}]}) == {
        "password": "***",
        "a": [{"b": "***"}],
    }


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConnectionResetError("Connection lost"), "body_incomplete"),
        (web.RequestPayloadError("400, message:\n  Can not decode content-encoding: gzip"), "malformed_body"),
    ],
)
async def test_a_body_that_breaks_off_is_no_error_of_ours(error: Exception, code: str) -> None:
    payload = StreamReader(BaseProtocol(asyncio.get_running_loop()), 2**16, loop=asyncio.get_running_loop())
    payload.feed_data(b"{")
    payload.set_exception(error)
    request = make_mocked_request("POST", "/v1/jobs", headers={"Content-Type": "application/json"}, payload=payload)
    with pytest.raises(Problem) as refused:
        await bodies.read_json(request)
    assert (refused.value.status, refused.value.code) == (400, code)
    assert "send it again" in refused.value.detail or "Can not decode content-encoding: gzip;" in refused.value.detail
