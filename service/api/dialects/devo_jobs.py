"""Job requests of the Devo dialect: one, all, stop, start, remove. Each is a GET, also what changes a state."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from service.api.answers.base import key_text
from service.api.dialects import devo_answers as answers
from service.api.dialects import devo_labels as labels
from service.api.dialects.devo_auth import JOB
from service.api.frame import headers
from service.api.native.jobs import actor
from service.domain.errors import Conflict, Transient
from service.domain.states import LIVE, Event, State

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from service.api.routes import Call, Handler
    from service.domain.records import Job

REMOVED: Final = "REMOVED"
TRIGGER: Final = "devo"
PAGE: Final = 500
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_STATUS: Final = {
    State.CREATED: "CREATED",
    State.STOPPED: "STOPPED",
    State.ABORTED: "STOPPED",
    State.ERROR: "STOPPED",
    State.SUCCESSFUL: "COMPLETED",
}
_ENDING: Final = frozenset({State.STOPPING, State.ABORTING, State.FAILING})
_CANNOT_CHANGE: Final = "Cannot change the status of task"


def status_of(job: Job) -> str:
    """The state in Devo's words. There is none for an error: such a job is STOPPED and says why."""
    if job.state not in LIVE:
        return _STATUS[job.state]
    cause = (job.condition.retrying or {}).get("cause")
    if job.state is State.RUNNING and isinstance(cause, dict) and str(cause.get("code", "")).startswith("source_"):
        return "RECONNECTING"
    return "PAUSED" if job.parked else "RUNNING"


def presented(job: Job, *, status: str | None = None, paths: Sequence[str] = ()) -> dict[str, Any]:
    """A job in Devo's words, its keys in Devo's order; what Devo does not have follows. `paths`: its files."""
    return {
        "status": status or status_of(job),
        "id": job.id,
        "eventGenerated": job.totals.rows_read,
        "eventsSent": job.totals.rows_sent,
        "lastDatetime": last_datetime(job),
        "error": [f"{cause.code}: {cause.message}" for cause in job.errors],
        "type": labels.kind(job),
        "friendlyName": job.name,
        "query": labels.query(job),
        "table": labels.table(job),
        "owner": job.owner,
        "domain": job.account,
        "cid": labels.cid(job),
        "extra": {"paths": list(paths)} if labels.kind(job) in {"s3", "hdfs"} else {},
        "lastId": key_text(job.last_id),
    }


def last_datetime(job: Job) -> int:
    """The position as a time, in ms; 0 before the first row, and where the key does not begin with the time column."""
    source = job.spec.get("source")
    if job.last_id is None or not isinstance(source, dict):
        return 0
    span, key = source.get("time"), source.get("key") or ()
    if not isinstance(span, dict) or not key or span.get("column") != key[0]:
        return 0
    try:
        moment = datetime.fromisoformat(job.last_id[0])
    except ValueError:  # infinity, or a year before Christ
        return 0
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1000)


async def one(call: Call) -> web.StreamResponse:
    """A job, or "Task not found"."""
    job = await _found(call)
    if labels.files(job) is not None:  # its files are asked for anew
        return answers.answer(call.request, await _shown(call, job))
    found = call.services.rendered.of(job, "devo", lambda: answers.dumps(presented(job)))
    return answers.enveloped(call.request, found)


def _or_code(code: answers.Code) -> Callable[[Handler], Handler]:
    """What Devo has for a verb in which the control database fails."""

    def wrapped(verb: Handler) -> Handler:
        @wraps(verb)
        async def handle(call: Call) -> web.StreamResponse:
            try:
                return await verb(call)
            except Transient as error:
                raise answers.not_done(code, error.whole) from error

        return handle

    return wrapped


