"""Dead letters as a split writes them: kept with a try, final with its settle, within the limits of the run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from service.domain.dead_letters import RATIO_ROWS, KeptLetter
from service.domain.errors import Permanent
from service.domain.steps import StepKind
from service.store.held import split_key
from service.store.ids import uuid7
from service.store.sql import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.domain.dead_letters import DeadLetter
    from service.domain.steps import Lease
    from service.store.pool import Connection, Row

SQL = load("dead_letters")

Place = tuple[str, int, int]
"""Job, generation, ordinal: a split's key."""
Try = tuple[str, int, int, int | None, int, int]
"""Of a split: sequence, epoch, attempt behind its key."""


async def insert(connection: Connection, mine: Try, run_id: str, dead: Sequence[DeadLetter], *, final: bool) -> None:
    """Keep dead letters with the try `mine`."""
    if not dead:
        return
    columns = zip(
        *(
            (
                uuid7(),
                json.dumps(list(one.key)),
                one.code,
                one.message,
                one.payload,
                one.payload_bytes,
                one.message_key,
                one.version,
            )
            for one in dead
        ),
        strict=True,
    )
    await connection.execute(SQL["insert"], *mine, run_id, final, *(list(column) for column in columns))


async def finish_try(connection: Connection, mine: Try, run_id: str | None) -> int:
    """The dead letters of the try are final; how many."""
    done: str = await connection.execute(SQL["finish_try"], *mine, run_id)
    return int(done.rpartition(" ")[2])


async def refuse_beyond(connection: Connection, lease: Lease, *, dead: int, read: int) -> int:
    """Raises Permanent `dead_letters_exceeded` when `dead` more rows among `read` more are too many for the run. The
    job's row is locked, so two splits can not both take what is left. Answers how many may follow."""
    if not dead or lease.kind is not StepKind.SPLIT:
        return 0
    row = await connection.fetchrow(SQL["room"], *split_key(lease), lease.run_id)
    assert row is not None, "its row is locked"
    found, of = int(row["dead"]) + dead, int(row["read"]) + read
    rows = f"{found} row{'' if found == 1 else 's'} of this run can not be delivered"
    hint = "mend the cause and start again, or raise the limit: PATCH /v1/jobs/{job} with options.dead_letters"
    left = int(row["max_rows"]) - found
    if left < 0:
        message = f"{rows}, and options.dead_letters.max_rows is {row['max_rows']}"
        raise Permanent("dead_letters_exceeded", message, hint=hint)
    ratio: float | None = row["max_ratio"]
    if ratio is None:
        return left
    if found > ratio * max(of, RATIO_ROWS):
        message = f"{rows} out of {of} read, and options.dead_letters.max_ratio is {ratio:g}"
        if of < RATIO_ROWS:
            message += f" of at least {RATIO_ROWS} rows"
        raise Permanent("dead_letters_exceeded", message, hint=hint)
    return min(left, int(ratio * max(of, RATIO_ROWS) - found))


def letter_of(row: Row) -> KeptLetter:
    """A row of `letters`."""
    return KeptLetter(
        id=row["id"],
        run_id=row["run_id"],
        generation=row["generation"],
        split=row["ordinal"],
        key=tuple(row["key"]),
        code=row["code"],
        message=row["message"],
        payload=row["payload"],
        payload_bytes=row["payload_bytes"],
        message_key=row["message_key"],
        version=row["version"],
        at=row["at"],
        retries=row["retries"],
        note=row["note"],
        retry=row["retry"],
    )
