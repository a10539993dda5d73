"""What the Siren dialect answers: JSON as Elasticsearch writes it, errors in Elasticsearch's shape.

Clients are Elasticsearch clients: they read `error.reason`, `error.root_cause` and `status`, ask for Basic by the
challenge of a 401, and some of them take no answer without `X-Elastic-Product`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from config.redaction import REDACTOR
from service.api import problems

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from service.api.problems import Problem

JSON: Final = "application/json"
_JSON: Final = {"Content-Type": JSON}
ILLEGAL: Final = "illegal_argument_exception"
_CHALLENGE: Final = 'Basic realm="rowferry", charset="UTF-8"'
_FALSE: Final = "false"
_TYPES: Final = {
    400: ILLEGAL,
    401: "security_exception",
    403: "security_exception",
    404: "resource_not_found_exception",
    409: "status_exception",
    413: "content_too_long_exception",
    429: "es_rejected_execution_exception",
    500: "exception",
}
_PARSING: Final = frozenset({"malformed_json", "body_missing"})
_AS_BAD_REQUEST: Final = frozenset({412, 415, 417, 422})
"""Elasticsearch has no other word for a definition that can not be."""


class Failure(Exception):
    """An error as it will be answered. `body` stands instead of Elasticsearch's shape."""

    def __init__(
        self,
        status: int,
        kind: str,
        reason: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.kind = kind
        self.reason = reason
        self.headers = dict(headers or {})
        self.body = body

    def members(self) -> Mapping[str, Any]:
        """The answer's members."""
        if self.body is not None:
            return self.body
        cause = {"type": self.kind, "reason": self.reason}
        return {"error": {"root_cause": [cause], **cause}, "status": self.status}


def answer(
    request: web.Request, found: Mapping[str, Any], status: int = 200, *, warnings: Sequence[str] = ()
) -> web.Response:
    """An answer in one line, or in several with `?pretty`. `warnings` travel as Elasticsearch's do: in the header that
    its clients show."""
    response = web.Response(status=status, body=_dumps(request, found), content_type=JSON)
    for warning in warnings:
        response.headers.add("Warning", _warning(warning))
    return response


def written(found: bytes) -> web.Response:
    """An answer in one line that is JSON already."""
    return web.Response(body=found, headers=_JSON)


def failed(failure: Failure, request: web.Request) -> web.Response:
    """An error, scrubbed of every secret that the process knows."""
    body = _dumps(request, REDACTOR.scrub_value(dict(failure.members())))
    return web.Response(status=failure.status, body=body, headers=failure.headers, content_type=JSON)


def invalid(reason: str) -> Failure:
    """A request that can not be understood, or a definition that can not be; `reason` names the field."""
    return Failure(400, ILLEGAL, reason)


def not_found(body: Mapping[str, Any]) -> Failure:
    """Nothing of this name, in the words of a document that is not there."""
    return Failure(404, _TYPES[404], "not found", body=body)


def unexpected() -> Failure:
    """What is told of a bug of ours."""
    return Failure(500, _TYPES[500], "the service met an error of its own; its log has it under this request's id")


def of(error: BaseException, request: web.Request) -> Failure | None:
    """The failure that an exception means; None for a bug of ours."""
    if isinstance(error, Failure):
        return error
    problem = problems.of(error)
    if problem is None:
        return None
    if isinstance(error, web.HTTPException) and problem.status in {404, 405}:
        return _no_route(request, problem)
    status = 400 if problem.status in _AS_BAD_REQUEST else problem.status
    kind = "parsing_exception" if problem.code in _PARSING else _TYPES.get(status, "status_exception")
    headers = {"WWW-Authenticate": _CHALLENGE} if status == 401 else problem.headers
    return Failure(status, kind, _reason(problem), headers=headers)


def _reason(problem: Problem) -> str:
    """Every place that is wrong, each with its remedy; of a 401 what this dialect takes."""
    if problem.status == 401:
        said = problem.detail.partition("; send a valid one")[0]
        return f"unable to authenticate: {said}; send Basic (a token's name and the token), ApiKey or Bearer"
    places = [f"{one.message} ({one.hint})" if one.hint else one.message for one in problem.errors]
    return "; ".join(places) or problem.detail


def _no_route(request: web.Request, problem: Problem) -> Failure:
    method, path = request.method[:20], request.path[:200]
    if problem.status == 405:
        allowed = problem.headers.get("Allow", "others")
        said = f"Incorrect HTTP method for uri [{path}] and method [{method}], allowed: [{allowed}]"
        return Failure(405, ILLEGAL, said, headers=problem.headers)
    return Failure(404, _TYPES[404], f"no handler found for uri [{path}] and method [{method}]")


def in_one_line(value: Mapping[str, Any]) -> bytes:
    """JSON as Elasticsearch writes it for who does not ask for `?pretty`."""
    return _json(value, pretty=False)


def _dumps(request: web.Request, value: Mapping[str, Any]) -> bytes:
    return _json(value, pretty=request.query.get("pretty", _FALSE) != _FALSE)


def _json(value: Mapping[str, Any], *, pretty: bool) -> bytes:
    spaced: dict[str, Any] = {"indent": 2, "separators": (",", " : ")} if pretty else {"separators": (",", ":")}
    text = json.dumps(value, ensure_ascii=False, **spaced)
    return (f"{text}\n" if pretty else text).encode("utf-8", "replace")


def _warning(text: str) -> str:
    """A header holds printable ASCII in quotes; 299 is what Elasticsearch sends."""
    shown = REDACTOR.scrub(text).encode("ascii", "backslashreplace").decode()
    plain = "".join(one if one.isprintable() else " " for one in shown)
    escaped = plain.replace("\\", "\\\\").replace('"', '\\"')
    return f'299 Rowferry "{escaped}"'
