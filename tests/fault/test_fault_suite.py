"""One fault after the other, from a seed, on every kind of sink: missing 0, doubled 0, and never silently stuck.

`make faults` runs two hundred for each sink; this file alone runs twenty. Replay: `make faults SEED=… SINK=… FAULTS=…`.
"""

from __future__ import annotations

import math
import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.fault.driver import Run
from tests.fault.places import KINDS, place
from tests.fault.schedule import schedule
from tests.fault.summary import RESULTS

if TYPE_CHECKING:
    from tests.support.postgres import PostgresServer

FAULTS = int(os.environ.get("ROWFERRY_FAULTS") or 20)
# `make test` is about the change at hand, and always meets the same; `make faults` looks for what nobody thought of.
SEED = int(os.environ.get("ROWFERRY_FAULT_SEED") or (random.randrange(10**6) if "ROWFERRY_FAULTS" in os.environ else 1))
MINUTES = float(os.environ.get("ROWFERRY_FAULT_MINUTES") or "inf")
"""How long new faults are met, where there is no time for all of them."""
SECONDS_A_FAULT = 15

pytestmark = [pytest.mark.fault, pytest.mark.timeout(240 + SECONDS_A_FAULT * FAULTS)]


@pytest.mark.parametrize("kind", KINDS)
async def test_every_key_arrives_once_whatever_breaks(
    request: pytest.FixtureRequest,
    source_server: PostgresServer,
    control_server: PostgresServer,
    kind: str,
) -> None:
    print(f"make faults SEED={SEED} SINK={kind} FAULTS={FAULTS}")  # noqa: T201 -- shown under a failure
    async with place(kind, request) as where:
        run = Run(where, source_server, control_server, SEED, schedule(SEED, kind, FAULTS), MINUTES * 60)
        RESULTS.append(run.result)
        result = await run()
    assert (result.missing, result.doubled) == (0, 0)
    assert result.count == FAULTS or math.isfinite(MINUTES)
