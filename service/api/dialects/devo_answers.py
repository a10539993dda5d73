"""What the Devo dialect answers: the envelope, and each error in the shape that Devo's clients know it by.

The Python client takes any status but 200 for a failure, and a 200 whose first 15 characters hold the word "error" for
one too: `status` comes first. Clients break on a text as `error`, and on an `object` of an error that is no list of
texts.
"""

from __future__ import annotations

import json
import time
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from config.redaction import REDACTOR
from service.api.problems import Problem
from service.domain.errors import Conflict, NotFound, RowferryError, Transient
from service.secret_fields import SecretRefused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from service.lifecycle.errors import Refused

JSON: Final = "application/json"
_JSON: Final = {"Content-Type": JSON}
CID: Final = web.RequestKey("rowferry_devo_cid", str)
"""Twelve hex digits that identify the request, in answer and log."""


class Code(IntEnum):
    """Devo's own numbers, where this service has a use for them."""

    OK = 0
    INVALID_REQUEST = 1
    SIGNATURE = 12
    NOT_FOUND = 100
    CANNOT_CHANGE = 101
    CANNOT_REMOVE = 102
    CANNOT_STOP = 103
    CANNOT_RESTART = 104
    SETTINGS = 205
    BUCKET = 206
    ACCESS_KEY = 207
    SECRET_KEY = 208
    REGION = 209
    FORMAT = 210
    PASSWORD_WITHOUT_ZIP = 211
    PASSWORD_EMPTY = 212
    UNAUTHORIZED = 401
    INTERNAL = 500
    AWAY = 503
    TABLE_UNKNOWN = 624


