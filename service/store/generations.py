"""Makes the next generation of a job. Its plan step is ready at once and waits for the job to want to run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.domain.states import State
from service.store.rows import ranges_to_json
from service.store.sql import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.domain.steps import OpenRange
    from service.store.pool import Connection, Row

SQL = load("jobs")


async def begin(
    connection: Connection,
    job: Row,
    begins: str,
    *,
    unrun: bool,
    ranges: Sequence[OpenRange] | None = None,
) -> int:
    """The successor of the locked job's generation, with the definition that the job has now; its number.

    `begins` is `beginning`, `given` (with `ranges`) or `keep`. Of a predecessor that was never planned there is nothing
    to keep but what it was to begin with, so that is taken over: `keep` always refers to the newest planned one."""
    stored: list[Any] | None = None if ranges is None else ranges_to_json(ranges)
    if begins == "keep":
        before = await connection.fetchrow(SQL["position"], job["id"])
        if before is not None and not before["planned"]:
            begins, stored = before["begins"], before["ranges"]
    await connection.execute(SQL["end_unplanned"], job["id"], job["generation"])
    await connection.execute(SQL["begin_generation"], job["id"], begins, stored)
    # What is durable does not change by what is asked for next, but what counts as the position does.
    moves, last_id = begins != "keep", None
    if begins == "given":
        moves, last_id = bool(stored), stored[0][0] if stored else None
    number: int = await connection.fetchval(SQL["take_generation"], job["id"], unrun, moves, last_id)
    await connection.execute(SQL["ready_plan"], job["id"], number)
    return number


async def for_start(connection: Connection, job: Row, *, from_beginning: bool) -> int:
    """The generation that a start of the locked job works on, made if it does not go on with the current one.

    A template is rendered for every run, so with one a run that was stopped or failed is not gone on with: the next
    begins where it ended."""
    number: int = job["generation"]
    if number == 0 or from_beginning:
        return await begin(connection, job, "beginning", unrun=False)
    if State(job["state"]) is State.SUCCESSFUL and not job["generation_unrun"]:
        begins = "keep" if job["mode"] == "incremental" else "beginning"
        return await begin(connection, job, begins, unrun=False)
    renders = job["spec"]["source"].get("template") is not None
    if job["mode"] == "incremental" and renders and await _is_planned(connection, job):
        return await begin(connection, job, "keep", unrun=False)
    return number


async def _is_planned(connection: Connection, job: Row) -> bool:
    row = await connection.fetchrow(SQL["position"], job["id"])
    return row is not None and bool(row["planned"])
