"""The Siren dialect over the real service side: requests as Elasticsearch's clients send them."""

from __future__ import annotations

import base64
import json
import re
from typing import IO, Any

from tests.integration.api_cases import ADMIN, ApiCase, Reply
from tests.support.waiting import until

PREFIX = "/_siren/connector"


def basic(name: str = "admin", token: str = ADMIN) -> str:
    """Credentials as clients are given them."""
    return f"Basic {base64.b64encode(f'{name}:{token}'.encode()).decode()}"


class SirenCase(ApiCase):
    """A service that is spoken to in Siren's language."""

    async def siren(
        self, method: str, path: str, body: Any = None, *, authorization: str | None = None, **headers: str
    ) -> Reply:
        """One request below the connector's prefix; header names are written with underscores."""
        sent = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        given["Authorization"] = authorization or basic()
        if sent is not None:
            given.setdefault("Content-Type", "application/json")
        return await self.send(method, f"{PREFIX}{path}", sent, given)

    async def send(self, method: str, path: str, body: bytes | IO[bytes] | None, headers: dict[str, str]) -> Reply:
        """One request as it is."""
        async with self.client.session.request(method, self.url(path), data=body, headers=headers) as answer:
            return Reply(answer.status, answer.headers.copy(), await answer.read())

    async def told(self, method: str, path: str, body: Any = None, status: int = 200, **more: Any) -> Any:
        """One request that must have this status; its body."""
        reply = await self.siren(method, path, body, **more)
        assert reply.status == status, reply
        return reply.body

    async def reason(self, method: str, path: str, body: Any = None, status: int = 400, **more: Any) -> str:
        """One request that must be refused in Elasticsearch's shape; why."""
        reply = await self.siren(method, path, body, **more)
        assert reply.status == status, reply
        return of_error(reply)

    async def ended(self, job: str) -> Any:
        """The status of the job's run once it has ended."""

        async def look() -> Any:
            found = await self.told("GET", f"/jobs/ingestion/{job}")
            return found["status"] if not found.get("status", {"is_running": True})["is_running"] else None

        return await until(look, 30, f"{job} to end")


def of_error(reply: Reply) -> str:
    """The reason of an error, which must have Elasticsearch's shape."""
    assert list(reply.body) == ["error", "status"], reply
    error = reply.body["error"]
    assert list(error) == ["root_cause", "type", "reason"], reply
    assert error["root_cause"] == [{"type": error["type"], "reason": error["reason"]}], reply
    assert reply.body["status"] == reply.status, reply
    reason: str = error["reason"]
    assert reason
    return reason


def shape(raw: bytes) -> str:
    """An answer with what differs from run to run made the same, key order and spaces kept."""
    text = raw.decode()
    text = re.sub(r'"(start|end)_time":\d{13}(?=[,}])', r'"\1_time":<ms>', text)
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-1[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", "<uuid1>", text)
    text = re.sub(r'"error":\[(".*?")(,".*?")*\],"state"', r'"error":[\1,<causes>],"state"', text)
    text = re.sub(r'"count":\d+', '"count":<n>', text)
    return re.sub(r'"last_id":"\d+"', '"last_id":"<n>"', text)
