"""A run's start, in which source and sink need not wait for each other."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from service.domain.errors import RowferryError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from workers.sources.base import Source

_LEAVING_SECONDS = 0.2


@asynccontextmanager
async def getting_ready(source: Source) -> AsyncIterator[None]:
    """The source connects and looks at its catalog beside the body, which opens the sink and then reads. What goes
    wrong meanwhile is nobody's yet: the first read meets it again, and raises it where it belongs."""

    async def quietly() -> None:
        with suppress(RowferryError):
            await source.get_ready()

    task = asyncio.create_task(quietly(), name="get-source-ready")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task}, timeout=_LEAVING_SECONDS)
