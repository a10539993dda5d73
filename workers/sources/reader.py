"""Reads one split in key order: one short COPY a page, nothing held between two.

How many rows a page asks for follows the width of the rows and the time the last page took, so that a page is rarely
cut and rarely times out. One that times out is halved down to a single row, which may take longer.
"""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import islice
from operator import eq
from typing import TYPE_CHECKING

import asyncpg

from service.domain.errors import Permanent, RowsRejected, Transient
from workers.sources import failures
from workers.sources.ahead import ReadAhead
from workers.sources.connection import STATEMENT_SECONDS
from workers.sources.csv_page import CsvPageBuilder
from workers.sources.estimate import walks
from workers.sources.key_reader import KeyReader, pace
from workers.sources.page import NULL, TRUE, PageBuilder, decode_key

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from service.domain.errors import RowferryError
    from workers.sources.base import Key, Page
    from workers.sources.definition import Definition
    from workers.sources.session import Session

_FIRST_ROWS = 500
_MOST_ROWS = 200_000
_FILL = 0.92
"""Of `page_bytes` that a page aims at: a cut costs a cancelled statement."""
_MOST_DRIFTS = 5
"""Changes of a table within one page, after which somebody else has to look."""
_FIRST_SPAN = 2_000
_MOST_SPAN = 2_000_000


