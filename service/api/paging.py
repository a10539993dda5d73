"""Pages: `next` is a relative URL with the filters in it, or null (native-api.md, Paging)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

if TYPE_CHECKING:
    from aiohttp import web

LIMIT: Final = 50
LARGEST: Final = 500


def following(request: web.Request, after: str | int | None) -> str | None:
    """The URL of the next page: this request's own, `after` replaced."""
    if after is None:
        return None
    kept = [(name, value) for name, value in request.query.items() if name != "after"]
    return f"{request.path}?{urlencode([*kept, ('after', str(after))])}"
