"""Reading a request's JSON strictly: what the database could not keep, or two readers could understand differently, is
a 400 before anything happened."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any, Final

from aiohttp import web

from service.api.problems import Problem

MERGE_PATCH: Final = "application/merge-patch+json"
PATIENCE_SECONDS = 60.0
"""For a megabyte at most. Without end, a client that stands still would keep its connection and what serves it."""
_DEEPEST: Final = 64
_TOO_LARGE: Final = "a whole number does not fit into 64 bits; write a smaller one"


async def content(request: web.Request) -> bytes:
    """The body as it came, unpacked where it says that it is packed. Raises Problem 400 for one that is not what its
    headers say, or whose sender has gone, 408 for one that does not come, and aiohttp's own 413."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await request.read()
    except web.RequestPayloadError as error:
        said = " ".join(str(error).removeprefix("400, message:").split())
        detail = (
            f"the body is not what its headers say: {said[:200]}; send it as Content-Length and Content-Encoding say"
        )
        raise Problem(400, "malformed_body", detail, headers={"Connection": "close"}) from None
    except TimeoutError:
        detail = f"the body did not come within {PATIENCE_SECONDS:g} s; send all of it at once"
        raise Problem(408, "body_timeout", detail, headers={"Connection": "close"}) from None
    except ConnectionError:
        raise Problem(400, "body_incomplete", "the connection ended before the body did; send it again") from None


async def read_json(request: web.Request) -> Any:
    """The body as JSON values. Raises Problem 400 (malformed), 413 (over 1 MiB) or 415."""
    raw = await content(request)
    accepted = ["application/json", *([MERGE_PATCH] if request.method == "PATCH" else [])]
    if not raw:
        raise Problem(400, "body_missing", f"this request needs a JSON body; send one as {accepted[0]}")
    if request.content_type not in accepted or (request.charset or "utf-8").lower() not in {"utf-8", "utf8"}:
        given = _shown(request.headers.get("Content-Type", "not given"))
        detail = f"the body's type is {given}; send {' or '.join(accepted)} in UTF-8"
        raise Problem(415, "unsupported_media_type", detail, headers={"Accept": ", ".join(accepted)})
    return parse(raw)


async def refuse_body(request: web.Request) -> None:
    """For requests that take none: a body would be accepted and ignored. An empty object passes."""
    if request.can_read_body and (await content(request)).strip() not in {b"", b"{}"}:
        raise Problem(422, "body_not_expected", "this request takes no body; send none, or {}")


def parse(raw: bytes) -> Any:
    """JSON text to values: UTF-8, no name twice, finite numbers, nothing too deep, no NUL and no half of a surrogate
    pair in any text. Raises Problem 400 naming the place."""
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant)
    except UnicodeDecodeError as error:
        raise _malformed(f"the body is not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise _malformed(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise _malformed(f"the body is nested more than {_DEEPEST} levels deep") from None
    except ValueError as error:
        if type(error) is ValueError and "integer string conversion" in str(error):  # Python's own, with its remedy
            raise _malformed(_TOO_LARGE) from None
        raise _malformed(str(error)[:200]) from None
    _check(value)
    return value


def storable(text: str) -> bool:
    """Whether Postgres can keep this text."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {_shown(twice)} stands twice in one object; keep one")
    return found


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _check(value: Any) -> None:
    pending = [(value, 0)]
    while pending:
        one, depth = pending.pop()
        if depth > _DEEPEST:
            raise _malformed(f"the body is nested more than {_DEEPEST} levels deep")
        if isinstance(one, str) and not storable(one):
            raise _malformed(f"the text {_shown(one)} holds a NUL or half of a surrogate pair; remove it")
        if isinstance(one, float) and not math.isfinite(one):
            raise _malformed("a number is larger than a double can hold; write a smaller one")
        if isinstance(one, int) and not isinstance(one, bool) and abs(one) >= 2**63:
            raise _malformed(_TOO_LARGE)
        if isinstance(one, dict):
            pending.extend((part, depth + 1) for item in one.items() for part in item)
        elif isinstance(one, list):
            pending.extend((item, depth + 1) for item in one)


def _malformed(what: str) -> Problem:
    return Problem(400, "malformed_json", f"{what}; send one JSON value (RFC 8259) in UTF-8")


def _shown(text: str) -> str:
    return ascii(text[:80])
