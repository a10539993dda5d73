"""/v1/jobs/{job}/verify: source and sink compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from service.api import present
from service.api.answers.base import Answer, Identity, KeyText, Moment, key_text
from service.api.answers.jobs import CauseAnswer
from service.api.models import VerifyRequest
from service.api.native.history import id_of_job
from service.api.native.jobs import actor
from service.api.routes import Role, Route, answer
from service.api.validation import validate
from service.domain.errors import NotFound
from service.domain.verification import DifferenceKind

if TYPE_CHECKING:
    from aiohttp import web

    from service.api.routes import Call
    from service.domain.verification import Difference, SplitCounts, Verification


class VerifiedSplitAnswer(Answer):
    """One split on both sides. `rows_recorded` is what the job counted when it delivered them."""

    ordinal: int
    lower: KeyText
    upper: KeyText
    last_id: KeyText
    chunks: int
    rows_recorded: int
    rows_source: int
    rows_sink: int
    rows_dead: int


class DifferenceAnswer(Answer):
    """One place where both sides differ; `count` rows are meant by it."""

    kind: DifferenceKind
    split: int
    sequence: int | None
    key: KeyText
    target: str | None
    expected: object
    found: object
    note: str
    count: int


class VerificationAnswer(Answer):
    """A verification and what it found so far."""

    id: Identity
    job_id: Identity
    job_name: str
    generation: int
    run_id: Identity | None
    checksums: bool
    state: str = Field(description="queued, running, successful, error or aborted")
    created_at: Moment
    started_at: Moment | None
    ended_at: Moment | None
    progress: float | None = Field(description="0 to 1, by rows; null where none was delivered")
    chunks_done: int
    chunks_total: int
    rows_done: int
    rows_total: int
    missing: int
    doubled: int
    foreign: int
    checksum: int
    gone: int
    not_verifiable: int
    source_changed: int
    splits: list[VerifiedSplitAnswer]
    differences: list[DifferenceAnswer] = Field(description="the first hundred of each kind")
    notes: list[str]
    waiting_for: str | None
    retrying: dict[str, object] | None
    errors: list[CauseAnswer]


async def verify(call: Call) -> web.StreamResponse:
    """202 with the verification, or whatever refuses it."""
    request = validate(VerifyRequest, call.body)
    job = await call.services.jobs.find(call.account, call.part("job"))
    made = await call.services.store.verify(
        call.account, actor(call), job.id, run_id=request.run_id, checksums=request.checksums
    )
    await call.services.verbs.wake(job.id)
    return answer(_shown(made), 202, {"Location": f"/v1/jobs/{job.id}/verify/{made.id}"})


async def read(call: Call) -> web.StreamResponse:
    """How far it is and what it found; also when the job is removed."""
    ref = call.part("id")
    found = await call.services.store.verification(call.account, await id_of_job(call), ref)
    if found is None:
        raise NotFound("verification", ref)
    return answer(_shown(found))


async def abort(call: Call) -> web.StreamResponse:
    """202 when it was ended, 200 when it had ended before; what was found so far stays."""
    job = await call.services.jobs.find(call.account, call.part("job"))
    after, moved = await call.services.store.abort_verification(call.account, actor(call), job.id, call.part("id"))
    await call.services.verbs.wake(job.id)
    return answer(_shown(after), 202 if moved else 200)


def _shown(record: Verification) -> VerificationAnswer:
    found, condition = record.findings, record.condition
    return VerificationAnswer(
        id=record.id,
        job_id=record.job_id,
        job_name=record.job_name,
        generation=record.generation,
        run_id=record.run_id,
        checksums=record.checksums,
        state=record.state.value,
        created_at=record.created_at,
        started_at=record.started_at,
        ended_at=record.ended_at,
        progress=round(min(1.0, record.rows_done / record.rows_total), 4) if record.rows_total else None,
        chunks_done=record.chunks_done,
        chunks_total=record.chunks_total,
        rows_done=record.rows_done,
        rows_total=record.rows_total,
        **{kind.value: found.counts[kind] for kind in DifferenceKind},
        splits=[_split(one) for one in found.splits.values()],
        differences=[_difference(one) for one in found.differences],
        notes=list(found.notes),
        waiting_for=condition.waiting_for if condition is not None else None,
        retrying=present.scrubbed(condition.retrying) if condition is not None else None,
        errors=present.causes(record.errors),
    )


def _split(one: SplitCounts) -> VerifiedSplitAnswer:
    return VerifiedSplitAnswer(
        ordinal=one.ordinal,
        lower=key_text(one.lower),
        upper=key_text(one.upper),
        last_id=key_text(one.last_id),
        chunks=one.chunks,
        rows_recorded=one.rows_recorded,
        rows_source=one.rows_source,
        rows_sink=one.rows_sink,
        rows_dead=one.rows_dead,
    )


def _difference(one: Difference) -> DifferenceAnswer:
    return DifferenceAnswer(
        kind=one.kind,
        split=one.split,
        sequence=one.sequence,
        key=key_text(one.key),
        target=one.target,
        expected=one.expected,
        found=one.found,
        note=one.note,
        count=one.count,
    )


_ENDED = {200: VerificationAnswer, 202: VerificationAnswer}

ROUTES = (
    Route("POST", "/v1/jobs/{job}/verify", Role.OPERATOR, verify, "Compare source and sink",
          {202: VerificationAnswer}, body=VerifyRequest),
    Route("GET", "/v1/jobs/{job}/verify/{id}", Role.OPERATOR, read, "A verification", {200: VerificationAnswer}),
    Route("POST", "/v1/jobs/{job}/verify/{id}/abort", Role.OPERATOR, abort, "End a verification", _ENDED),
)  # fmt: skip
