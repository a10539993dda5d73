"""Pages: `next` is a relative URL with the filters in it, or null (native-api.md, Paging)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import urlencode

from service.api.problems import invalid_parameter

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from aiohttp import web

T = TypeVar("T")

LIMIT: Final = 50
LARGEST: Final = 500


def following(request: web.Request, after: str | int | None) -> str | None:
    """The URL of the next page: this request's own, `after` replaced."""
    if after is None:
        return None
    kept = [(name, value) for name, value in request.query.items() if name != "after"]
    return f"{request.path}?{urlencode([*kept, ('after', str(after))])}"


async def asked(page: Awaitable[T]) -> T:
    """A page of the store. What it says of a parameter (a ValueError that begins with its name) becomes a 422."""
    try:
        return await page
    except ValueError as error:
        raise invalid_parameter(str(error).partition(" ")[0], str(error), "correct it, or leave it out") from None