@_or_code(answers.Code.CANNOT_STOP)
async def stop(call: Call) -> web.StreamResponse:
    """STOPPED once the rows in flight are with the sink; RUNNING when that takes longer than the dialect waits. What
    has completed can not be stopped; what is stopped already stays so."""
    job = await _found(call)
    if job.state is State.SUCCESSFUL:
        return await _unchanged(call, job)
    if job.state in {State.FAILING, State.ABORTING}:
        job = await _ended(call, job)
    elif job.state in LIVE:
        try:
            job, _ = await call.services.verbs.act(
                call.account, actor(call), job, Event.STOP, wait_seconds=_wait_seconds(call)
            )
        except Conflict:  # it began to end by itself meanwhile
            job = await _ended(call, job)
    return answers.answer(call.request, await _shown(call, job))


@_or_code(answers.Code.CANNOT_RESTART)
async def start(call: Call) -> web.StreamResponse:
    """Goes on from the position. While the job is on its way to an end that end is waited for first."""
    job = await _found(call)
    if job.state in _ENDING:
        job = await _ended(call, job)
    try:
        job, _ = await call.services.verbs.act(call.account, actor(call), job, Event.START, trigger=TRIGGER)
    except Conflict as error:
        if error.code != "verb_refused":
            raise
        return await _unchanged(call, await _found(call))
    return answers.answer(call.request, await _shown(call, job))


@_or_code(answers.Code.CANNOT_REMOVE)
async def remove(call: Call) -> web.StreamResponse:
    """REMOVED; one that runs is aborted first, and answered RUNNING when that takes longer than the dialect waits."""
    job = await _found(call)
    shown = await _shown(call, job)
    left = await call.services.verbs.remove(call.account, actor(call), job, force=True, seconds=_wait_seconds(call))
    if left is not None:
        return answers.answer(call.request, await _shown(call, left))
    return answers.answer(call.request, {**shown, "status": REMOVED})


async def listed(call: Call) -> web.StreamResponse:
    """Every job of the account, or those of a type, page by page as the store gives them, so that thousands take no
    more memory than a page."""
    store, request = call.services.store, call.request
    kind = request.match_info.get("type")
    page, after = await store.list(call.account, {}, sort="created_at", limit=PAGE, after=None)
    response = web.StreamResponse(headers={**headers(request), "Content-Type": answers.JSON})
    await response.prepare(request)
    head = answers.dumps({"status": 0, "cid": request[answers.CID], "timestamp": answers.now_ms(), "object": []})
    await response.write(head.removesuffix(b"]}"))
    first = True
    while True:
        shown = await _shown_all(call, [job for job in page if kind in {None, labels.kind(job)}])
        if shown:
            await response.write((b"" if first else b", ") + b", ".join(map(answers.dumps, shown)))
            first = False
        if after is None:
            break
        page, after = await store.list(call.account, {}, sort="created_at", limit=PAGE, after=after)
    await response.write(b'], "success": true}')
    await response.write_eof()
    return response


async def _found(call: Call) -> Job:
    read: Job | None = call.request.pop(JOB, None)  # for this request; whoever looks again looks anew
    if read is not None:
        return read
    job_id = call.part("id")
    job = await call.services.store.get(call.account, job_id.lower()) if _UUID.fullmatch(job_id) else None
    if job is None:
        raise answers.task_not_found()
    return job


async def _shown(call: Call, job: Job) -> dict[str, Any]:
    return (await _shown_all(call, [job]))[0]


async def _shown_all(call: Call, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """With the files of those that leave some."""
    begins = {job.id: begin for job in jobs if (begin := labels.files(job)) is not None}
    targets = await call.services.store.output_targets(call.account, list(begins)) if begins else {}
    return [presented(job, paths=[begins[job.id] + target for target in targets.get(job.id, ())]) for job in jobs]


async def _unchanged(call: Call, job: Job) -> web.Response:
    shown = await _shown(call, job)
    return answers.answer(call.request, shown, status=answers.Code.CANNOT_CHANGE, msg=_CANNOT_CHANGE)


async def _ended(call: Call, job: Job) -> Job:
    """The job once its run has ended, or when the time is up."""
    return (await call.services.verbs.wait_ended(call.account, job, _wait_seconds(call)))[0]


def _wait_seconds(call: Call) -> float:
    return call.services.settings.dialect_wait_seconds
