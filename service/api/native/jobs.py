"""/v1/jobs: definitions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from aiohttp import web

from service.api import etag, outlook, paging, present
from service.api.answers.jobs import JobAnswer, JobsAnswer
from service.api.answers.outlook import JobValidationAnswer, PreviewAnswer
from service.api.models import CloneRequest, JobDefinition, JobPatch
from service.api.problems import invalid
from service.api.queries import CreateQuery, JobsQuery, PreviewQuery, RemoveQuery, ReplaceQuery
from service.api.routes import Role, Route, answer, written
from service.api.services import REQUEST_ID
from service.api.validation import json_name, validate
from service.domain.states import Event

if TYPE_CHECKING:
    from service.api.routes import Call
    from service.domain.records import Actor, Job


def actor(call: Call) -> Actor:
    """Who does it, for the event."""
    return call.caller.actor(call.request[REQUEST_ID])


def shown(call: Call, job: Job, status: int = 200, **headers: str) -> web.Response:
    """A job with its entity tag."""
    return written(_json(call, job), status, {"ETag": etag.of(job), **headers})


def _json(call: Call, job: Job) -> bytes:
    role = call.caller.role

    def write() -> bytes:
        return present.job(job, role).model_dump_json(by_alias=True).encode()

    return call.services.rendered.of(job, ("v1", role), write) if present.stands_still(job) else write()


def mapping(body: Any) -> dict[str, Any]:
    """The body, which must be an object. Raises Problem 422."""
    if not isinstance(body, dict):
        raise invalid("invalid_definition", "", f"the body is {json_name(body)}, not an object", "send {...}")
    return body


def define(data: Any) -> JobDefinition:
    """A definition from JSON values. Raises Problem 422."""
    return validate(JobDefinition, data)


async def create(call: Call) -> web.StreamResponse:
    """201, or whatever refuses it; with `start` the job is queued already."""
    query, given = cast("CreateQuery", call.query), mapping(call.body)
    if query.start:
        # Before anything is stored: a refused start would leave a job behind that nobody was told of.
        await call.services.verbs.refuse_shared_path(call.account, str(given.get("name")), given)
    job = await call.services.jobs.create(call.account, actor(call), given)
    if query.start:
        job, _ = await call.services.verbs.act(call.account, actor(call), job, Event.START)
    return shown(call, job, 201, Location=f"/v1/jobs/{job.id}")


async def replace(call: Call) -> web.StreamResponse:
    """201 for a new job, 200 for a new definition."""
    name, given = call.part("job"), mapping(call.body)
    if given.get("name", name) != name:
        message = f"name {given['name']!r} is not the name in the path, {name!r}"
        raise invalid("name_mismatch", "/name", message, "a name can not change; use the other path, or clone the job")
    given = {"name": name, **given}
    job = await call.services.store.get(call.account, name)
    if job is not None and job.name != name:
        raise invalid("name_mismatch", "/name", "PUT takes the job's name, not its id", f"use /v1/jobs/{job.name}")
    etag.refuse_existing(call.request, job)
    revision = etag.expected_revision(call.request, job)
    if job is None:
        made = await call.services.jobs.create(call.account, actor(call), given)
        return shown(call, made, 201, Location=f"/v1/jobs/{made.id}")
    position = cast("ReplaceQuery", call.query).position
    replaced = await call.services.jobs.replace(
        call.account, actor(call), job, given, if_revision=revision, position=position
    )
    return shown(call, replaced)


async def patch(call: Call) -> web.StreamResponse:
    """200: a merge patch, at once in force."""
    given = mapping(call.body)
    changed = await call.services.jobs.patch(
        call.account,
        actor(call),
        call.part("job"),
        given,
        condition=lambda job: etag.expected_revision(call.request, job),
    )
    await call.services.verbs.wake(changed.id)
    return shown(call, changed)


async def check(call: Call) -> web.StreamResponse:
    """200 with findings, also when one of them is an error."""
    return answer(outlook.validation(await call.services.jobs.validate(call.account, mapping(call.body))))


async def preview(call: Call) -> web.StreamResponse:
    """200 with the first rows as the sink would get them."""
    query, given = cast("PreviewQuery", call.query), mapping(call.body)
    seen = await call.services.jobs.preview(call.account, given, query.limit)
    return answer(outlook.preview(seen, mapping(given.get("format") or {}).get("kind", "json")))


async def listed(call: Call) -> web.StreamResponse:
    """A page."""
    query = cast("JobsQuery", call.query)
    page, after = await paging.asked(
        call.services.store.list(call.account, query.filters(), sort=query.sort, limit=query.limit, after=query.after)
    )
    jobs = [present.job(job, call.caller.role) for job in page]
    return answer(JobsAnswer(jobs=jobs, next=paging.following(call.request, after)))


async def one(call: Call) -> web.StreamResponse:
    """200, or 304 for who has it already."""
    job = await call.services.jobs.find(call.account, call.part("job"))
    if etag.not_modified(call.request, job):
        return web.Response(status=304, headers={"ETag": etag.of(job)})
    return shown(call, job)


async def remove(call: Call) -> web.StreamResponse:
    """204 when it is gone, 202 with the job when its abort takes longer."""
    job = await call.services.jobs.find(call.account, call.part("job"))
    query = cast("RemoveQuery", call.query)
    left = await call.services.verbs.remove(call.account, actor(call), job, force=query.force)
    return shown(call, left, 202) if left is not None else web.Response(status=204)


async def clone(call: Call) -> web.StreamResponse:
    """201: definition and secrets under another name, no position."""
    request = validate(CloneRequest, call.body)
    made = await call.services.jobs.clone(call.account, actor(call), call.part("job"), request.name)
    return shown(call, made, 201, Location=f"/v1/jobs/{made.id}")


ROUTES = (
    Route("POST", "/v1/jobs", Role.ADMIN, create, "Create a job", {201: JobAnswer}, CreateQuery, JobDefinition),
    Route(
        "POST", "/v1/jobs:validate", Role.ADMIN, check, "Look at a definition, change nothing",
        {200: JobValidationAnswer}, body=JobDefinition,
    ),
    Route(
        "POST", "/v1/jobs:preview", Role.ADMIN, preview, "The first rows as the sink would get them",
        {200: PreviewAnswer}, PreviewQuery, JobDefinition,
    ),
    Route("GET", "/v1/jobs", Role.VIEWER, listed, "List jobs", {200: JobsAnswer}, JobsQuery),
    Route("GET", "/v1/jobs/{job}", Role.VIEWER, one, "One job", {200: JobAnswer, 304: None}),
    Route(
        "PUT", "/v1/jobs/{job}", Role.ADMIN, replace, "Create a job under this name, or replace its definition",
        {200: JobAnswer, 201: JobAnswer}, ReplaceQuery, JobDefinition,
    ),
    Route(
        "PATCH", "/v1/jobs/{job}", Role.OPERATOR, patch, "Change what may change in any state",
        {200: JobAnswer}, body=JobPatch,
    ),
    Route(
        "DELETE", "/v1/jobs/{job}", Role.ADMIN, remove, "Remove a job", {204: None, 202: JobAnswer}, RemoveQuery
    ),
    Route(
        "POST", "/v1/jobs/{job}:clone", Role.ADMIN, clone, "A new job with the same definition and secrets",
        {201: JobAnswer}, body=CloneRequest,
    ),
)  # fmt: skip
