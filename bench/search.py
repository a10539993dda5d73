"""The job log as search: how long a page of 50 takes, filter by filter, over many stored runs."""

from __future__ import annotations

import time
from statistics import median
from typing import Final

import asyncpg

from service.store.migrate import migrate
from service.store.store import Store
from tests.support.million_runs import SEARCHES, fill, timed
from tests.support.postgres import PostgresServer

_PAGE: Final = 50
_LAPS: Final = 9


async def search(runs: int) -> dict[str, float]:
    """Print a line a filter; the medians in milliseconds, from the store's call to its records."""
    times: dict[str, float] = {}
    async with PostgresServer() as server:
        dsn = await server.create_database()
        await migrate(dsn)
        async with await Store.open(dsn, command_seconds=60) as store:
            await store.ensure_account("default")
            connection = await asyncpg.connect(dsn)
            began = time.perf_counter()
            await fill(connection, runs)
            await connection.close()
            print(f"{runs:,} runs, made in {time.perf_counter() - began:.0f} s; a page of {_PAGE}, median of {_LAPS}\n")
            for name, (filters, _) in SEARCHES.items():
                given = await timed(store, filters)
                laps = []
                for _lap in range(_LAPS):
                    began = time.perf_counter()
                    await store.runs("default", given, limit=_PAGE, after=None)
                    laps.append((time.perf_counter() - began) * 1000)
                times[name] = round(median(laps), 2)
                print(f"  {name:24} {times[name]:>8.1f} ms", flush=True)
    return times
