"""The job log: runs, outputs, log lines, events; of removed jobs too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from service.api import paging, present, streams
from service.api.answers.history import EventsAnswer, LogAnswer, OutputsAnswer, RunsAnswer
from service.api.answers.jobs import RunAnswer
from service.api.queries import EventsQuery, JobRunsQuery, LogQuery, PageQuery, RunsQuery
from service.api.routes import Role, Route, answer
from service.domain.errors import NotFound
from service.domain.states import LIVE, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web

    from service.api.routes import Call
    from service.domain.history import EventRecord
    from service.domain.records import Job

_BATCH = 500


async def id_of_job(call: Call) -> str:
    """The id of a job, also of one that was removed. Raises NotFound when there never was one."""
    ref, store = call.part("job"), call.services.store
    job = await store.get(call.account, ref)
    if job is not None:
        return job.id
    for name in ("job_id", "job"):
        runs, _ = await store.runs(call.account, {name: ref}, limit=1, after=None)
        if runs:
            return runs[0].job_id
        events, _ = await store.events(call.account, {name: ref}, limit=1, after=None)
        if events and events[0].job_id is not None:
            return events[0].job_id
    raise NotFound("job", ref)


async def runs(call: Call) -> web.StreamResponse:
    """A page, newest first."""
    return await _runs(call, cast("RunsQuery", call.query).filters())


async def job_runs(call: Call) -> web.StreamResponse:
    """A page, newest first."""
    return await _runs(call, {**cast("JobRunsQuery", call.query).filters(), "job_id": await id_of_job(call)})


async def _runs(call: Call, filters: dict[str, Any]) -> web.StreamResponse:
    query = cast("PageQuery", call.query)
    page, after = await paging.asked(
        call.services.store.runs(call.account, filters, limit=query.limit, after=query.after)
    )
    found = [present.run(one) for one in page]
    return answer(RunsAnswer(runs=found, next=paging.following(call.request, after)))


async def run(call: Call) -> web.StreamResponse:
    """One run."""
    found = await call.services.store.run(call.account, call.part("run"))
    if found is None:
        raise NotFound("run", call.part("run"))
    return answer(present.run(found))


async def outputs(call: Call) -> web.StreamResponse:
    """A page, in the order they became final."""
    query = cast("PageQuery", call.query)
    job = await call.services.jobs.find(call.account, call.part("job"))
    page, after = await paging.asked(
        call.services.store.outputs(call.account, job.id, limit=query.limit, after=query.after)
    )
    found = [present.output(one) for one in page]
    return answer(OutputsAnswer(outputs=found, next=paging.following(call.request, after)))


async def log(call: Call) -> web.StreamResponse:
    """Lines of the account."""
    return await _log(call, {})


async def job_log(call: Call) -> web.StreamResponse:
    """Lines of one job."""
    return await _log(call, {"job_id": await id_of_job(call)})


async def _log(call: Call, more: dict[str, Any]) -> web.StreamResponse:
    query = cast("LogQuery", call.query)
    filters = {**query.filters(), **more}
    if query.follow:
        return await _follow_log(call, filters, query)
    page, after = await paging.asked(
        call.services.store.log_lines(call.account, filters, limit=query.limit, after=query.after)
    )
    found = [present.log_line(one) for one in page]
    return answer(LogAnswer(lines=found, next=paging.following(call.request, after)))


async def _follow_log(call: Call, filters: dict[str, Any], query: LogQuery) -> web.StreamResponse:
    store = call.services.store
    resumed = streams.last_event_id(call.request)
    seen = resumed if resumed is not None else query.after
    if seen is None and query.since is None:
        seen, _ = await store.last_seq()

    async def look() -> Sequence[str]:
        nonlocal seen
        page, _ = await store.log_lines(call.account, filters, limit=_BATCH, after=seen)
        seen = page[-1].seq if page else seen
        return [streams.message("log", present.log_line(one).model_dump_json(), one.seq) for one in page]

    return await streams.follow(call, look)


async def events(call: Call) -> web.StreamResponse:
    """Events of the account."""
    return await _events(call, None)


async def job_events(call: Call) -> web.StreamResponse:
    """Events of one job."""
    return await _events(call, await id_of_job(call))


async def _events(call: Call, job_id: str | None) -> web.StreamResponse:
    query = cast("EventsQuery", call.query)
    filters = {**query.filters(), **({"job_id": job_id} if job_id is not None else {})}
    if streams.wanted(call.request):
        resumed = streams.last_event_id(call.request)
        after = resumed if resumed is not None else query.after
        if after is None and query.since is None:
            _, after = await call.services.store.last_seq()
        return await streams.follow(call, _Live(call, filters, after, job_id).look)
    page, following = await paging.asked(
        call.services.store.events(call.account, filters, limit=query.limit, after=query.after)
    )
    found = [present.event(one) for one in page]
    return answer(EventsAnswer(events=found, next=paging.following(call.request, following)))


class _Live:
    """What a stream of events has shown so far: events by `seq`, and of each live job its last state and outputs.

    `state` and `error` carry the event's number and can be resumed; `progress` and `output` are what is there now."""

    def __init__(self, call: Call, filters: dict[str, Any], after: int | None, job_id: str | None) -> None:
        self._call = call
        self._filters = filters
        self._after = after
        self._job_id = job_id
        self._revisions: dict[str, int] = {}
        self._sent: dict[str, int] = {}
        self._outputs: dict[str, str | None] = {}
        self._counts: dict[str, int] = {}

    async def look(self) -> Sequence[str]:
        """Everything new since the last look."""
        page, _ = await paging.asked(
            self._call.services.store.events(self._call.account, self._filters, limit=_BATCH, after=self._after)
        )
        self._after = page[-1].seq if page else self._after
        outputs: list[str] = []
        progress: list[str] = []
        for job in await self._jobs():
            await self._changes(job, outputs, progress)
        # Outputs were looked for after the events and are told before them: nobody hears of a run's end first.
        return [*outputs, *map(_event_message, page), *progress]

    async def _jobs(self) -> Sequence[Job]:
        store = self._call.services.store
        if self._job_id is not None:
            job = await store.get(self._call.account, self._job_id)
            return [job] if job is not None else []
        live = {"state": [state.value for state in LIVE]}
        page, _ = await store.list(self._call.account, live, sort="-state_changed_at", limit=_BATCH, after=None)
        return page

    async def _changes(self, job: Job, outputs: list[str], progress: list[str]) -> None:
        """Adds what is new of a job since it was last looked at."""
        known = self._revisions.get(job.id)
        if known == job.status_revision:
            return
        self._revisions[job.id] = job.status_revision
        sent, self._sent[job.id] = self._sent.get(job.id), job.totals.rows_sent
        if self._job_id is not None and sent != job.totals.rows_sent:
            found = await self._new_outputs(job)
            # What was there before the stream began is not news.
            outputs += found if sent is not None else []
        if job.state in LIVE or known is not None:
            shown = present.job(job, self._call.caller.role)
            progress.append(streams.message("progress", shown.model_dump_json(by_alias=True)))

    async def _new_outputs(self, job: Job) -> list[str]:
        """Outputs are row data: for operators. Reads on from the last full page, so that a long history is read
        once."""
        if self._call.caller.role < Role.OPERATOR:
            return []
        found: list[str] = []
        while True:
            token = self._outputs.get(job.id)
            page, following = await paging.asked(
                self._call.services.store.outputs(self._call.account, job.id, limit=_BATCH, after=token)
            )
            new = page[self._counts.get(job.id, 0) :]
            found += [streams.message("output", present.output(one).model_dump_json()) for one in new]
            if following is None:
                self._counts[job.id] = len(page)
                return found
            self._outputs[job.id], self._counts[job.id] = following, 0


