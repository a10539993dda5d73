"""What a whole job holds in memory, seen at the service's process: rows of every width on their way to Kafka, and one
that is far too large, which becomes a dead letter. ROWFERRY_TEST_WIDE_MB says how much goes through; the long form
reads gigabytes in the same memory."""

from __future__ import annotations

import os
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.support.topics import iterate_topic

if TYPE_CHECKING:
    from tests.acceptance.days import Days

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

MIB = 1024 * 1024
MOST_RSS = 200 * MIB
WIDE_MB = int(os.environ.get("ROWFERRY_TEST_WIDE_MB", "60"))
NARROW, TOO_LARGE, TOO_LARGE_BYTES = 20_000, 500, 300_000_000


def into(days: Days) -> dict[str, object]:
    """A topic that takes rows of a megabyte."""
    topic = {"create": True, "config": {"max.message.bytes": "2000000"}}
    return days.into_kafka(key=["id"], topic_settings=topic)


def keys(days: Days) -> Counter[int]:
    """How often each row is in the topic."""
    return Counter(int(record.key or b"") for record in iterate_topic(days.kafka.bootstrap, days.name))


def stayed_small(days: Days) -> None:
    """Since the service was started: all jobs of this module together."""
    peak = days.service.peak_rss_bytes()
    assert peak < MOST_RSS, f"{peak / MIB:.0f} MiB"


async def test_rows_of_a_megabyte_behind_narrow_ones_cost_no_memory(days: Days) -> None:
    await days.orders(NARROW)
    await days.sql("ALTER TABLE orders ALTER note SET STORAGE EXTERNAL")
    await days.sql(
        "INSERT INTO orders (note) SELECT repeat('x', 1000000) FROM generate_series(1, $1::int)",
        WIDE_MB,
    )
    await days.api.create(days.spec(sink=into(days)), start=True)
    job = await days.api.wait_for_state(days.name, "successful", timeout=200)
    assert job["totals"]["bytes_sent"] > WIDE_MB * 1_000_000
    stayed_small(days)
    assert keys(days) == dict.fromkeys(range(1, NARROW + WIDE_MB + 1), 1)


async def test_a_hundred_columns_cost_no_memory(days: Days) -> None:
    rows = WIDE_MB * 500
    await days.sql(
        f"CREATE TABLE orders (id int PRIMARY KEY, {', '.join(f'column_{n} int' for n in range(99))});"
        f"INSERT INTO orders SELECT i{', i' * 99} FROM generate_series(1, {rows}) AS i"
    )
    await days.api.put_datasource(days.name, days.source_dsn)
    await days.api.create(days.spec(sink=into(days)), start=True)
    job = await days.api.wait_for_state(days.name, "successful", timeout=200)
    assert job["totals"]["bytes_sent"] > rows * 1500
    stayed_small(days)
    assert keys(days) == dict.fromkeys(range(1, rows + 1), 1)


async def test_a_row_of_300_mb_is_a_dead_letter_and_the_others_come_once(days: Days) -> None:
    """At the default `max_row_bytes`: the source never sends it, so nobody holds it."""
    await days.orders(2 * TOO_LARGE)
    await days.sql(
        f"UPDATE orders SET note = repeat('z', {TOO_LARGE_BYTES}) WHERE id = {TOO_LARGE}",
    )
    await days.api.create(days.spec(sink=into(days), options={"dead_letters": {"max_rows": 1}}), start=True)
    job = await days.api.wait_for_state(days.name, "successful", timeout=200)
    totals = job["totals"]
    assert (totals["rows_read"], totals["rows_sent"], totals["rows_dead"]) == (2 * TOO_LARGE, 2 * TOO_LARGE - 1, 1)
    (letter,) = await days.api.dead_letters(days.name)
    assert (letter["key"], letter["reason"]["code"], letter["payload"]) == (str(TOO_LARGE), "row_too_large", None)
    assert "max_row_bytes" in letter["reason"]["message"]
    stayed_small(days)
    assert keys(days) == dict.fromkeys((n for n in range(1, 2 * TOO_LARGE + 1) if n != TOO_LARGE), 1)
