"""`Idempotency-Key` on every POST: the same request again gets the stored answer (native-api.md).

The fingerprint is method, path, query and body. What was answered is kept 24 hours per account by the store; 5xx, 429
and cancelled requests are forgotten. Of an answer that shows a secret once, the kept copy says `***` instead.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from config.redaction import MASK
from service.api import bodies
from service.api.problems import invalid_parameter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from service.domain.ports import JobStore

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = "Idempotent-Replayed"
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_KEPT_HEADERS: Final = ("Content-Type", "Location", "ETag", "Retry-After")
_SHOWN_ONCE: Final = ("token", "secret")


async def once(
    store: JobStore, account: str, request: web.Request, handle: Callable[[], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer a POST with a key: the stored answer, or `handle`'s, which turns errors into answers itself. Raises
    Conflict `idempotency_key_reused` or `request_in_progress`, Problem 422 for a key that is none."""
    key = request.headers[HEADER]
    if not _KEY.fullmatch(key):
        raise invalid_parameter(HEADER, f"{HEADER} is not 1 to 255 visible ASCII characters", "send a UUID")
    stored = await store.begin_request(account, key, await _fingerprint(request))
    if stored is not None:
        return _replay(stored)
    try:
        answer = await handle()
    except BaseException:
        await asyncio.shield(store.end_request(account, key, status=0, headers={}, body=b"", keep=False))
        raise
    body = answer.body if isinstance(answer, web.Response) and isinstance(answer.body, bytes) else b""
    headers = {name: answer.headers[name] for name in _KEPT_HEADERS if name in answer.headers}
    keep = answer.status < 500 and answer.status != 429
    await store.end_request(account, key, status=answer.status, headers=headers, body=_without_secret(body), keep=keep)
    return answer


async def _fingerprint(request: web.Request) -> str:
    seen = hashlib.sha256()
    for part in (request.method, request.rel_url.raw_path, request.rel_url.raw_query_string):
        seen.update(part.encode() + b"\0")
    seen.update(await bodies.content(request))
    return seen.hexdigest()


def _replay(stored: Mapping[str, Any]) -> web.Response:
    headers = {**stored["headers"], REPLAYED: "true"}
    return web.Response(status=stored["status"], headers=headers, body=bytes(stored["body"] or b""))


def _without_secret(body: bytes) -> bytes:
    if not any(f'"{name}"'.encode() in body for name in _SHOWN_ONCE):
        return body
    answer = json.loads(body)
    shown = [name for name in _SHOWN_ONCE if isinstance(answer, dict) and isinstance(answer.get(name), str)]
    return json.dumps({**answer, **dict.fromkeys(shown, MASK)}).encode() if shown else body
