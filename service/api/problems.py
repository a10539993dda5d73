"""Errors as `application/problem+json` (RFC 9457): every answer of status 400 and above is made here.

`code` is stable; `detail` names field, value and remedy and never holds a secret: whatever goes out is scrubbed of
every secret the process knows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from config.redaction import REDACTOR
from service.domain.errors import Conflict, Interrupted, NotFound, Permanent, RowferryError, RowsRejected, Transient
from service.lifecycle.errors import Refused
from service.secret_fields import SecretRefused

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CONTENT_TYPE: Final = "application/problem+json"
RETRY_AFTER: Final = "1"
"""Seconds, where nothing better is known."""

_RETRYABLE: Final = frozenset({429, 503})
# Codes of the store's conflicts that HTTP has a better status for than 409.
_STATUS_OF_CONFLICT: Final = {
    "revision_changed": 412,
    "precondition_failed": 412,
    "idempotency_key_reused": 422,
    "not_verifiable": 422,
}
_CODES: Final = {
    400: "malformed_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
    417: "expectation_failed",
}


@dataclass(frozen=True, slots=True)
class FieldError:
    """One entry of `errors`. `pointer` is a JSON pointer into the body; for a query parameter it is empty, and
    `parameter` names it."""

    pointer: str
    message: str
    hint: str = ""
    parameter: str | None = None
    code: str | None = None

    def as_json(self) -> dict[str, str]:
        """The entry as answered."""
        entry = {"pointer": self.pointer, "message": self.message, "hint": self.hint}
        entry |= {"parameter": self.parameter} if self.parameter is not None else {}
        return entry | ({"code": self.code} if self.code is not None else {})


class Problem(Exception):
    """An error as it will be answered. `facts` become further members (state, verbs ...)."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        facts: Mapping[str, Any] | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})
        self.facts = dict(facts or {})
        self.retryable = status in _RETRYABLE if retryable is None else retryable

    def body(self, *, instance: str, request_id: str) -> dict[str, Any]:
        """The answer's members."""
        members: dict[str, Any] = {
            "type": f"urn:rowferry:problem:{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "instance": instance,
            "code": self.code,
            "retryable": self.retryable,
            "request_id": request_id,
        }
        if self.status == HTTPStatus.UNPROCESSABLE_ENTITY:
            members["errors"] = [entry.as_json() for entry in self.errors]
        members.update({name: value for name, value in self.facts.items() if name not in members})
        scrubbed: dict[str, Any] = REDACTOR.scrub_value(members)
        return scrubbed

    def response(self, *, instance: str, request_id: str) -> web.Response:
        """The answer."""
        text = json.dumps(self.body(instance=instance, request_id=request_id), ensure_ascii=False, default=str)
        return web.Response(
            status=self.status, headers=self.headers, body=text.encode(errors="replace"), content_type=CONTENT_TYPE
        )


def invalid(code: str, pointer: str, message: str, hint: str = "") -> Problem:
    """A 422 about one field of the body."""
    return Problem(422, code, message, errors=[FieldError(pointer, message, hint, code=code)])


def invalid_parameter(name: str, message: str, hint: str = "", *, code: str = "invalid_parameter") -> Problem:
    """A 422 about one query parameter or header."""
    return Problem(422, code, message, errors=[FieldError("", message, hint, parameter=name, code=code)])


def of(error: BaseException) -> Problem | None:
    """The problem that an exception means; None for a bug of ours."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, web.HTTPException):
        return _of_aiohttp(error)
    if isinstance(error, RowferryError) and not isinstance(error, Interrupted):
        return _of_domain(error)
    if getattr(error, "code", None) in {"destination_refused", "reference_unresolved"}:
        return invalid(str(error.code), "", str(error))  # type: ignore[attr-defined]  # looked up just above
    return None


def unexpected() -> Problem:
    """What a caller is told of a bug of ours: nothing but where to look."""
    detail = "the service met an error of its own; its log has it under this request id"
    return Problem(500, "internal_error", detail, retryable=False)


def _of_domain(error: RowferryError) -> Problem:
    detail = f"{error.message}; {error.hint}" if error.hint else error.message
    if isinstance(error, NotFound):
        return Problem(404, error.code, detail)
    if isinstance(error, Conflict):
        return _of_conflict(error, detail)
    if isinstance(error, Transient):
        return Problem(503, error.code, detail, headers={"Retry-After": RETRY_AFTER})
    if isinstance(error, Permanent | RowsRejected | SecretRefused):
        return _of_refusal(error, detail)
    return unexpected()


def _of_refusal(error: RowferryError, detail: str) -> Problem:
    """A 422, with every place that the error knows."""
    if isinstance(error, Refused):
        entries = [FieldError(one.pointer, one.message, one.hint, code=one.code) for one in error.findings]
    else:
        entries = [FieldError(getattr(error, "pointer", ""), error.message, error.hint, code=error.code)]
    return Problem(422, error.code, detail, errors=entries)


def _of_conflict(error: Conflict, detail: str) -> Problem:
    status = _STATUS_OF_CONFLICT.get(error.code, 409)
    waits = error.code == "request_in_progress"
    entries = [FieldError("", error.message, error.hint, code=error.code)] if status == 422 else []
    return Problem(
        status,
        error.code,
        detail,
        errors=entries,
        headers={"Retry-After": RETRY_AFTER} if waits else {},
        facts=error.facts,
        retryable=waits,
    )


def _of_aiohttp(error: web.HTTPException) -> Problem | None:
    if error.status < 400:
        return None
    code = _CODES.get(error.status, "http_error")
    headers = {name: error.headers[name] for name in ("Allow", "WWW-Authenticate") if name in error.headers}
    details = {
        404: "there is nothing at this path; GET /openapi.json lists what there is",
        405: f"this path does not take the method; it takes {headers.get('Allow', 'others')}",
        413: "the body is larger than 1 MiB (1048576 bytes); send a smaller one",
        417: "only Expect: 100-continue is understood",
    }
    return Problem(error.status, code, details.get(error.status, error.reason), headers=headers)