class PostgresReader:
    """The Reader of one split. `long_rows` counts pages of one row that took over a second."""

    def __init__(
        self,
        session: Session,
        definition: Callable[[], Awaitable[Definition]],
        *,
        page_bytes: int,
        max_row_bytes: int,
        single_row_seconds: float,
        changed: Callable[[Definition, RowferryError], Awaitable[None]] | None = None,
    ) -> None:
        """`changed` looks at a table that is not what the definition says, and raises unless the job goes on with what
        it is now; left out, it is an error."""
        self._changed = changed
        self._session = session
        self._resolve = definition
        self._page_bytes = page_bytes
        self._max_row_bytes = max_row_bytes
        self._single_row_seconds = single_row_seconds
        self._rows = _FIRST_ROWS
        self._span = _FIRST_SPAN
        self._keys = KeyReader(session)
        self._stretch: tuple[Key | None, Key | None] | None = None
        """Where the stretch under way is read from next, and its end."""
        self._ahead = ReadAhead()
        self._marked = False
        """Of CSV: the last page had a row that is too large, and the next may."""
        self.long_rows = 0

    async def read(self, after: Key | None, upper: Key | None, *, max_rows: int | None = None) -> Page:
        """The next page, as the protocol says. Raises RowsRejected `row_too_large` with the key of a row that is
        too large and is the next one: go on after that key."""
        return await self._undrifted(lambda definition: self._read(definition, after, upper, max_rows))

    async def _read(self, definition: Definition, after: Key | None, upper: Key | None, max_rows: int | None) -> Page:
        if definition.filters and definition.relation is not None:
            return await self._read_sparse(definition, after, upper, max_rows)
        page = await self._read_rows(definition, after, upper, max_rows)
        assert page is not None, "only a stretch asks to be made shorter"
        return page

    async def one(self, key: Key) -> Page:
        """The row with this key, as the protocol says."""
        return await self._undrifted(
            lambda definition: self._chosen(definition, definition.key.compared("=", key), most=1)
        )

    async def _chosen(
        self, definition: Definition, condition: str, after: Key | None = None, *, most: int | None = None
    ) -> Page:
        """Rows that a condition on the key chooses."""
        chosen = replace(definition, filters=(condition, *definition.filters))
        page = await self._read_rows(chosen, after, None, most)
        assert page is not None, "only a stretch asks to be made shorter"
        return page

    async def keys(self, after: Key | None, upper: Key) -> Page:
        """The next keys of a range, as the protocol says."""
        return await self._undrifted(lambda definition: self._keys.read(definition, after, upper))

    async def among(self, keys: Sequence[Key], after: Key | None = None) -> Page:
        """The rows with these keys, as the protocol says."""
        return await self._undrifted(lambda definition: self._chosen(definition, definition.key.among(keys), after))

    async def _undrifted(self, read: Callable[[Definition], Awaitable[Page]]) -> Page:
        """What `read` reads, again where the table was rewritten under the statement, or was changed and the job goes
        on with what it is now."""
        tries = 0
        while True:
            definition = await self._resolve()
            try:
                return await read(definition)
            except (Permanent, Transient) as error:
                tries += 1
                if tries > _MOST_DRIFTS:
                    raise
                if error.code == failures.SCHEMA_CHANGED and self._changed is not None:
                    await self._changed(definition, error)
                elif not failures.is_rewritten(error.__cause__):
                    raise

    async def close(self) -> None:
        """The connection is the source's and goes back with it; nothing else is held here."""

    async def _read_sparse(
        self, definition: Definition, after: Key | None, upper: Key | None, max_rows: int | None
    ) -> Page:
        """`where` may leave out millions of rows: first a stretch of the key's index, then the rows within."""
        while True:
            if self._stretch is None or self._stretch[0] != after:
                self._stretch = (after, await self._stretch_end(definition, after, upper))
            end = self._stretch[1]
            started = time.monotonic()
            try:
                page = await self._read_rows(definition, after, end or upper, max_rows, span=self._span)
            except RowsRejected as error:
                self._stretch = (error.key, end)
                raise
            if page is None:
                self._span = max(1, self._span // 8)
                self._stretch = None
                continue
            if end is None or not (page.end or page.scanned_to == end):
                self._stretch = (page.scanned_to, end)
                return page
            page.end = False
            self._stretch = None
            self._span = min(_MOST_SPAN, max(1, int(self._span * pace(time.monotonic() - started))))
            return page

    async def _stretch_end(self, definition: Definition, after: Key | None, upper: Key | None) -> Key | None:
        """The key `span` rows on, whatever `where` says of them; None when the range ends before."""
        while True:
            query = definition.rows_sql(
                definition.key.texts(), after, upper, order=definition.key.order(), filtered=False
            )
            try:
                async with self._session.in_use() as connection:
                    row = await connection.fetchrow(f"{query} OFFSET {self._span - 1} LIMIT 1")
            except asyncpg.QueryCanceledError as error:
                if self._span == 1:
                    raise self._too_long(definition) from error
                self._span = max(1, self._span // 8)
            else:
                return None if row is None else tuple(row.values())

    async def _read_rows(
        self, definition: Definition, after: Key | None, upper: Key | None, max_rows: int | None, *, span: int = 0
    ) -> Page | None:
        """One page of at most `max_rows`, halved while it times out. None: it timed out, and its stretch of `span`
        rows has to become shorter first.

        Rows before a timeout, or before a row that Postgres can not write, are a page of their own, and so are those
        around rows over `max_row_bytes`.
        """
        if (page := self._read_ahead(definition, after, upper, max_rows)) is not None:
            return page
        held_back = not definition.key.proven
        rows = min(self._rows, max_rows or self._rows, span or self._rows)
        while True:
            builder = self._builder(definition)
            query = definition.page_sql(after, upper, rows + held_back, self._max_row_bytes, marked=self._marked)
            started = time.monotonic()
            try:
                counted = await self._session.copy(
                    query, builder.feed, seconds=self._seconds(definition, rows), csv=definition.csv
                )
            except Transient as error:
                self._rows = rows = failures.fewer_after(error, rows)
                continue
            except (asyncpg.QueryCanceledError, Permanent) as error:
                if failures.is_over_limit(error.__cause__) and not self._marked:
                    self._marked = True
                    continue
                if not isinstance(error, asyncpg.QueryCanceledError) and not failures.is_too_large(error.__cause__):
                    raise
                counted = None
                if len(builder.values) <= held_back:
                    if span > 1 and isinstance(error, asyncpg.QueryCanceledError):
                        return None
                    if rows == 1 and held_back and isinstance(error, Permanent):
                        await self._refuse_repeat(definition, after, upper)
                        held_back = False  # of two rows either may be the one: read the first alone
                        continue
                    await self._give_up(definition, after, upper, query, rows, error)
                    self._rows = rows = max(1, rows // 4)
                    continue
            await builder.whole(counted)
            self._adapt(builder, rows, time.monotonic() - started)
            more = counted is None or len(builder.values) >= rows + held_back
            return self._finish(definition, builder, after, upper, limit=rows, more=more, held_back=held_back)

    async def _give_up(
        self, definition: Definition, after: Key | None, upper: Key | None, query: str, rows: int, error: Exception
    ) -> None:
        """Raises when asking for fewer rows would not help."""
        if isinstance(error, asyncpg.QueryCanceledError):
            sorts = (definition.relation is None or definition.unwalked) and not await walks(self._session, query)
            if rows == 1 or sorts:
                raise self._too_long(definition) from error
        elif rows == 1:
            raise await self._rejected(definition, after, upper, str(error.__cause__)) from error

    def _builder(self, definition: Definition) -> PageBuilder:
        if definition.csv is not None:
            return CsvPageBuilder(
                definition.csv,
                key_columns=len(definition.key.parts),
                value_columns=len(definition.outputs),
                marks_repeats=not definition.key.proven,
                page_bytes=self._page_bytes,
                max_row_bytes=self._max_row_bytes,
                key_leads=definition.key_leads and not self._marked,
                marks_large=self._marked,
            )
        return PageBuilder(
            key_columns=len(definition.key.parts),
            message_key=bool(definition.message_key),
            marks_repeats=not definition.key.proven,
            page_bytes=self._page_bytes,
        )

    def _seconds(self, definition: Definition, rows: int) -> float:
        """How long the statement may take: a single row of a table may take longer than the others."""
        if rows == 1 and definition.relation is not None and not definition.unwalked:
            return max(self._session.seconds, self._single_row_seconds)
        return self._session.seconds

    def _too_long(self, definition: Definition) -> Permanent:
        if definition.relation is None or definition.unwalked:
            return failures.too_long(definition.what, self._session.seconds)
        return Permanent(
            "statement_too_long",
            f"{definition.what}: the next row could not be read within single_row_timeout_seconds"
            f" ({self._single_row_seconds:g} s)",
            hint="raise options.single_row_timeout_seconds, or look for what slows this row down (locks, functions)",
        )

    def _finish(
        self,
        definition: Definition,
        builder: PageBuilder,
        after: Key | None,
        upper: Key | None,
        *,
        limit: int,
        more: bool,
        held_back: bool,
    ) -> Page:
        """What was read as a page, after the checks that come before anything is given out."""
        self._marked = definition.csv is not None and bool(builder.oversized)
        _check_unique(definition, builder)
        if more and held_back:
            builder.keep(len(builder.values) - 1)
        builder.keep(limit)
        more = builder.fit() or more
        if not more and upper is not None:
            scanned_to: Key | None = upper
        else:
            scanned_to = decode_key(builder.raw_keys[-1]) if builder.raw_keys else after
        if builder.oversized:
            parts = builder.parts(after, scanned_to, end=not more, decode=decode_key)
            self._ahead.keep(definition, upper, parts)
            first = self._read_ahead(definition, after, upper, None)
            assert first is not None, "it begins where it was asked to"
            return first
        return builder.page(scanned_to, end=not more, decode=decode_key)

    def _read_ahead(
        self, definition: Definition, after: Key | None, upper: Key | None, max_rows: int | None
    ) -> Page | None:
        """What the last statement gave of this. Raises RowsRejected where a row is next that is too large."""
        part = self._ahead.next(definition, after, upper, max_rows)
        if isinstance(part, tuple):
            raise failures.row_too_large(definition.what, part, self._max_row_bytes)
        return part

    def _adapt(self, builder: PageBuilder, rows: int, took: float) -> None:
        """How many rows the next page asks for."""
        self.long_rows += rows == 1 and took > STATEMENT_SECONDS
        if not builder.values:
            return
        fitting = int(_FILL * self._page_bytes * len(builder.values) / max(1, builder.bytes))
        timely = int(max(rows, self._rows) * pace(took))
        self._rows = max(1, min(fitting, timely, _MOST_ROWS))

    async def _refuse_repeat(self, definition: Definition, after: Key | None, upper: Key | None) -> None:
        query = definition.rows_sql(definition.key.texts(), after, upper, order=definition.key.order())
        rows = await self._session.fetch(f"{query} LIMIT 2")
        if len(rows) == 2 and tuple(rows[0].values()) == tuple(rows[1].values()):
            raise failures.not_unique(definition.what, tuple(rows[0].values()))

    async def _rejected(
        self, definition: Definition, after: Key | None, upper: Key | None, reason: str
    ) -> RowsRejected:
        """The next row is one that Postgres itself can not write; its key it can."""
        key = await self._next_key(definition, after, upper)
        return RowsRejected("row_too_large", f"{definition.what}: Postgres can not write this row: {reason}", key=key)

    async def _next_key(self, definition: Definition, after: Key | None, upper: Key | None) -> Key | None:
        query = definition.rows_sql(definition.key.texts(), after, upper, order=definition.key.order())
        row = await self._session.fetchrow(f"{query} LIMIT 1")
        return None if row is None else tuple(row.values())


def _check_unique(definition: Definition, builder: PageBuilder) -> None:
    if definition.csv is not None and definition.key_leads:
        return  # an index keeps them unique, and to look at each would cost more than to read it
    keys = builder.raw_keys
    position = None
    if TRUE in builder.repeats:
        position = builder.repeats.index(TRUE)
    elif any(map(eq, keys, islice(keys, 1, None))):
        position = next(index for index in range(1, len(keys)) if keys[index] == keys[index - 1])
    if position is not None:
        raise failures.not_unique(definition.what, decode_key(keys[position]))
    if not definition.key.proven and any(NULL in key.split(b"\t") for key in keys if b"\\N" in key):
        raise Permanent(
            "key_is_null",
            f"{definition.what}: a row has NULL in its key ({', '.join(definition.key.names)})",
            hint="leave such rows out in `where`, or name another key",
        )
