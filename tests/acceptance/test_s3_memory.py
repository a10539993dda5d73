"""The short form of `python -m bench.files --memory`: finds a library that keeps what it has sent, whichever it is."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from bench import memory, table
from bench.course import Course

if TYPE_CHECKING:
    from tests.support.s3 import S3Server

LARGE = 60
"""Megabytes, behind many small rows: kept, they would be more than what is left below the limits."""
MOST_GROWTH = {"S3 JSON lines": 90_000_000, "S3 Parquet": 140_000_000}
"""Over the service at rest."""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.timeout(300)
async def test_rows_of_a_megabyte_on_their_way_into_s3_cost_no_memory(s3_server: S3Server) -> None:
    async with Course(table.SMALL_BEFORE + LARGE, kafka=False, make=table.make_mixed) as course:
        for target, most in MOST_GROWTH.items():
            lap = await memory.lap_of(course, s3_server, target)
            assert lap.resting_rss is not None
            assert lap.peak_rss is not None
            grown = lap.peak_rss - lap.resting_rss
            assert 5_000_000 < grown < most, f"{target}: {grown / 1e6:.0f} MB over {lap.resting_rss / 1e6:.0f} MB"
