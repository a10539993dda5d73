"""Two live jobs never write into one folder: one would count, adopt or remove what is the other's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.domain.folders import folder_of, meet, refusal
from service.store.sql import load

if TYPE_CHECKING:
    from service.domain.errors import Conflict
    from service.store.pool import Connection, Row

SQL = load("folders")


async def path_in_use(connection: Connection, job: Row) -> Conflict | None:
    """What keeps the locked job from starting: a live one that writes there. None when there is none, and then none
    comes before this transaction ends, in whichever process."""
    sink = job["spec"]["sink"]
    if folder_of(sink) is None:
        return None
    await connection.execute(SQL["lock_folders"], job["account_id"])
    for other in await connection.fetch(SQL["live_sinks"], job["account_id"], sink["kind"], job["id"]):
        if meet(sink, other["sink"]):
            return refusal(sink["path"], job["name"], other["name"], other["state"])
    return None
