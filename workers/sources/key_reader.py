"""Keys without their rows: those of a range, as short statements as pages are, how they compare, what can be one."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING

import asyncpg

from service.domain.errors import Permanent, Transient
from workers.sources import failures
from workers.sources.connection import STATEMENT_SECONDS
from workers.sources.page import PageBuilder, decode_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workers.sources.base import Key, Page
    from workers.sources.definition import Definition
    from workers.sources.keys import KeyColumns
    from workers.sources.session import Session

_FIRST_KEYS = 10_000
_MOST_KEYS = 200_000
_EASY_SECONDS = 0.3
"""A statement under this may take more rows next time."""


class KeyReader:
    """Reads keys for one reader, whose connection it shares."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._most = _FIRST_KEYS

    async def read(self, definition: Definition, after: Key | None, upper: Key) -> Page:
        """As `Reader.keys`."""
        while True:
            most = self._most
            builder = PageBuilder(
                key_columns=len(definition.key.parts), message_key=False, marks_repeats=False, page_bytes=_MOST_KEYS
            )
            started = time.monotonic()
            try:
                await self._session.copy(definition.keys_sql(after, upper, most), builder.feed)
            except Transient as error:
                self._most = failures.fewer_after(error, most)
                continue
            except asyncpg.QueryCanceledError as error:
                if most == 1:
                    raise failures.too_long(definition.what, self._session.seconds) from error
                self._most = max(1, most // 8)
                continue
            self._most = max(1, min(_MOST_KEYS, int(most * pace(time.monotonic() - started))))
            return builder.page(upper, end=len(builder.values) < most, decode=decode_key)


async def back(session: Session, definition: Definition, lower: Key | None, upper: Key, rows: int) -> Key | None:
    """As `Source.back`."""
    key = definition.key
    query = definition.rows_sql(key.texts(), lower, upper, order=key.order("DESC"), filtered=False)
    row = await session.fetchrow(f"{query} OFFSET {rows} LIMIT 1")
    return None if row is None else tuple(row.values())


async def at_or_below(session: Session, key: KeyColumns, keys: Sequence[Key], bound: Key) -> list[bool]:
    """As `Source.at_or_below`."""
    if not keys:
        return []
    told = ", ".join(f"{key.row(one)} <= {key.row(bound)}" for one in keys)
    found: list[bool] = await session.fetchval(f"SELECT ARRAY[{told}]")
    return found


async def check(session: Session, definition: Definition, keys: Sequence[Key]) -> None:
    """As `Source.check_keys`."""
    parts = definition.key.parts
    for key in keys:
        if len(key) != len(parts):
            raise Permanent(
                "key_invalid",
                f"{definition.what}: {list(key)} has {len(key)} values, the key has {len(parts)}",
                hint=f"the key is ({', '.join(definition.key.names)})",
            )
        for index, text in enumerate(key):
            await _check_text(session, definition, index, text)
    for one, other in pairwise(keys):
        if not await session.fetchval(f"SELECT {definition.key.row(one)} < {definition.key.row(other)}"):
            raise Permanent(
                "key_invalid", f"{definition.what}: the keys {list(one)} and {list(other)} are not in rising order"
            )


async def _check_text(session: Session, definition: Definition, index: int, text: str) -> None:
    part = definition.key.parts[index]
    try:
        await session.fetchval(f"SELECT {definition.key.value(index, text)}::text")
    except (Permanent, ValueError) as error:
        state = failures.sqlstate(error.__cause__) if error.__cause__ else "22"
        if state is not None and state.startswith("22"):
            raise Permanent(
                "key_invalid", f"{definition.what}: {text!r} can not be read as {part.type} ({part.name})"
            ) from error
        raise


async def refuse_nulls(session: Session, definition: Definition) -> None:
    """Rows without a key stand outside every range and would be left out without a word. Raises Permanent
    `key_is_null`. Not asked where the catalog answers it: without an index that would be the whole table."""
    known = {column.name for column in definition.columns if definition.nulls_known and column.not_null}
    if definition.key.proven or known.issuperset(definition.key.names):
        return
    nulls = " OR ".join(f"{column} IS NULL" for column in definition.key.columns())
    filters = "".join(f" AND {condition}" for condition in definition.filters)
    if await session.fetchval(f"SELECT EXISTS (SELECT FROM {definition.source_sql} WHERE ({nulls}){filters})"):
        raise Permanent(
            "key_is_null",
            f"{definition.what}: a row has NULL in its key ({', '.join(definition.key.names)})",
            hint="leave such rows out in `where`, or name another key",
        )


def pace(took: float) -> float:
    """By how much more, or less, the next statement may do than one that took so long."""
    if took > STATEMENT_SECONDS / 2:
        return STATEMENT_SECONDS / (2 * took)
    return 8 if took < _EASY_SECONDS / 3 else 2 if took < _EASY_SECONDS else 1
