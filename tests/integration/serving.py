"""A service as a process, for tests that know it by HTTP and its log alone."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tests.support.service import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def serving(control_dsn: str, source_dsn: str, **settings: str) -> AsyncIterator[ServiceProcess]:
    """The service, ready, with the datasource `shop`; `settings` by their ROWFERRY_* names."""
    async with ServiceProcess(control_dsn, settings=settings, loaded=True) as made:
        async with made.client() as api:
            await api.put_datasource("shop", source_dsn)
        yield made
