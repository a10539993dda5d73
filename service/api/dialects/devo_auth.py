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

from aiohttp import web

from config.redaction import register
from service.api.auth import Caller
from service.api.dialects import devo_answers as answers
from service.api.routes import Role
from service.domain.records import Job

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.api.auth import Authenticator
    from service.domain.named import Registry, SigningKey

KEY: Final = "x-logtrust-apikey"
TIMESTAMP: Final = "x-logtrust-timestamp"
SIGNATURE: Final = "x-logtrust-sign"
JOB: Final = web.RequestKey("rowferry_devo_job", Job)
"""The job that the request's path names, where it was read together with the key."""


def signature(key: str, secret: str, body: bytes, timestamp: str) -> str:
    """What a request is signed with: lower-case hex of HMAC-SHA256 over key, body and time as they travel."""
    return _signed_by(_keyed(secret), key, body, timestamp)


def _signed_by(keyed: hmac.HMAC, key: str, body: bytes, timestamp: str) -> str:
    code = keyed.copy()
    code.update(key.encode() + body + timestamp.encode())
    return code.hexdigest()


def _keyed(secret: str) -> hmac.HMAC:
    return hmac.new(secret.encode(), digestmod=hashlib.sha256)


_OF_NOBODY: Final = _keyed("no key has this secret")


# Both are the same in every request of one caller, and take longer to make than the code of a small request.
@lru_cache(maxsize=1024)
def _known(found: SigningKey, remote: str) -> tuple[hmac.HMAC, Caller]:
    """What requests of a key are signed by, and whom it lets in. It says nothing of whether the key is still one."""
    assert found.secret is not None, "the key was looked up alone"
    register(found.secret)
    hashed = hashlib.sha256(b"key:" + found.key.encode()).digest()
    return _keyed(found.secret), Caller(found.account, found.name, Role[found.role.upper()], remote, hashed)


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
        given = request.headers
        parts = given.getall(KEY, []), given.getall(TIMESTAMP, []), given.getall(SIGNATURE, [])
        if [*map(len, parts)] != [1, 1, 1]:
            raise answers.signature_refused()
        (key,), (timestamp,), (signed,) = parts
        if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) == 13) or not _askable(key):
            raise answers.signature_refused()
        job_id = request.match_info.get("id")
        both = None if job_id is None else await self._registry.signed(key, job_id)
        found, job = (await self._registry.key(key), None) if both is None else both
        # Computed for a key that does not exist, too: the time it takes tells nothing.
        keyed, caller = (_OF_NOBODY, None) if found is None else _known(found, request.remote or "unknown")
        expected = _signed_by(keyed, key, body, timestamp)
        genuine = hmac.compare_digest(expected.encode(), signed.encode("utf-8", "surrogateescape"))
        stale = abs(self._clock() * 1000 - int(timestamp)) > self._skew_ms
        if caller is None or not genuine or stale:
            raise answers.signature_refused()
        if job is not None:
            request[JOB] = job
        return caller


def _askable(key: str) -> bool:
    return 0 < len(key) <= 256 and key.isascii() and key.isprintable()


@lru_cache(maxsize=1024)
def _is_loopback(remote: str | None) -> bool:
    try:
        return ipaddress.ip_address((remote or "").partition("%")[0]).is_loopback
    except ValueError:
        return False
