"""The rows of a definition for somebody who waits for them: page after page, nothing held between two."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from service.domain.errors import RowsRejected
from service.domain.inspection import PreviewRow, RowsPage
from workers.feed import End, Idle, Unreadable, bounded, following, is_over

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from service.domain.records import Key
    from service.domain.spec import JobSpec
    from workers.sources.base import Reader, Source


async def rows(source: Source, spec: JobSpec) -> AsyncGenerator[RowsPage, None]:
    """Every page, in key order; of a continuous definition what comes later too, with empty pages while there is
    nothing. Raises Transient, Permanent and RowsRejected; nothing is read again after an error. The source stays the
    caller's to close."""
    reader = source.reader()
    frontier = source.frontier(None) if spec.mode == "continuous" else None
    items = bounded(reader, None, None, spec.source.limit)
    if frontier is not None:
        over = partial(is_over, source, spec)
        items = following(reader, frontier, None, poll_seconds=spec.options.poll_seconds, over=over)
    try:
        async for item in items:
            match item:
                case Idle():
                    yield RowsPage((), None)
                case End():
                    break
                case Unreadable():
                    raise RowsRejected(item.code, item.message, key=item.key)
                case page if page.values:
                    yield RowsPage(page.values, page.key(len(page.values) - 1))
                case _:
                    yield RowsPage((), None)
    finally:
        if frontier is not None:
            await frontier.close()
        await reader.close()


async def first_rows(reader: Reader, limit: int) -> list[PreviewRow]:
    """At most `limit` rows with their keys, from the beginning. Raises what the reader raises."""
    found: list[PreviewRow] = []
    after: Key | None = None
    while len(found) < limit:
        page = await reader.read(after, None, max_rows=limit - len(found))
        found.extend(
            PreviewRow(page.key(index), value.decode("utf-8", "replace")) for index, value in enumerate(page.values)
        )
        if page.end:
            break
        after = page.scanned_to or after
    return found
