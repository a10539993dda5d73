"""What a dialect is to the application: its routes, who asks, and how it says that something went wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aiohttp import web

    from service.api.auth import Caller
    from service.api.routes import Route


class Dialect(Protocol):
    """Another product's language over the same use cases. Requests pass the same steps as those of `/v1`: who asks, how
    often, may they, the use case; what is different is how each of them speaks."""

    @property
    def routes(self) -> Sequence[Route]:
        """Every path it answers, each with its role. A handler finds the exact body in `Call.body`."""

    def owns(self, method: str, path: str) -> bool:
        """Whether an error at this path is told in this language, also where there is no route."""

    def begin(self, request: web.Request) -> str:
        """Name the request, for answers and log, before anything of it is looked at."""

    async def caller(self, request: web.Request, body: bytes) -> Caller:
        """Who asks. Raises what `failure` knows how to tell."""

    def failure(self, error: BaseException, request: web.Request) -> web.Response | None:
        """The answer that an exception means; None for a bug of ours, of which nothing is told."""

    def headers(self, request: web.Request) -> Mapping[str, str]:
        """What every answer to it carries besides, streams and errors included."""

    def add_routes(self, app: web.Application) -> None:
        """Add what the settings ask for beside `routes`: answers that need nobody's rights."""

    def unexpected(self, request: web.Request) -> web.Response:
        """What a caller is told of a bug of ours."""
