"""What every part of the store has: the pool and the box of secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.domain.errors import NotFound
from service.store.clauses import compose
from service.store.rows import is_id, job_of
from service.store.sql import load

if TYPE_CHECKING:
    from service.domain.records import Job
    from service.store.pool import Connection, Pool, Row
    from service.store.secretbox import SecretBox

SQL = load("jobs")


class Part:
    """Base of the store's parts; all of them share one pool."""

    def __init__(self, pool: Pool, box: SecretBox) -> None:
        self._pool = pool
        self._box = box


async def account_id(connection: Connection, account: str) -> str:
    """The id of an account. Raises NotFound."""
    found: str | None = await connection.fetchval(SQL["account_id"], account)
    if found is None:
        raise NotFound("account", account)
    return found


async def locked(connection: Connection, account: str, job_id: str) -> Row:
    """The job's row, locked until the end of the transaction. Raises NotFound, also for a removed job."""
    row = await connection.fetchrow(SQL["lock_job"], account, job_id) if is_id(job_id) else None
    if row is None:
        raise NotFound("job", job_id)
    return row


async def read_job(connection: Connection, account: str, job_id: str) -> Job:
    """The job as answered, with its run and splits; also one that was removed a moment ago in this transaction.
    Raises NotFound."""
    values: dict[str, Any] = {"account": account, "id": job_id}
    query, arguments = compose(SQL["select_jobs"], frozenset({"whole", "id"}), values)
    row = await connection.fetchrow(query, *arguments)
    if row is None:
        raise NotFound("job", job_id)
    return job_of(row)
