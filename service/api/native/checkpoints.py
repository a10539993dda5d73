"""/v1/jobs/{job}/checkpoint: where the next run begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.api import etag, present
from service.api.answers.base import key_text
from service.api.answers.jobs import CheckpointAnswer, RangeAnswer
from service.api.models import CheckpointRequest
from service.api.native.jobs import actor
from service.api.problems import invalid
from service.api.routes import Role, Route, answer
from service.api.validation import validate
from service.domain.steps import OpenRange

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web

    from service.api.routes import Call
    from service.domain.records import Job, Key


async def read(call: Call) -> web.StreamResponse:
    """The position of the current generation."""
    job = await call.services.jobs.find(call.account, call.part("job"))
    return answer(_shown(job), headers={"ETag": etag.of(job)})


async def put(call: Call) -> web.StreamResponse:
    """A new generation from these keys on."""
    request = validate(CheckpointRequest, call.body)
    job = await call.services.jobs.find(call.account, call.part("job"))
    after, repeats = await call.services.checkpoints.put(
        call.account,
        actor(call),
        job,
        seen_generation=request.generation,
        ranges=_ranges(request),
        allow_repeats=request.allow_repeats,
    )
    return answer(_shown(after, repeats), headers={"ETag": etag.of(after)})


def _shown(job: Job, repeats: Sequence[OpenRange] | None = None) -> CheckpointAnswer:
    again = None
    if repeats is not None:
        again = [RangeAnswer(lower=key_text(one.lower), upper=key_text(one.upper)) for one in repeats]
    return CheckpointAnswer(
        generation=job.generation, last_id=key_text(job.last_id), splits=present.splits(job.splits), repeats=again
    )


def _ranges(request: CheckpointRequest) -> list[OpenRange]:
    """What is left to deliver."""
    if request.splits is None:
        return [OpenRange(_key(request.last_id, "/last_id"), None)]
    ranges = []
    for place, split in enumerate(request.splits):
        if split.done:
            continue
        at = f"/splits/{place}"
        lower = split.last_id if split.last_id is not None else split.lower
        ranges.append(OpenRange(_key(lower, f"{at}/last_id"), _key(split.upper, f"{at}/upper")))
    endless = [place for place, one in enumerate(ranges) if one.upper is None]
    if endless and endless[0] != len(ranges) - 1:
        raise invalid(
            "ranges_overlap", "/splits", "only the last split may be without an upper bound", "give each an upper bound"
        )
    if not ranges:
        raise invalid("nothing_left", "/splits", "every split is done: nothing would be left", "leave one open")
    return ranges


def _key(text: str | list[str] | None, pointer: str) -> Key | None:
    if text is None:
        return None
    if isinstance(text, str):
        return (text,)
    if not text:
        raise invalid("key_invalid", pointer, "the key is an empty list", "give a text for each key column, or null")
    return tuple(text)


ROUTES = (
    Route("GET", "/v1/jobs/{job}/checkpoint", Role.VIEWER, read, "The position", {200: CheckpointAnswer}),
    Route("PUT", "/v1/jobs/{job}/checkpoint", Role.ADMIN, put, "Move the position, in a new generation",
          {200: CheckpointAnswer}, body=CheckpointRequest),
)  # fmt: skip