class Failure(Exception):
    """An error as it will be answered. In `members`, `cid` and `timestamp` stand where the answer has them; what they
    are is filled in."""

    def __init__(self, status: int, members: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(str(members.get("msg", status)))
        self.status = status
        self.members = members
        self.headers = dict(headers or {})


def now_ms() -> int:
    """The time as Devo writes it."""
    return time.time_ns() // 1_000_000


def dumps(value: Any) -> bytes:
    """One line of JSON, as Devo's samples are spaced."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


def answer(request: web.Request, found: object, *, status: int = Code.OK, msg: str | None = None) -> web.Response:
    """A 200 in the envelope."""
    return enveloped(request, dumps(found), status=status, msg=msg)


def enveloped(request: web.Request, found: bytes, *, status: int = Code.OK, msg: str | None = None) -> web.Response:
    """As `answer`, of what is JSON already."""
    said = "" if msg is None else f', "msg": {json.dumps(msg, ensure_ascii=False)}'
    head = f'{{"status": {status:d}, "cid": "{request[CID]}", "timestamp": {now_ms()}{said}, "object": '
    success = b', "success": true}' if status == Code.OK else b', "success": false}'
    return web.Response(body=head.encode("utf-8", "replace") + found + success, headers=_JSON)


def failed(failure: Failure, request: web.Request) -> web.Response:
    """An error, scrubbed of every secret that the process knows."""
    filled = {"cid": request.get(CID, ""), "timestamp": now_ms()}
    members = {name: filled.get(name, value) for name, value in failure.members.items()}
    body = dumps(REDACTOR.scrub_value(members))
    return web.Response(status=failure.status, body=body, headers=failure.headers, content_type=JSON)


def invalid(msg: str, status: int = 400, headers: Mapping[str, str] | None = None) -> Failure:
    """A request that can not be understood; `msg` names the field."""
    members = {"status": 1, "cid": "", "timestamp": 0, "msg": msg, "code": 1, "success": False}
    return Failure(status, members, headers)


def setting_wrong(msg: str, code: int = Code.SETTINGS) -> Failure:
    """A destination that can not be."""
    return Failure(400, {"msg": msg, "code": int(code), "status": int(code), "cid": "", "timestamp": 0})


def query_refused(what: str) -> Failure:
    """A query that is not understood: what, and where."""
    said = "Error Launching Query"
    return Failure(500, {"msg": said, "status": 500, "timestamp": 0, "cid": "", "object": [said, what]})


def table_unknown(table: str, account: str) -> Failure:
    """No table of this name in the account."""
    msg = f"The table {table} is not found in the domain {account}"
    context = {"table": table, "domain": account}
    code = int(Code.TABLE_UNKNOWN)
    return Failure(500, {"msg": msg, "code": code, "timestamp": 0, "cid": "", "context": context})


def not_allowed(msg: str) -> Failure:
    """Known, and not enough."""
    return Failure(403, {"timestamp": 0, "cid": "", "msg": msg, "status": 403})


def task_not_found() -> Failure:
    """Unknown, removed, or no id at all."""
    return Failure(404, {"status": int(Code.NOT_FOUND), "cid": "", "timestamp": 0, "msg": "Task not found"})


def name_taken(name: str) -> Failure:
    """Another job of the account has the friendly name."""
    return _code(500, f"Unable to Start Task: Task Key Duplicate: {name}", Code.INTERNAL)


def signature_refused(message: str = "Invalid signature validation") -> Failure:
    """Of a key that is unknown, a time that is stale, a body that is another: all the same."""
    return Failure(401, {"error": {"code": int(Code.SIGNATURE), "message": message}})


def unauthorized() -> Failure:
    """Nothing that opens anything."""
    return Failure(401, {"error": {"code": int(Code.UNAUTHORIZED), "message": "Unauthorized"}})


def of(error: BaseException) -> Failure | None:
    """The failure that an exception means; None for a bug of ours."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, Problem):
        return _of_problem(error)
    if isinstance(error, web.HTTPException):
        return _of_aiohttp(error)
    return _of_domain(error) if isinstance(error, RowferryError) else None


def of_refusal(error: Refused) -> Failure:
    """A definition that can not stand: the destination's fault, or the query's."""
    found = error.findings[0]
    said = "; ".join(one.message for one in error.findings)
    if found.pointer.startswith(("/sink", "/format")):
        return setting_wrong(said)
    return query_refused(said)


def away(msg: str) -> Failure:
    """Not now; later perhaps."""
    return _code(503, msg, Code.AWAY, {"Retry-After": "1"})


def not_done(code: Code, msg: str) -> Failure:
    """What was asked of a job was not done, or nobody knows whether it was: the control database failed."""
    members = {"status": int(code), "cid": "", "timestamp": 0, "msg": msg, "code": int(code)}
    return Failure(503, members, {"Retry-After": "1"})


def unexpected() -> Failure:
    """What is told of a bug of ours."""
    return _code(500, "the service met an error of its own; its log has it under this cid", Code.INTERNAL)


def _code(status: int, msg: str, code: Code, headers: Mapping[str, str] | None = None) -> Failure:
    return Failure(status, {"msg": msg, "code": int(code), "timestamp": 0, "cid": ""}, headers)


def _of_domain(error: RowferryError) -> Failure:
    if isinstance(error, NotFound):
        return task_not_found()
    if isinstance(error, Transient):
        return away(error.whole)
    if isinstance(error, Conflict | SecretRefused):
        return invalid(error.whole)
    return query_refused(error.whole)


def _of_problem(problem: Problem) -> Failure:
    if problem.status == 401:
        return unauthorized()
    if problem.status == 403:
        return not_allowed(problem.detail)
    status = problem.status if problem.status in {404, 405, 413, 429, 503} else 400
    return invalid(problem.detail, status, problem.headers)


def _of_aiohttp(error: web.HTTPException) -> Failure | None:
    if error.status < 400:
        return None
    headers = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
    said = {
        404: "there is nothing at this path",
        405: f"this path does not take the method; it takes {headers.get('Allow', 'others')}",
        413: "the body is larger than 1 MiB",
    }
    return invalid(said.get(error.status, error.reason), error.status, headers)
