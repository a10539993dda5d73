"""What a route is: method, path, role, models. One table serves the router, the roles, the models and OpenAPI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from service.api.queries import Query

if TYPE_CHECKING:
    from pydantic import BaseModel

    from service.api.auth import Caller
    from service.api.services import Services


class Role(IntEnum):
    """Each may do what the one before it may."""

    PUBLIC = 0
    """No token is asked for."""
    VIEWER = 1
    """Sees everything but row data."""
    OPERATOR = 2
    """Verbs and row data."""
    ADMIN = 3
    """Definitions, secrets, tokens."""

    @property
    def word(self) -> str:
        """As tokens and errors spell it."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Call:
    """One request, checked: who, and what was asked for."""

    request: web.Request
    services: Services
    caller: Caller
    query: Any
    """The route's query model."""
    body: Any
    """JSON values; the route's handler validates them with the route's model. None for routes without a body."""

    @property
    def account(self) -> str:
        """The account that is spoken of."""
        return self.caller.account

    def part(self, name: str) -> str:
        """A part of the path."""
        return self.request.match_info[name]


Handler = Callable[[Call], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """A method on a path."""

    method: str
    path: str
    """As OpenAPI writes it: `/v1/jobs/{job}`."""
    role: Role
    handler: Handler
    summary: str
    answers: Mapping[int, type[BaseModel] | None] = field(default_factory=dict)
    """What success looks like, by status; None is an answer without a JSON body."""
    query: type[Query] = Query
    body: type[BaseModel] | None = None
    stream: bool = False
    """May answer `text/event-stream`."""

    @property
    def pattern(self) -> str:
        """The path as aiohttp's router takes it. A name never holds a colon, which begins a verb."""
        return self.path.replace("}", ":[^/:]+}")


JSON: Final = "application/json"


def answer(model: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """An answer of JSON."""
    return written(model.model_dump_json(by_alias=True).encode(), status, headers)


def written(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """An answer whose JSON is there already."""
    return web.Response(status=status, body=body, headers={"Content-Type": JSON, **(headers or {})})
