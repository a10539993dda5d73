"""What is kept under a name: one of them, put, removed. Datasources, credentials and public tables differ in what they
hold, not in how they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

from aiohttp import web

from service.api.native.jobs import actor, mapping
from service.api.problems import invalid
from service.api.routes import answer
from service.domain.spec import NAME_PATTERN, Name
from service.domain.strict import Strict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic import BaseModel

    from service.api.queries import NameQuery
    from service.api.routes import Call
    from service.api.services import Services
    from service.domain.records import Actor


class _Named(Strict):
    name: Name


class Remover(Protocol):
    """The use case that takes one away."""

    async def remove(self, account: str, who: Actor, ref: str, /) -> None:
        """Raises NotFound, and Conflict while something needs it."""


class Keeper(Remover, Protocol):
    """The use cases of one kind."""

    async def find(self, account: str, name: str, /) -> Any:
        """Raises NotFound."""

    async def put(self, account: str, who: Actor, name: str, given: Mapping[str, Any], /) -> tuple[Any, bool]:
        """What is kept now, and whether it is new."""


class Kept:
    """The handlers of one kind."""

    def __init__(self, keeper: Callable[[Services], Keeper], shown: Callable[[Any], BaseModel]) -> None:
        self._keeper = keeper
        self._shown = shown

    async def one(self, call: Call) -> web.StreamResponse:
        """One of them."""
        return answer(self._shown(await self._keeper(call.services).find(call.account, call.part("name"))))

    async def put(self, call: Call) -> web.StreamResponse:
        """201 or 200."""
        name = _new_name(call)
        kept, created = await self._keeper(call.services).put(call.account, actor(call), name, mapping(call.body))
        headers = {"Location": call.request.path} if created else {}
        return answer(self._shown(kept), 201 if created else 200, headers)

    async def delete(self, call: Call) -> web.StreamResponse:
        """204; 409 while something needs it."""
        await self._keeper(call.services).remove(call.account, actor(call), call.part("name"))
        return web.Response(status=204)


class Removable:
    """The handlers that remove what is made rather than put, by a part of the path or by `?name=`."""

    def __init__(self, keeper: Callable[[Services], Remover], part: str) -> None:
        self._keeper = keeper
        self._part = part

    async def delete(self, call: Call) -> web.StreamResponse:
        """204."""
        return await self._delete(call, call.part(self._part))

    async def delete_by_name(self, call: Call) -> web.StreamResponse:
        """204."""
        return await self._delete(call, cast("NameQuery", call.query).name)

    async def _delete(self, call: Call, ref: str) -> web.StreamResponse:
        await self._keeper(call.services).remove(call.account, actor(call), ref)
        return web.Response(status=204)


def _new_name(call: Call) -> str:
    """The name in the path, as one that can be given. Raises Problem 422 `invalid_name`."""
    name = call.part("name")
    try:
        return _Named.model_validate({"name": name}).name
    except ValueError:
        raise invalid(
            "invalid_name", "/name", f"name {name!r} can not be used", f"names match {NAME_PATTERN}"
        ) from None