def _event_message(record: EventRecord) -> str:
    kind = "error" if record.state_to in {State.FAILING, State.ERROR} else "state"
    return streams.message(kind, present.event(record).model_dump_json(), record.seq)


ROUTES = (
    Route("GET", "/v1/runs", Role.VIEWER, runs, "The job log", {200: RunsAnswer}, RunsQuery),
    Route("GET", "/v1/runs/{run}", Role.VIEWER, run, "One run", {200: RunAnswer}),
    Route("GET", "/v1/jobs/{job}/runs", Role.VIEWER, job_runs, "The runs of a job", {200: RunsAnswer},
          JobRunsQuery),
    Route("GET", "/v1/jobs/{job}/outputs", Role.OPERATOR, outputs, "What was made visible",
          {200: OutputsAnswer}, PageQuery),
    Route("GET", "/v1/log", Role.VIEWER, log, "Log lines; follow=1 streams", {200: LogAnswer}, LogQuery,
          stream=True),
    Route("GET", "/v1/jobs/{job}/log", Role.VIEWER, job_log, "Log lines of a job; follow=1 streams",
          {200: LogAnswer}, LogQuery, stream=True),
    Route("GET", "/v1/events", Role.VIEWER, events, "Who did what; live as text/event-stream",
          {200: EventsAnswer}, EventsQuery, stream=True),
    Route("GET", "/v1/jobs/{job}/events", Role.VIEWER, job_events, "Events of a job; live as text/event-stream",
          {200: EventsAnswer}, EventsQuery, stream=True),
)  # fmt: skip
