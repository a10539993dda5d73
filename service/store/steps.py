"""`StepStore` over asyncpg: what the engine and the runner ask, under leases.

Put together from `leases` (having a step), `chunks` (moving a split on), `retries` (sending dead letters again), `days`
(listing what became visible), `window` (what a split that looks back remembers) and `plans` (beginning and closing
generations); `held` is what they share.
"""

from __future__ import annotations

from service.store.chunks import Chunks
from service.store.days import Days
from service.store.leases import Leases
from service.store.plans import Plans
from service.store.retries import Retries
from service.store.verifications import VerifySteps
from service.store.window import Windows


class PostgresStepStore(Chunks, Retries, Days, Plans, Leases, VerifySteps, Windows):
    """Implements `service.domain.ports.StepStore`. Raises what the pool raises; retries nothing. Methods may be called
    from any number of tasks at once."""
