"""Configurations of the Siren dialect: each is a job, defined, started and removed as those of `/v1` are."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from service import secret_fields
from service.api.dialects import siren_answers as answers
from service.api.dialects import siren_definition as definitions
from service.api.dialects import siren_request as requests
from service.api.dialects import siren_status
from service.api.dialects.siren_ingest import Body
from service.api.native.jobs import actor
from service.api.problems import Problem
from service.api.validation import validate
from service.domain.errors import Conflict, Permanent, Transient
from service.domain.states import LIVE, Event
from service.lifecycle.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from aiohttp import web

    from service.api.routes import Call
    from service.domain.inspection import Finding
    from service.domain.records import Job

TRIGGER: Final = "siren"
PAGE: Final = 500
_COMMIT: Final = {"kind": "commit"}
_TOLD: Final = frozenset({"guarantee"})
"""What is no warning of ours, and one to who asks whether a configuration will do."""


async def put(call: Call) -> web.StreamResponse:
    """201 for a new configuration, 200 for another one; 409 while it runs."""
    name = requests.new_name(call)
    requests.parameters(call)
    with _in_their_words(call):
        given = await _definition(call, name)
        job = await call.services.store.get(call.account, name)
        if job is None:
            await call.services.jobs.create(call.account, actor(call), given)
            return answers.answer(call.request, {"_id": name, "result": "created"}, 201)
        if job.state in LIVE:
            raise _running(job)
        await _replace(call, job, given)
    return answers.answer(call.request, {"_id": name, "result": "updated"})


async def get(call: Call) -> web.StreamResponse:
    """The configuration, passwords left out; 404 `found: false`."""
    requests.parameters(call)
    return answers.answer(call.request, _document(call, await _found(call), found=True))


async def delete(call: Call) -> web.StreamResponse:
    """Gone at once, its log stays; 409 while it runs."""
    requests.parameters(call)
    job = await _found(call)
    if job.state in LIVE:
        raise _running(job)
    await call.services.verbs.remove(call.account, actor(call), job, force=False)
    return answers.answer(call.request, {"_id": job.name, "result": "deleted"})


async def search(call: Call) -> web.StreamResponse:
    """Configurations, oldest first, those of jobs that were made elsewhere too, with the exact number of all."""
    skip, size = requests.window(
        requests.searched(call, requests.WINDOW), None, "GET /v1/jobs lists any number of them"
    )
    hits: list[dict[str, Any]] = []
    total = 0
    after: str | None = None
    while True:
        page, after = await call.services.store.list(call.account, {}, sort="created_at", limit=PAGE, after=after)
        hits += [_document(call, job) for job in page[max(0, skip - total) : max(0, skip + size - total)]]
        total += len(page)
        if after is None:
            return answers.answer(call.request, {"hits": {"total": total, "hits": hits}})


async def run(call: Call) -> web.StreamResponse:
    """Start a run now: what `GET …/jobs/ingestion/<id>` answers. 409 while one runs."""
    requests.parameters(call)
    requests.no_body(call)
    job = await _found(call)
    if job.state in LIVE:
        raise _running(job)
    started, there = await call.services.verbs.act(call.account, actor(call), job, Event.START, trigger=TRIGGER)
    if there:  # somebody else's came between
        raise _running(started)
    return answers.answer(call.request, siren_status.envelope(started.name, started.run))


async def check(call: Call) -> web.StreamResponse:
    """Whether the configuration, or the one in the body, will do. Connects to both sides, changes nothing."""
    requests.parameters(call)
    with _in_their_words(call):
        if requests.body(call):
            name = requests.new_name(call)
            given = await _definition(call, name)
        else:
            job = await _found(call)
            name, given = job.name, secret_fields.mask(job.spec, job.secret_pointers)
        findings = (await call.services.jobs.validate(call.account, given)).findings
        if errors := [one for one in findings if one.severity == "error"]:
            raise Refused(errors)
    warnings = [
        definitions.spoken(one.whole) for one in map(_Said, findings) if one.severity == "warning" or one.code in _TOLD
    ]
    found: dict[str, Any] = {"_id": name, "valid": True, "warnings": warnings}
    if rendered := next((one.message for one in findings if one.code == "query_rendered"), None):
        found["query"] = rendered
    return answers.answer(call.request, found)


class _Said:
    """A finding in one text."""

    def __init__(self, finding: Finding) -> None:
        self.severity, self.code = finding.severity, finding.code
        self.whole = f"{finding.message} ({finding.hint})" if finding.hint else finding.message


async def _definition(call: Call, name: str) -> dict[str, Any]:
    """The native definition that the body asks for. Raises Failure, Problem, Refused."""
    body = requests.body(call)
    ingest = validate(Body, body).ingest
    given = definitions.definition(name, body["ingest"], ingest, call.services.settings)
    return await _with_safety(call, given) if definitions.chooses_safety(given) else given


async def _with_safety(call: Call, given: dict[str, Any]) -> dict[str, Any]:
    """Late rows are waited for by their commits where the source proves that this can be done, and by the clock where
    it does not, or can not be asked now."""
    asked = definitions.with_safety(given, _COMMIT)
    try:
        findings: Sequence[Finding] = (await call.services.jobs.validate(call.account, asked)).findings
    except (Permanent, Transient):
        findings = ()
        proven = False
    else:
        proven = not any(
            one.severity == "error" and one.pointer.startswith(("/source", "/options/safety")) for one in findings
        )
    if proven:
        return asked
    delay = call.services.settings.dialect_delay_seconds
    return definitions.with_safety(given, {"kind": "delay", "delay_seconds": delay})


async def _replace(call: Call, job: Job, given: Mapping[str, Any]) -> None:
    """Another definition under the same name. What was delivered stays known where it still means the same."""
    try:
        await call.services.jobs.replace(call.account, actor(call), job, given, if_revision=None, position=None)
    except Conflict as error:
        if error.code != "position_incompatible":
            raise
        position = definitions.moves_position(job.spec, given)
        await call.services.jobs.replace(call.account, actor(call), job, given, if_revision=None, position=position)


async def _found(call: Call) -> Job:
    name = requests.name(call)
    job = await call.services.store.get(call.account, name)
    if job is None:
        raise requests.missing(name)
    return job


def _document(call: Call, job: Job, **more: Any) -> dict[str, Any]:
    return {"_id": job.name, **more, "_source": {"ingest": definitions.shown(job, call.services.settings)}}


def _running(job: Job) -> answers.Failure:
    said = f"ingestion [{job.name}] is running; wait for its end, or abort it"
    return answers.Failure(409, "status_exception", said)


@contextmanager
def _in_their_words(call: Call) -> Iterator[None]:
    """What is wrong with a definition names the fields of the configuration."""
    try:
        yield
    except (Refused, Problem, Permanent, Transient, Conflict, secret_fields.SecretRefused) as error:
        failure = answers.of(error, call.request)
        if failure is None:
            raise
        failure.reason = definitions.spoken(failure.reason)
        raise failure from None
