"""Jobs of the Siren dialect: what runs, one job, abort, and the log of ended runs.

Every job is one, in whatever language it was made; `ingestion` is the only type there is.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from service.api.dialects import siren_answers as answers
from service.api.dialects import siren_request as requests
from service.api.dialects import siren_status
from service.api.native.jobs import actor
from service.domain.states import FINAL, LIVE, Event

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp import web

    from service.api.routes import Call
    from service.domain.records import Job, Run

PAGE: Final = 500
_SIZE: Final = 10
_LATEST_MS: Final = 253_402_300_799_999
"""The end of the year 9999."""
_FILTERS: Final = ("start_time_from", "start_time_to", "type", "state", "id", *requests.WINDOW)


async def running(call: Call) -> web.StreamResponse:
    """The running jobs of a type, all of them."""
    _check_type(call.part("type"))
    requests.parameters(call)
    hits = [siren_status.hit(job.run, job.name) async for job in _live(call) if job.run is not None]
    return answers.answer(call.request, {"hits": {"total": len(hits), "hits": hits}})


async def one(call: Call) -> web.StreamResponse:
    """The status of the running run, else of the last one; 404 `found: false` for a job that is not there."""
    _check_type(call.part("type"))
    requests.parameters(call)
    job = await found(call)
    if call.request.query_string:  # it may ask for several lines
        return answers.answer(call.request, siren_status.envelope(job.name, job.run))
    return answers.written(
        call.services.rendered.of(job, "siren", lambda: answers.in_one_line(siren_status.envelope(job.name, job.run)))
    )


async def abort(call: Call) -> web.StreamResponse:
    """The status once the run has ended, or when it is as long as the dialect waits: `aborting` then. Without a running
    run nothing changes."""
    _check_type(call.part("type"))
    requests.parameters(call)
    requests.no_body(call)
    job = await found(call)
    after, _ = await call.services.verbs.act(
        call.account, actor(call), job, Event.ABORT, wait_seconds=call.services.settings.dialect_wait_seconds
    )
    # The run that was aborted, whatever a schedule has started since.
    run = job.run if job.run is not None and job.state in LIVE else after.run
    fresh = await call.services.store.run(call.account, run.id) if run is not None else None
    return answers.answer(call.request, siren_status.envelope(job.name, fresh))


async def search(call: Call) -> web.StreamResponse:
    """The log of ended runs, newest first, with the exact number of those that fit."""
    given = requests.searched(call, _FILTERS)
    if "type" in given:
        _check_type(given["type"])
    skip, size = requests.window(given, _SIZE, "narrow the search by start_time_to")
    filters = filters_of(given)
    if not filters["state"]:  # of a run that has not ended: the log has none
        return _hits(call, 0, [])
    total = await call.services.store.count_runs(call.account, filters)
    return _hits(call, total, [run async for run in _runs(call, filters, skip, size)] if total > skip else [])


async def found(call: Call) -> Job:
    """The job in the path. Raises Failure 404."""
    name = call.part("id")
    # Names and ids are told apart by their form: what is no name is asked for by nobody.
    job = await call.services.store.get(call.account, name) if requests.is_name(name) else None
    if job is None:
        raise answers.not_found({"_id": name[:256], "type": requests.INGESTION, "found": False})
    return job


def _check_type(given: str) -> None:
    if given != requests.INGESTION:
        raise answers.invalid(f"unknown job type [{ascii(given[:80])[1:-1]}]; the only type is [{requests.INGESTION}]")


async def _live(call: Call) -> AsyncIterator[Job]:
    filters: dict[str, Any] = {"state": [state.value for state in LIVE]}
    after: str | None = None
    while True:
        page, after = await call.services.store.list(
            call.account, filters, sort="-state_changed_at", limit=PAGE, after=after
        )
        for job in page:
            yield job
        if after is None:
            return


async def _runs(call: Call, filters: dict[str, Any], skip: int, size: int) -> AsyncIterator[Run]:
    """The runs at `skip` and after it, at most `size`; read in pages, so that what is passed over takes no memory."""
    after: str | None = None
    while size:
        page, after = await call.services.store.runs(call.account, filters, limit=min(PAGE, skip + size), after=after)
        for run in page[skip : skip + size]:
            size -= 1
            yield run
        skip = max(0, skip - len(page))
        if after is None:
            return


def filters_of(given: dict[str, str]) -> dict[str, Any]:
    """As `JobStore.runs` takes them."""
    states = [state for state in siren_status.SHOWN if state in FINAL]
    if "state" in given:
        if given["state"] not in siren_status.STATES:
            known = ", ".join(siren_status.STATES)
            raise answers.invalid(f"unknown state [{ascii(given['state'][:80])[1:-1]}]; the states are {known}")
        states = siren_status.states_of(given["state"])
    filters: dict[str, Any] = {"state": [state.value for state in states]}
    if "id" in given:
        filters["job"] = given["id"]
    # Times are told in whole milliseconds: a run that began within one has begun at it.
    if "start_time_from" in given:
        filters["started_from"] = siren_status.moment(requests.whole(given, "start_time_from", 0, _LATEST_MS))
    if "start_time_to" in given:
        latest = siren_status.moment(requests.whole(given, "start_time_to", 0, _LATEST_MS - 1))
        filters["started_to"] = latest + timedelta(milliseconds=1)
    return filters


def _hits(call: Call, total: int, runs: list[Run]) -> web.Response:
    hits = [siren_status.hit(run, siren_status.document_id(run)) for run in runs]
    return answers.answer(call.request, {"hits": {"total": total, "hits": hits}})
