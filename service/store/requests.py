"""Answers of requests that carried an Idempotency-Key, kept for 24 hours per account."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.domain.errors import Conflict
from service.store.part import Part, account_id
from service.store.sql import load

if TYPE_CHECKING:
    from collections.abc import Mapping

SQL = load("requests")


class Requests(Part):
    """The part of `JobStore` that makes a repeated request answer once."""

    async def begin_request(self, account: str, key: str, fingerprint: str) -> Mapping[str, Any] | None:
        """As `JobStore.begin_request`; the stored answer is {"status", "headers", "body" (bytes)}. A request that has
        been under way for five minutes is taken for dead and its key is free. Raises NotFound for the account."""
        # Two looks: between the first and the second the other request may have ended and been forgotten.
        for _ in range(2):
            async with self._pool.transaction() as connection:
                await account_id(connection, account)
                if await connection.fetchval(SQL["take_key"], account, key, fingerprint) is not None:
                    return None
                row = await connection.fetchrow(SQL["stored_answer"], account, key)
            if row is not None:
                break
        else:
            raise _in_progress(key)
        if row["fingerprint"] != fingerprint:
            raise Conflict(
                "idempotency_key_reused",
                f"the Idempotency-Key {key!r} was used for another request",
                hint="use a key of its own for each request",
            )
        if row["status"] is None:
            raise _in_progress(key)
        return {"status": row["status"], "headers": row["headers"], "body": row["body"]}

    async def end_request(
        self, account: str, key: str, *, status: int, headers: Mapping[str, str], body: bytes, keep: bool
    ) -> None:
        """As `JobStore.end_request`."""
        async with self._pool.connection() as connection:
            if keep:
                await connection.execute(SQL["keep_answer"], account, key, status, dict(headers), body)
            else:
                await connection.execute(SQL["forget_key"], account, key)


def _in_progress(key: str) -> Conflict:
    return Conflict(
        "request_in_progress",
        f"the first request with the Idempotency-Key {key!r} is still under way",
        hint="repeat it in a moment",
    )
