"""What a job remembers of the request that made it, as labels: `/v1` shows it too, and it needs no table of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from service.domain.records import Job

_TYPE: Final = "devo.type"
_QUERY: Final = "devo.query"
_TABLE: Final = "devo.table"
_CID: Final = "devo.cid"
_FILES: Final = "devo.files"


def remember(*, kind: str, query: str, table: str, cid: str, files: str | None = None) -> dict[str, str]:
    """The labels of a new job. `files` is what stands before the name of each of its files, as the caller knows it."""
    labels = {_TYPE: kind, _QUERY: query, _TABLE: table, _CID: cid}
    return labels if files is None else {**labels, _FILES: files}


def kind(job: Job) -> str:
    """The destination's type; of a job that was made elsewhere the sink's."""
    return job.labels.get(_TYPE) or str(_part(job, "sink").get("kind", ""))


def query(job: Job) -> str:
    """The query as given; of a job that was made elsewhere its source as text."""
    source = _part(job, "source")
    return job.labels.get(_QUERY) or str(source.get("query") or source.get("template") or source.get("table") or "")


def table(job: Job) -> str:
    """The table's public name; of a job that was made elsewhere the table itself."""
    return job.labels.get(_TABLE) or str(_part(job, "source").get("table") or "")


def cid(job: Job) -> str:
    """Of the request that made it; empty for a job that was made elsewhere."""
    return job.labels.get(_CID, "")


def files(job: Job) -> str | None:
    """What stands before the name of each file; None where a job leaves none, or was made elsewhere."""
    return job.labels.get(_FILES)


def _part(job: Job, name: str) -> Mapping[str, object]:
    part = job.spec.get(name)
    return part if isinstance(part, dict) else {}
