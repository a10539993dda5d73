"""Entity tags: `"<spec revision>.<status revision>"` (native-api.md, ETag).

`If-None-Match` compares all of it: the representation. `If-Match` compares the part before the dot: what a caller is
about to overwrite is the definition, whatever has become of the run meanwhile.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from service.api.problems import Problem, invalid_parameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web

    from service.domain.records import Job

_TAG = re.compile(r'\s*(?:W/)?"([^"]*)"\s*(?:,|$)')


def of(job: Job) -> str:
    """The job's entity tag, quoted."""
    return f'"{job.spec_revision}.{job.status_revision}"'


def tags(request: web.Request, header: str) -> Sequence[str] | None:
    """What the header lists, `["*"]` for any; None without the header. Raises Problem 422 for anything else."""
    values = request.headers.getall(header, [])
    if not values:
        return None
    text = ",".join(values).strip()
    if text == "*":
        return ["*"]
    found, at = [], 0
    while at < len(text):
        match = _TAG.match(text, at)
        if match is None:
            raise invalid_parameter(header, f"{header} {text[:80]!r} is no list of entity tags", 'write "3.17" or *')
        found.append(match[1])
        at = match.end()
    return found


def not_modified(request: web.Request, job: Job) -> bool:
    """Whether the caller has this representation already."""
    listed = tags(request, "If-None-Match")
    return listed is not None and (listed == ["*"] or of(job).strip('"') in listed)


def expected_revision(request: web.Request, job: Job | None) -> int | None:
    """The spec revision that `If-Match` makes a condition of, None without the header. Raises Problem 412 when it is
    not the job's, or there is no job."""
    listed = tags(request, "If-Match")
    if listed is None:
        return None
    if job is not None and (listed == ["*"] or any(tag.partition(".")[0] == str(job.spec_revision) for tag in listed)):
        return job.spec_revision
    present = f"its entity tag is {of(job)}" if job is not None else "there is no such job"
    raise Problem(412, "revision_changed", f"If-Match {','.join(listed)[:80]!r} does not fit: {present}; read it again")


def refuse_existing(request: web.Request, job: Job | None) -> None:
    """`If-None-Match: *` on a write: create only. Raises Problem 412."""
    listed = tags(request, "If-None-Match")
    if listed is not None and listed != ["*"]:
        raise invalid_parameter("If-None-Match", "If-None-Match of a write takes only *, for create only", "write *")
    if listed is not None and job is not None:
        raise Problem(
            412, "precondition_failed", f"the job {job.name!r} exists, and If-None-Match: * asks for a new one"
        )
