"""HTTP with one cluster: who we are, how long we wait, and what an answer means. Nothing of aiohttp leaves the sink."""

from __future__ import annotations

import base64
import io
import json
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

import aiohttp

from sinks.elasticsearch_errors import Names, Told, from_exception, refusal
from sinks.guarded import addresses_of
from sinks.guarded_http import resolver_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sinks.guarded import Guard
    from sinks.specs import ElasticsearchSinkSpec

CONNECT_SECONDS: Final = 5.0
LOOK_SECONDS: Final = 10.0
"""For what a server answers out of its memory."""
WORK_SECONDS: Final = 60.0
"""For a bulk request, a refresh, a new index."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, and the body as JSON; an empty object where there was none."""

    status: int
    body: Mapping[str, Any]

    @property
    def told(self) -> Told:
        """Its error."""
        return Told.of(self.body.get("error"))


class Client:
    """Connections of one writer, or of one look. Connects on use; every call is bounded in time."""

    def __init__(self, spec: ElasticsearchSinkSpec, guard: Guard | None, names: Names) -> None:
        """`guard` is awaited with host and port before the first connection, and is asked for addresses at each."""
        self.names = names
        self._spec, self._guard = spec, guard
        self._session: aiohttp.ClientSession | None = None

    async def call(
        self,
        method: str,
        path: str,
        doing: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | bytes | None = None,
        accept: tuple[int, ...] = (),
        seconds: float = LOOK_SECONDS,
    ) -> Answer:
        """One request, sent once. Raises SinkError for a connection that fails, and for an answer that is neither a
        success nor in `accept`."""
        parameters = "&".join(f"{name}={quote(value, safe='*,.')}" for name, value in (query or {}).items())
        url = f"{self._spec.url}{path}{'?' if parameters else ''}{parameters}"
        lines = isinstance(body, bytes)
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            session = await self._opened()
            async with session.request(
                method,
                url,
                # As a stream: in one piece, a body of megabytes would keep the event loop busy.
                data=io.BytesIO(data) if data else None,
                headers={"Content-Type": "application/x-ndjson" if lines else "application/json"},
                timeout=aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS),
                # Nowhere but where the guard has looked, and with nobody else's eyes on the credentials.
                allow_redirects=False,
            ) as reply:
                answer = Answer(reply.status, _parsed(await reply.read()))
        except Exception as error:
            raise from_exception(self.names, doing, error) from error
        if 200 <= answer.status < 300 or answer.status in accept:
            return answer
        raise refusal(self.names, doing, answer.status, answer.told)

    async def close(self) -> None:
        """Give the connections back. Never raises."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            at = urlsplit(self._spec.url)
            await addresses_of(self._guard, at.hostname or "", at.port or (443 if at.scheme == "https" else 80))
            context = ssl.create_default_context(cadata=self._spec.ca) if at.scheme == "https" else True
            connector = aiohttp.TCPConnector(limit=2, ssl=context, resolver=resolver_for(self._guard))
            headers = {"Authorization": said} if (said := self._authorization()) else {}
            self._session = aiohttp.ClientSession(connector=connector, headers=headers, auto_decompress=True)
        return self._session

    def _authorization(self) -> str | None:
        spec = self._spec
        if spec.api_key is not None:
            return f"ApiKey {spec.api_key.get_secret_value()}"
        if spec.username is None:
            return None
        password = spec.password.get_secret_value() if spec.password is not None else ""
        return f"Basic {base64.b64encode(f'{spec.username}:{password}'.encode()).decode()}"


def path(*parts: str) -> str:
    """A path of these parts, each quoted."""
    return "".join(f"/{quote(part, safe='*_')}" for part in parts)


def names_of(spec: ElasticsearchSinkSpec, index: str | None = None) -> Names:
    """What messages about this definition name."""
    principal = "the anonymous user"
    if spec.api_key is not None:
        principal = "this API key"
    elif spec.username is not None:
        principal = f"user {spec.username!r} with this password"
    return Names(spec.url, index or spec.index, principal, spec.pipeline)


def _parsed(body: bytes) -> Mapping[str, Any]:
    try:
        parsed = json.loads(body) if body else {}
    except ValueError:  # something between us and the cluster answered
        return {"error": body[:200].decode(errors="replace")}
    return parsed if isinstance(parsed, dict) else {"error": "the answer is not a JSON object"}
