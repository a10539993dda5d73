"""Who asks in the Siren dialect: as Elasticsearch's clients are given credentials.

`Basic`: the password is a token, the user its name. `ApiKey`: the token itself, or base64 of `name:token`, as
Elasticsearch's clients write it. `Bearer`: the token. A jwt stands for a token in all of them; its name is the subject.
"""

from __future__ import annotations

import base64
import binascii
from functools import lru_cache
from typing import TYPE_CHECKING

from service.api.auth import unauthorized

if TYPE_CHECKING:
    from aiohttp import web

    from service.api.auth import Authenticator, Caller


class SirenAuthenticator:
    """Finds out who asks."""

    def __init__(self, tokens: Authenticator) -> None:
        """`tokens` knows bearer tokens and jwts."""
        self._tokens = tokens

    async def caller(self, request: web.Request) -> Caller:
        """Who asks; raises Problem 401 or 403."""
        values = request.headers.getall("Authorization", [])
        if len(values) != 1:
            raise unauthorized("missing authentication credentials")
        name, authorization = read(values[0])
        caller = await self._tokens.caller(request, authorization)
        # Whoever has a token has the name: it opens nothing, and a wrong one is somebody else's credentials.
        if caller is None or (name is not None and name != caller.name):
            raise unauthorized("the token is unknown or has expired, or has another name")
        return caller


# Of one caller it is the same in every request.
@lru_cache(maxsize=256)
def read(header: str) -> tuple[str | None, str]:
    """The name that the token must have, None where none is given; and the header as `/v1` takes it."""
    scheme, _, given = header.strip().partition(" ")
    given = given.strip()
    if scheme.lower() == "basic":
        pair = _pair(given)
        if pair is None:
            raise unauthorized("the Authorization header is not Basic with base64 of 'name:token'")
        return pair[0], f"Bearer {pair[1]}"
    if scheme.lower() == "apikey":
        pair = _pair(given)
        return (None, f"Bearer {given}") if pair is None else (pair[0], f"Bearer {pair[1]}")
    return None, f"{scheme} {given}"


def _pair(text: str) -> tuple[str, str] | None:
    """(name, token) of base64; None where it is none."""
    try:
        decoded = base64.b64decode(text, validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    name, colon, token = decoded.partition(":")
    return (name, token.strip()) if colon and token.strip() else None
