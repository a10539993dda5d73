"""The keys of a range without their rows, as short statements as pages are, and how they compare."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import asyncpg

from service.domain.errors import Transient
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


def pace(took: float) -> float:
    """By how much more, or less, the next statement may do than one that took so long."""
    if took > STATEMENT_SECONDS / 2:
        return STATEMENT_SECONDS / (2 * took)
    return 8 if took < _EASY_SECONDS / 3 else 2 if took < _EASY_SECONDS else 1
