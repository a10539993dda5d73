"""What every request passes on its way to a handler: who asks (401) -> how often (429) -> may they (403) -> query
(422) -> idempotency -> body (400, 413, 415) -> the use case."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import hdrs

from service.api import bodies, idempotency, queries
from service.api.auth import Authenticator, Caller, anonymous, check_role, unauthorized
from service.api.frame import CONTEXT, safely
from service.api.problems import Problem
from service.api.routes import Call, Role
from service.api.services import CALLER, STILL_ADMITTED
from service.domain.errors import NotFound, RowferryError
from service.lifecycle.jobs import is_ref

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web

    from service.api.dialects.base import Dialect
    from service.api.rate_limit import RateLimit
    from service.api.routes import Route
    from service.api.services import Services


class Gate:
    """What every request passes on its way to a handler."""

    def __init__(self, services: Services, authenticator: Authenticator, limit: RateLimit) -> None:
        self._services = services
        self._authenticator = authenticator
        self._limit = limit

    def behind(self, route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """The handler that aiohttp's router is given."""

        async def handle(request: web.Request) -> web.StreamResponse:
            caller = request[CALLER] = await self._caller(request, route)
            self._admit(caller, self._role(route), request)
            request[STILL_ADMITTED] = self._still
            if not all(is_ref(part) for part in request.match_info.values()):
                raise NotFound("object", "/".join(request.match_info.values())[:60])
            query = queries.read(route.query, request)
            if request.method == hdrs.METH_POST and idempotency.HEADER in request.headers:
                return await idempotency.once(
                    self._services.store,
                    caller.account,
                    request,
                    lambda: safely(request, lambda: self._call(route, request, caller, query)),
                )
            return await self._call(route, request, caller, query)

        return handle

    async def _still(self, caller: Caller, request: web.Request) -> bool:
        try:
            now = await self._authenticator.caller(request)
        except Problem:
            return False
        except RowferryError:  # the control database is away: nobody knows
            return True
        return now is not None and (now.account, now.role) == (caller.account, caller.role)

    def behind_dialect(self, route: Route, dialect: Dialect) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """As `behind`, for a route of a dialect: bodies and answers are its own matter, who may what is not."""

        async def handle(request: web.Request) -> web.StreamResponse:
            # The body as it came: signatures are over its bytes. That of a GET is ignored.
            body = await bodies.content(request) if request.method in {hdrs.METH_POST, hdrs.METH_PUT} else b""
            if route.role is Role.PUBLIC:
                caller = anonymous(request)
            else:
                try:
                    caller = await dialect.caller(request, body)
                except Exception:
                    self._limit.take(anonymous(request).key)  # guessing is slow
                    raise
            request[CALLER] = caller
            self._admit(caller, route.role, request)
            return await route.handler(Call(request, self._services, caller, None, body))

        return handle

    def _admit(self, caller: Caller, role: Role, request: web.Request) -> None:
        request[CONTEXT]["account"] = caller.account
        self._limit.take(caller.key)
        check_role(caller, role)

    def _role(self, route: Route) -> Role:
        public = route.path == "/metrics" and self._services.settings.metrics_public
        return Role.PUBLIC if public else route.role

    async def _caller(self, request: web.Request, route: Route) -> Caller:
        role = self._role(route)
        try:
            caller = await self._authenticator.caller(request)
        except Problem as problem:
            if role is Role.PUBLIC:
                return anonymous(request)
            if problem.status == 401:
                # Guessing is slow.
                self._limit.take(anonymous(request).key)
            raise
        except RowferryError:
            # Health must be told without the control database.
            if role is not Role.PUBLIC:
                raise
            caller = None
        if caller is None and role is not Role.PUBLIC:
            self._limit.take(anonymous(request).key)
            raise unauthorized("this needs a token")
        return caller or anonymous(request)

    async def _call(self, route: Route, request: web.Request, caller: Caller, query: object) -> web.StreamResponse:
        body = None
        if route.body is not None:
            body = await bodies.read_json(request)
        else:
            await bodies.refuse_body(request)
        return await route.handler(Call(request, self._services, caller, query, body))
