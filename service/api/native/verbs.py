"""Start, stop, abort, for one job and for many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from service.api import etag, present
from service.api.answers.jobs import BulkAnswer, BulkResultAnswer, JobAnswer
from service.api.models import BulkRequest
from service.api.native.jobs import actor
from service.api.problems import invalid
from service.api.queries import JobsQuery, StartQuery, VerbQuery
from service.api.routes import Role, Route, answer
from service.api.validation import validate
from service.domain.states import Event
from service.lifecycle import schedules

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aiohttp import web

    from service.api.routes import Call


async def _act(call: Call, event: Event, *, from_beginning: bool = False) -> web.StreamResponse:
    query = cast("VerbQuery", call.query)
    job = await call.services.jobs.find(call.account, call.part("job"))
    after, final = await call.services.verbs.act(
        call.account, actor(call), job, event, from_beginning=from_beginning, wait_seconds=query.wait
    )
    return answer(present.job(after, call.caller.role), 200 if final else 202, {"ETag": etag.of(after)})


async def start(call: Call) -> web.StreamResponse:
    """202 when set in motion, 200 when it is already."""
    return await _act(call, Event.START, from_beginning=cast("StartQuery", call.query).from_ == "beginning")


async def stop(call: Call) -> web.StreamResponse:
    """202 when set in motion, 200 when there is nothing to stop."""
    return await _act(call, Event.STOP)


async def abort(call: Call) -> web.StreamResponse:
    """202 when set in motion, 200 when there is nothing to abort."""
    return await _act(call, Event.ABORT)


async def pause(call: Call) -> web.StreamResponse:
    """200: it does not start by itself until it is resumed; a run that is under way goes on."""
    return await _schedule(call, enabled=False)


async def resume(call: Call) -> web.StreamResponse:
    """200: it starts by itself again, from its next time on."""
    return await _schedule(call, enabled=True)


async def _schedule(call: Call, *, enabled: bool) -> web.StreamResponse:
    changed = await schedules.switch(call.services.jobs, call.account, actor(call), call.part("job"), enabled=enabled)
    return answer(present.job(changed, call.caller.role), 200, {"ETag": etag.of(changed)})


async def bulk(call: Call) -> web.StreamResponse:
    """200 with a result per job, whatever became of each."""
    request = validate(BulkRequest, call.body)
    results = await call.services.verbs.bulk(
        call.account, actor(call), Event(request.verb), _targets(request), dry_run=request.dry_run
    )
    found = [
        BulkResultAnswer(id=one.id, name=one.name, status=one.status, state=one.state, code=one.code, detail=one.detail)
        for one in results
    ]
    return answer(BulkAnswer(verb=request.verb, dry_run=request.dry_run, results=found))


def _targets(request: BulkRequest) -> Sequence[str] | Mapping[str, Any]:
    if request.filter is None:
        for place, ref in enumerate(request.ids or ()):
            if not 0 < len(ref) <= 128 or not ref.isascii() or not ref.isprintable():
                raise invalid("invalid_definition", f"/ids/{place}", f"ids.{place} is no id or name", "correct it")
        return request.ids or ()
    given = request.filter.model_dump(exclude_none=True)
    labels = given.pop("label", {})
    query = JobsQuery.model_validate(
        {**given, **({"label": [f"{k}:{v}" for k, v in labels.items()]} if labels else {})}
    )
    return query.filters()


_ANSWERS = {200: JobAnswer, 202: JobAnswer}

ROUTES = (
    Route("POST", "/v1/jobs:bulk", Role.OPERATOR, bulk, "One verb for many jobs", {200: BulkAnswer},
          body=BulkRequest),
    Route("POST", "/v1/jobs/{job}/start", Role.OPERATOR, start, "Start", _ANSWERS, StartQuery),
    Route("POST", "/v1/jobs/{job}/stop", Role.OPERATOR, stop, "Stop", _ANSWERS, VerbQuery),
    Route("POST", "/v1/jobs/{job}/abort", Role.OPERATOR, abort, "Abort", _ANSWERS, VerbQuery),
    Route("POST", "/v1/jobs/{job}/schedule:pause", Role.OPERATOR, pause, "Pause the schedule",
          {200: JobAnswer}),
    Route("POST", "/v1/jobs/{job}/schedule:resume", Role.OPERATOR, resume, "Resume the schedule",
          {200: JobAnswer}),
)  # fmt: skip
