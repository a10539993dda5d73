"""Start, stop, abort, remove, and many jobs at once."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from service.domain.errors import Conflict, NotFound, RowferryError
from service.domain.folders import folder_of, meet, refusal
from service.domain.states import FINAL, LIVE, UNCHANGED, Event, may_start, verbs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from service.domain.ports import JobStore
    from service.domain.records import Actor, Job
    from service.domain.schedules import DueJob, ScheduleStore, Tick

FORCE_SECONDS: Final = 10.0
"""How long a forced removal waits for its abort."""
_LOOK_SECONDS: Final = 1.0
"""A change between a look and the wait for the next is heard of at the latest after this long."""
_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class BulkResult:
    """What became of one job of a bulk request; `status` is what its own request would have been answered."""

    id: str
    name: str | None
    status: int
    state: str | None
    code: str | None = None
    detail: str | None = None


class Verbs:
    """What sets jobs in motion. `wake` tells the engine to look now."""

    def __init__(
        self,
        store: JobStore,
        schedules: ScheduleStore,
        wake: Callable[[str], Awaitable[None]],
        closing: Callable[[], bool] = lambda: False,
    ) -> None:
        """`closing` ends every wait early: the process is going down."""
        self._store, self._schedules = store, schedules
        self.wake = wake
        self._closing = closing

    async def act(
        self,
        account: str,
        actor: Actor,
        job: Job,
        event: Event,
        *,
        trigger: str = "api",
        from_beginning: bool = False,
        wait_seconds: float | None = None,
    ) -> tuple[Job, bool]:
        """Start, stop or abort; the job afterwards, and whether its answer is final: nothing was to be done, or the
        run that the verb concerns ended within `wait_seconds`. Raises Conflict `verb_refused`, `path_in_use`."""
        after, moved = await self._apply(account, actor, job, event, trigger, from_beginning=from_beginning)
        if after.state not in LIVE:
            return after, not moved or wait_seconds is not None
        if wait_seconds is None:
            return after, not moved
        return await self.wait_ended(account, after, wait_seconds)

    async def wait_ended(self, account: str, job: Job, seconds: float) -> tuple[Job, bool]:
        """Until the job's present run has ended: the job then, or after `seconds`, and which of both. Whoever waits may
        leave: nothing depends on it."""
        run_id = job.run.id if job.run is not None else None
        deadline = time.monotonic() + seconds
        while True:
            run = await self._store.run(account, run_id) if run_id is not None else None
            fresh = await self._store.get(account, job.id)
            ended = (run is not None and run.state in FINAL) or (fresh is not None and fresh.state in FINAL)
            if ended or fresh is None:
                return fresh or job, True
            remaining = deadline - time.monotonic()
            if remaining <= 0 or self._closing():
                return fresh, False
            await self._store.wait_changed(min(remaining, _LOOK_SECONDS))

    async def tick(self, due: DueJob, actor: Actor) -> Tick | None:
        """Start what is due by its schedule, or say in an event why not; None when another service did. Raises
        NotFound when the job was removed meanwhile."""
        tick = await self._schedules.tick(due, actor)
        if tick is not None and tick.outcome == "started":
            await self.wake(due.job_id)
        return tick

    async def remove(
        self, account: str, actor: Actor, job: Job, *, force: bool, seconds: float = FORCE_SECONDS
    ) -> Job | None:
        """Free the name; None when that is done. With `force` a live job is aborted first: the job when that takes
        longer than `seconds`; it goes when its abort ends. Raises Conflict `job_running`."""
        if not force:
            if not await self._store.remove(account, actor, job.id):
                fresh = await self._store.get(account, job.id) or job
                raise Conflict(
                    "job_running",
                    f"job {fresh.name!r} is {fresh.state} and can not be removed",
                    hint="stop or abort it first, or use ?force=true",
                    state=fresh.state.value,
                    verbs=verbs(fresh.state),
                )
            await self.wake(job.id)
            return None
        await self._store.remove_when_aborted(account, actor, job.id)
        await self.wake(job.id)
        deadline = time.monotonic() + seconds
        while (left := await self._store.get(account, job.id)) is not None:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or self._closing():
                return left
            await self._store.wait_changed(min(remaining, _LOOK_SECONDS))
        return None

    async def refuse_shared_path(self, account: str, name: str, definition: Mapping[str, Any]) -> None:
        """What a start of this definition would meet now: before a job is stored that is to start at once. The start
        itself looks again, in its own transaction. Raises Conflict `path_in_use`."""
        sink: Any = definition.get("sink")
        if folder_of(sink) is None:
            return
        for other in await self._matching(account, {"sink": sink["kind"], "state": [state.value for state in LIVE]}):
            if meet(sink, other.spec["sink"]):
                raise refusal(sink["path"], name, other.name, other.state)

    async def bulk(
        self, account: str, actor: Actor, event: Event, targets: Sequence[str] | Mapping[str, Any], *, dry_run: bool
    ) -> list[BulkResult]:
        """The verb for each of `targets` (ids or names, or a list's filters), one after the other, none stopping the
        others."""
        results = []
        if isinstance(targets, dict):
            jobs: list[tuple[str, Job | None]] = [(job.id, job) for job in await self._matching(account, targets)]
        else:
            jobs = [(str(ref), await self._store.get(account, str(ref))) for ref in dict.fromkeys(targets)]
        for ref, job in jobs:
            results.append(await self._one(account, actor, event, ref, job, dry_run=dry_run))
        return results

    async def _apply(
        self, account: str, actor: Actor, job: Job, event: Event, trigger: str, *, from_beginning: bool = False
    ) -> tuple[Job, bool]:
        after, moved = await self._store.verb(
            account, actor, job.id, event, trigger=trigger, from_beginning=from_beginning
        )
        if moved:
            await self.wake(job.id)
        return after, moved

    async def _matching(self, account: str, filters: Mapping[str, Any]) -> list[Job]:
        found: list[Job] = []
        after: str | None = None
        while True:
            page, after = await self._store.list(account, filters, sort="created_at", limit=_PAGE, after=after)
            found.extend(page)
            if after is None:
                return found

    async def _one(
        self, account: str, actor: Actor, event: Event, ref: str, job: Job | None, *, dry_run: bool
    ) -> BulkResult:
        if job is None:
            missing = NotFound("job", ref)
            return BulkResult(ref, None, 404, None, missing.code, missing.message)
        if dry_run:
            return _foreseen(job, event)
        try:
            after, final = await self.act(account, actor, job, event)
        except RowferryError as error:
            status = {"Conflict": 409, "NotFound": 404, "Transient": 503}.get(type(error).__name__, 422)
            return BulkResult(job.id, job.name, status, job.state.value, error.code, error.message)
        return BulkResult(job.id, job.name, 200 if final else 202, after.state.value)


_OF_ONE_JOB = re.compile(r"\{job(_id)?\}")
_MOVING = re.compile(r"\{(run|date|generation)\b")


def _foreseen(job: Job, event: Event) -> BulkResult:
    mode = str(job.spec.get("mode", "once"))
    startable = may_start(job.state, mode, generation_unrun=job.generation_unrun)
    if (job.state, event) in UNCHANGED:
        return BulkResult(job.id, job.name, 200, job.state.value)
    if event.value in verbs(job.state, may_start=startable):
        return BulkResult(job.id, job.name, 202, job.state.value)
    detail = f"{event} is not possible while job {job.name!r} is {job.state}"
    return BulkResult(job.id, job.name, 409, job.state.value, "verb_refused", detail)
