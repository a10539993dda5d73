"""The control database as one object: what engine, runner and HTTP side ask for, over one pool."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from service.domain.errors import RowferryError, Transient
from service.store.dead_letters import DeadLetters
from service.store.logs import Logs
from service.store.notifications import Notifications
from service.store.pool import Pool, connect
from service.store.registry import Named
from service.store.requests import Requests
from service.store.retention import Forgetting
from service.store.run_search import RunSearch
from service.store.runs import Runs
from service.store.schedules import Schedules
from service.store.secrets import SecretBox
from service.store.signed import Signed
from service.store.steps import PostgresStepStore
from service.store.verbs import Verbs
from service.store.verifications import Verifications

if TYPE_CHECKING:
    from service.domain.history import LogStore
    from service.domain.named import Registry
    from service.domain.ports import JobStore, StepStore
    from service.domain.schedules import ScheduleStore

_PING_SECONDS = 3.0


class Store(
    PostgresStepStore,
    Signed,
    Verbs,
    Runs,
    RunSearch,
    DeadLetters,
    Verifications,
    Schedules,
    Logs,
    Requests,
    Named,
    Forgetting,
):
    """`StepStore`, `JobStore`, `Registry` and `LogStore` in one, for one process. An async context manager."""

    def __init__(self, pool: Pool, box: SecretBox, notifications: Notifications) -> None:
        super().__init__(pool, box)
        self._notifications = notifications
        self._question: asyncio.Task[RowferryError | None] | None = None

    @classmethod
    async def open(
        cls,
        dsn: str,
        *,
        box: SecretBox | None = None,
        application_name: str = "rowferry",
        size: int = 10,
        command_seconds: float = 15.0,
        acquire_seconds: float = 10.0,
    ) -> Self:
        """Connect to a migrated control database and begin to listen. Raises Transient `store_unreachable`,
        Permanent `store_refused`. Afterwards it reconnects by itself: while the database is away every call raises
        `store_unreachable`, and succeeds again when it is back."""
        pool = await Pool.open(
            dsn,
            application_name=application_name,
            size=size,
            command_seconds=command_seconds,
            acquire_seconds=acquire_seconds,
        )
        notifications = Notifications(lambda: connect(dsn, application_name=f"{application_name} listen"))
        await notifications.start()
        return cls(pool, box or SecretBox(), notifications)

    async def close(self) -> None:
        """Stop listening and close the pool. Idempotent."""
        await self._notifications.stop()
        await self._pool.close()
        if self._question is not None:
            self._question.cancel()
            await asyncio.wait({self._question})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close, as `close`."""
        await self.close()

    @property
    def notifications(self) -> Notifications:
        """Who hears of changed jobs, job by job: for the engine."""
        return self._notifications

    async def wait_changed(self, timeout_seconds: float) -> None:
        """As `JobStore.wait_changed`; it may return early, after a second at the latest: look, then wait again."""
        await self._notifications.wait_changed(timeout_seconds)

    async def ping(self) -> None:
        """As `JobStore.ping`. Raises Transient `store_unreachable` when there is no answer within 3 seconds, and
        `store_read_only` where nothing could be written."""
        # One question for all who ask, and left to itself when it takes long: cancelling it would wait for a frozen
        # database to take note of that.
        if self._question is None or self._question.done():
            self._question = asyncio.create_task(self._ask(), name="rowferry ping")
        done, _ = await asyncio.wait({self._question}, timeout=_PING_SECONDS)
        answered = bool(done) and not self._question.cancelled()
        answer = self._question.result() if answered else None
        if isinstance(answer, RowferryError):
            raise answer
        if not answered:
            raise Transient("store_unreachable", f"the control database did not answer within {_PING_SECONDS:g} s")

    async def _ask(self) -> RowferryError | None:
        try:
            await self._pool.check_writable()
        except RowferryError as error:
            return error
        return None


if TYPE_CHECKING:

    def _steps(store: Store) -> StepStore:
        return store

    def _jobs(store: Store) -> JobStore:
        return store

    def _names(store: Store) -> Registry:
        return store

    def _schedules(store: Store) -> ScheduleStore:
        return store

    def _log(store: Store) -> LogStore:
        return store
