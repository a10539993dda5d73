"""What the HTTP side asks about dead letters: list them, send them again, let go of them."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from service.domain.dead_letters import Asked
from service.domain.errors import NotFound
from service.domain.states import LIVE, State
from service.store import pages
from service.store.clauses import compose
from service.store.filters import checked
from service.store.letters import SQL, letter_of
from service.store.part import Part, locked
from service.store.rows import is_id
from service.store.transitions import record_event
from service.store.verbs import refuse_while_retrying, running

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from service.domain.dead_letters import KeptLetter
    from service.domain.records import Actor
    from service.store.pool import Connection, Row

PAGE_BYTES = 8 * 1024 * 1024
"""Payloads that one page holds, but for its first."""
_AS_FINAL = "final_at"
_FILTERS = frozenset({"run_id", "code"})


class DeadLetters(Part):
    """The part of `JobStore` that is about dead letters."""

    async def dead_letters(
        self, account: str, job_id: str, filters: Mapping[str, Any], *, limit: int, after: str | None
    ) -> tuple[Sequence[KeptLetter], str | None]:
        """As `JobStore.dead_letters`; nothing for an unknown or removed job. Raises ValueError naming the parameter
        that is wrong."""
        given = checked(filters, known=_FILTERS, texts=("run_id", "code"))
        if not is_id(job_id) or not is_id(given.get("run_id", job_id)):
            return [], None
        values: dict[str, Any] = {"account": account, "job_id": job_id, "limit": limit + 1, **given}
        tags = {*given}
        if after is not None:
            tags.add("after")
            readers = (pages.moment, pages.identity)
            values["after_at"], values["after_id"] = pages.decode(after, _AS_FINAL, *readers)
        query, arguments = compose(SQL["page"], frozenset(tags), values)
        async with self._pool.connection() as connection:
            rows = await connection.fetch(query, *arguments)
            taken = _fitting(rows, limit)
            found = await connection.fetch(SQL["letters"], [row["id"] for row in taken])
        token = None
        if len(taken) < len(rows):
            token = pages.encode(_AS_FINAL, taken[-1]["final_at"], taken[-1]["id"])
        return [letter_of(row) for row in found], token

    async def retry_dead_letters(
        self, account: str, actor: Actor, job_id: str, *, ids: Sequence[str] | None, origin: str
    ) -> Asked:
        """As `JobStore.retry_dead_letters`. A retry whose outcome is not known goes on first, with what it has."""
        async with self._pool.transaction() as connection:
            job = await locked(connection, account, job_id)
            if State(job["state"]) in LIVE:
                raise running(job, "sending dead letters again")
            await refuse_while_retrying(connection, job, "another retry")
            await connection.execute(SQL["wake_retries"], job_id)
            asked, retries = 0, []
            found = sorted(await _found(connection, job_id, ids), key=lambda row: row["generation"])
            for generation, rows in groupby(found, key=lambda row: row["generation"]):
                number = await connection.fetchval(SQL["next_retry"], job_id, generation)
                wanted = [row["id"] for row in rows]
                taken = await connection.execute(SQL["take_letters"], job_id, generation, number, wanted)
                if count := int(taken.rpartition(" ")[2]):
                    await connection.execute(SQL["begin_retry"], job_id, generation, number, origin, count)
                    await connection.execute(SQL["ready_retry"], job_id, generation, number)
                    asked += count
                    retries.append((generation, number))
            cut = origin == "source" and any(row["cut"] for row in found)
            details = {"from": origin, "dead_letters": asked, "retries": [list(one) for one in retries]}
            await record_event(connection, job, "dead_letters_retry", actor, details=details)
            return Asked(asked, retries, other_moment=cut)

    async def delete_dead_letters(self, account: str, actor: Actor, job_id: str, *, ids: Sequence[str] | None) -> int:
        """As `JobStore.delete_dead_letters`."""
        async with self._pool.transaction() as connection:
            job = await locked(connection, account, job_id)
            await refuse_while_retrying(connection, job, "deleting dead letters")
            found = await _found(connection, job_id, ids)
            await connection.execute(SQL["delete"], job_id, [row["id"] for row in found])
            details = {"dead_letters": len(found)}
            await record_event(connection, job, "dead_letters_deleted", actor, details=details)
            return len(found)


async def _found(connection: Connection, job_id: str, ids: Sequence[str] | None) -> Sequence[Row]:
    """Ids and generations of these dead letters, or of all. Raises NotFound."""
    wanted = None if ids is None else list(dict.fromkeys(one.lower() for one in ids))
    for one in wanted or ():
        if not is_id(one):
            raise NotFound("dead letter", one)
    rows = await connection.fetch(SQL["found"], job_id, wanted)
    there = {row["id"] for row in rows}
    for one in wanted or ():
        if one not in there:
            raise NotFound("dead letter", one)
    return rows


def _fitting(rows: Sequence[Row], limit: int) -> list[Row]:
    """What of `rows` one page takes: at most `limit`, and payloads of at most about `PAGE_BYTES`."""
    taken: list[Row] = []
    size = 0
    for row in rows[:limit]:
        size += row["size"]
        if taken and size > PAGE_BYTES:
            break
        taken.append(row)
    return taken
