"""Who asks: bearer tokens, the accounts they belong to, their roles.

A token travels in `Authorization` only: `Bearer` for ours, `jwt` (or `Bearer`) for those of an issuer that the settings
name. The token of `ROWFERRY_ADMIN_TOKEN` is admin of account `default` and may name another account in
`X-Rowferry-Account`; a stored token and a jwt belong to one account.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from config.redaction import register
from service.api.jwts import JwtRefused
from service.api.problems import Problem
from service.api.routes import Role
from service.domain.records import Actor
from service.domain.spec import NAME_PATTERN

if TYPE_CHECKING:
    from aiohttp import web

    from service.api.jwts import Jwts
    from service.domain.named import Registry

ACCOUNT_HEADER: Final = "X-Rowferry-Account"
DEFAULT_ACCOUNT: Final = "default"
_CHALLENGE: Final = 'Bearer realm="rowferry"'
_NAME = re.compile(NAME_PATTERN)
_JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, in which account, from where."""

    account: str
    name: str
    role: Role
    origin: str
    key: bytes
    """What the rate is limited by: the token's digest, or the address of somebody without one."""
    from_setting: bool = False
    """The token of ROWFERRY_ADMIN_TOKEN."""

    def actor(self, request_id: str) -> Actor:
        """For events."""
        return Actor(self.name, self.origin, request_id)


def digest(token: str) -> bytes:
    """What is stored of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


# Of one caller it is the same in every request. It says nothing of whether the token opens anything.
@lru_cache(maxsize=256)
def _taken_apart(header: str) -> tuple[str, str, bytes]:
    """Scheme, token, and the token's digest."""
    scheme, _, token = header.partition(" ")
    token = token.strip()
    return scheme.lower(), token, digest(token)


class Authenticator:
    """Finds out who asks."""

    def __init__(self, registry: Registry, admin_token: str | None, jwts: Jwts | None = None) -> None:
        """`jwts` is None where the settings name no issuer."""
        self._registry = registry
        self._jwts = jwts
        self._admin = digest(admin_token) if admin_token else None
        self._accounts = {DEFAULT_ACCOUNT}

    async def caller(self, request: web.Request, authorization: str | None = None) -> Caller | None:
        """Who asks; None without a token. Raises Problem 401 for a token that opens nothing, 403 for an account that
        is not the token's. `authorization` stands instead of the header."""
        values = request.headers.getall("Authorization", []) if authorization is None else [authorization]
        if not values:
            return None
        scheme, token, hashed = _taken_apart(values[0])
        if len(values) != 1 or scheme not in {"bearer", "jwt"} or not token:
            raise unauthorized("the Authorization header is not 'Bearer <token>'")
        named = request.headers.get(ACCOUNT_HEADER)
        if scheme == "jwt":
            return await self._of_jwt(request, token, named)
        if self._admin is not None and hmac.compare_digest(self._admin, hashed):
            account = await self._named(named, create=request.method not in {"GET", "HEAD"})
            return Caller(account, "admin", Role.ADMIN, _origin(request), hashed, from_setting=True)
        if self._jwts is not None and _JWT.fullmatch(token):
            return await self._of_jwt(request, token, named)
        found = await self._registry.token(hashed)
        if found is None:
            raise unauthorized("the token is unknown or has expired")
        # A token is never logged by us; a library's debug line might hold the header.
        register(token)
        _refuse_other(named, found.account)
        return Caller(found.account, found.name, Role[found.role.upper()], _origin(request), hashed)

    async def _of_jwt(self, request: web.Request, token: str, named: str | None) -> Caller:
        if self._jwts is None:
            raise unauthorized("jwt authorization is off")
        register(token)
        try:
            claims = self._jwts.claims(token)
        except JwtRefused as error:
            raise unauthorized(str(error)) from None
        if not _NAME.fullmatch(claims.account):
            raise unauthorized("the jwt names an account that can be none")
        _refuse_other(named, claims.account)
        # The issuer is the operator's: what it names comes to be as for the operator's own token.
        account = await self._named(claims.account, create=request.method not in {"GET", "HEAD"})
        # Tokens of one subject follow each other in minutes: the rate is the subject's.
        key = digest(f"jwt {account} {claims.subject}")
        return Caller(account, claims.subject, claims.role, _origin(request), key)

    async def _named(self, name: str | None, *, create: bool) -> str:
        if name is None:
            return DEFAULT_ACCOUNT
        if not _NAME.fullmatch(name):
            raise Problem(
                403, "account_not_allowed", f"{ACCOUNT_HEADER} holds no account's name; names match {NAME_PATTERN}"
            )
        if create and name not in self._accounts:
            await self._registry.ensure_account(name)
            self._accounts.add(name)
        return name


def _refuse_other(named: str | None, account: str) -> None:
    if named is not None and named != account:
        raise Problem(
            403,
            "account_not_allowed",
            f"the token belongs to another account than {ACCOUNT_HEADER} names; leave the header out",
        )


def anonymous(request: web.Request) -> Caller:
    """Somebody without a token, on a public route."""
    origin = _origin(request)
    return Caller(DEFAULT_ACCOUNT, "anonymous", Role.PUBLIC, origin, b"address:" + origin.encode())


def check_role(caller: Caller, role: Role) -> None:
    """Raises Problem 403."""
    if caller.role < role:
        raise Problem(
            403,
            "forbidden",
            f"this needs the role {role.word}; the token has {caller.role.word}",
            facts={"role": role.word},
        )


def unauthorized(detail: str) -> Problem:
    """A 401 with its challenge."""
    return Problem(
        401,
        "unauthorized",
        f"{detail}; send a valid one in Authorization: Bearer",
        headers={"WWW-Authenticate": _CHALLENGE},
    )


def _origin(request: web.Request) -> str:
    return request.remote or "unknown"
