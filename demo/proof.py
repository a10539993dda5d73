"""Reading back what arrived, with librdkafka and zstandard, against what the table holds."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from tests.support.reconcile import (
    Report,
    expected_rows,
    file_rows,
    kafka_rows,
    reconcile,
    split_uppers,
    visible_files,
)

if TYPE_CHECKING:
    from demo.screen import Screen
    from demo.stage import Stage
    from tests.support.client import Client

Json = dict[str, Any]


def readers_see(bootstrap: str, topic: str) -> tuple[int, int]:
    """How many rows a `read_committed` reader finds now, and the largest id among them; blocks."""
    ids = [int(row.key[0] or 0) for row in kafka_rows(bootstrap, topic)]
    return len(ids), max(ids, default=0)


async def prove(stage: Stage, screen: Screen, api: Client, topic: str, jobs: dict[str, Json]) -> None:
    """Compare both targets with the table, byte for byte; RuntimeError when one row is not there just once."""
    assert stage.kafka is not None
    assert stage.service is not None
    for name, job in jobs.items():
        expected = await expected_rows(stage.source, "public.flights", values=True, uppers=split_uppers(job))
        began = time.monotonic()
        if name == "kafka":
            rows = kafka_rows(stage.kafka.bootstrap, topic)
            where = f"topic {topic}"
        else:
            folder = stage.service.files(job["spec"]["sink"]["path"])
            rows = file_rows(folder)
            where = f"{len(visible_files(folder))} files"
        report = await asyncio.to_thread(reconcile, rows, expected)
        _tell(screen, name, where, report, time.monotonic() - began)
        await _agree(api, job, report)


def _tell(screen: Screen, name: str, where: str, report: Report, seconds: float) -> None:
    screen.say(
        f"{name:<6} {where}: {report.rows:,} rows; missing {len(report.missing)}, doubled {len(report.doubled)}, "
        f"out of order {len(report.out_of_order)}, other values {len(report.wrong_values)}   {seconds:.1f} s"
    )
    if not report.exact:
        raise RuntimeError(f"{name} does not hold every row once: {report.describe()}")


async def _agree(api: Client, job: Json, report: Report) -> None:
    """What the service says it sent is what arrived."""
    outputs = sum(output["rows"] for output in await api.outputs(job["name"]))
    if not job["totals"]["rows_sent"] == outputs == report.rows:
        raise RuntimeError(
            f"{job['name']} says rows_sent {job['totals']['rows_sent']} and outputs of {outputs} rows, "
            f"but {report.rows} arrived"
        )
