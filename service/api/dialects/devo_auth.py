"""Who asks in the Devo dialect: signed headers, a bearer token (bare too), or a jwt.

The signature covers key, body and time, not method and path: one that was captured opens every path until it is stale.
So over plain http it is taken from this host only, unless a setting allows it. It is never refused for being a repeat:
clients truncate the time to whole seconds, and two equal requests within a second are equal in every byte.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from config.redaction import register
from service.api.auth import Caller
from service.api.dialects import devo_answers as answers
from service.api.routes import Role

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from service.api.auth import Authenticator
    from service.domain.named import Registry, SigningKey

KEY: Final = "x-logtrust-apikey"
TIMESTAMP: Final = "x-logtrust-timestamp"
SIGNATURE: Final = "x-logtrust-sign"
_NOBODY: Final = "no key has this secret"


def signature(key: str, secret: str, body: bytes, timestamp: str) -> str:
    """What a request is signed with: lower-case hex of HMAC-SHA256 over key, body and time as they travel."""
    code = _keyed(secret).copy()
    code.update(key.encode() + body + timestamp.encode())
    return code.hexdigest()


# Setting up a code for its secret takes longer than the code of a small request.
@lru_cache(maxsize=256)
def _keyed(secret: str) -> hmac.HMAC:
    return hmac.new(secret.encode(), digestmod=hashlib.sha256)


class DevoAuthenticator:
    """Finds out who asks."""

    def __init__(
        self,
        registry: Registry,
        tokens: Authenticator,
        *,
        skew_seconds: float,
        signed_over_http: bool,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`tokens` knows bearer tokens and jwts; `skew_seconds` is how far a request's time may be from ours."""
        self._registry = registry
        self._tokens = tokens
        self._skew_ms = skew_seconds * 1000
        self._signed_over_http = signed_over_http
        self._clock = clock

    async def caller(self, request: web.Request, body: bytes) -> Caller:
        """Who asks; raises Failure 401. The body of a GET is not read and not signed."""
        if KEY in request.headers or SIGNATURE in request.headers:
            return await self._signed(request, body)
        values = request.headers.getall("Authorization", [])
        if len(values) != 1 or not values[0].strip():
            raise answers.unauthorized()
        given = values[0].strip()
        # JavaScript clients send the bare token.
        authorization = given if " " in given else f"Bearer {given}"
        caller = await self._tokens.caller(request, authorization)
        if caller is None:
            raise answers.unauthorized()
        return caller

    async def _signed(self, request: web.Request, body: bytes) -> Caller:
        if not (request.secure or self._signed_over_http or _is_loopback(request.remote)):
            raise answers.signature_refused("signed requests are taken over https only")
        parts = [request.headers.getall(name, []) for name in (KEY, TIMESTAMP, SIGNATURE)]
        if any(len(part) != 1 for part in parts):
            raise answers.signature_refused()
        (key,), (timestamp,), (signed,) = parts
        if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) == 13) or not _askable(key):
            raise answers.signature_refused()
        found = await self._registry.key(key)
        # Computed for a key that does not exist, too: the time it takes tells nothing.
        expected = signature(key, _secret(found), body, timestamp)
        genuine = hmac.compare_digest(expected.encode(), signed.encode("utf-8", "surrogateescape"))
        stale = abs(self._clock() * 1000 - int(timestamp)) > self._skew_ms
        if found is None or not genuine or stale:
            raise answers.signature_refused()
        hashed = hashlib.sha256(b"key:" + key.encode()).digest()
        return Caller(found.account, found.name, Role[found.role.upper()], request.remote or "unknown", hashed)


def _secret(found: SigningKey | None) -> str:
    if found is None or found.secret is None:
        return _NOBODY
    register(found.secret)
    return found.secret


def _askable(key: str) -> bool:
    return 0 < len(key) <= 256 and key.isascii() and key.isprintable()


@lru_cache(maxsize=1024)
def _is_loopback(remote: str | None) -> bool:
    try:
        return ipaddress.ip_address((remote or "").partition("%")[0]).is_loopback
    except ValueError:
        return False
