"""A reverse proxy in front of a real server, as operators put one there: TLS, credentials, rights, redirects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import aiohttp
from aiohttp import web

from tests.support.ports import LOOPBACK

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

_BODY_BYTES = 64 * 1024 * 1024


class Gateway:
    """
    Forwards to `target` what its rules let through; an async context manager.

    `authorization` is the header that must come with every request (401 else), `forbidden` says which method and path
    are answered 403 in the words of Elasticsearch's security, `redirect` sends everything elsewhere.
    """

    def __init__(
        self,
        target: str,
        *,
        authorization: str | None = None,
        forbidden: Callable[[str, str], bool] | None = None,
        redirect: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._target, self._authorization, self._redirect = target, authorization, redirect
        self._forbidden, self._tls = forbidden, tls
        self.requests: list[tuple[str, str]] = []
        self.port = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{'https' if self._tls else 'http'}://{LOOPBACK}:{self.port}"

    async def __aenter__(self) -> Self:
        """Listen."""
        self._session = aiohttp.ClientSession()
        application = web.Application(client_max_size=_BODY_BYTES)
        application.router.add_route("*", "/{path:.*}", self._forward)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        site = web.TCPSite(self._runner, LOOPBACK, 0, ssl_context=self._tls)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self._runner.cleanup()
        await self._session.close()

    async def _forward(self, request: web.Request) -> web.Response:
        self.requests.append((request.method, request.path))
        if self._redirect is not None:
            return web.Response(status=307, headers={"Location": self._redirect + request.path_qs})
        if self._authorization is not None and request.headers.get("Authorization") != self._authorization:
            return _refused(401, "missing or wrong credentials")
        if self._forbidden is not None and self._forbidden(request.method, request.path):
            return _refused(403, f"action [{request.method} {request.path}] is unauthorized for user [loader]")
        async with self._session.request(
            request.method,
            self._target + request.raw_path,
            data=await request.read() or None,
            headers={"Content-Type": request.headers.get("Content-Type", "application/json")},
        ) as reply:
            return web.Response(status=reply.status, body=await reply.read(), content_type="application/json")


def _refused(status: int, reason: str) -> web.Response:
    error = {"type": "security_exception", "reason": reason}
    return web.json_response({"error": {**error, "root_cause": [error]}, "status": status}, status=status)
