"""An ingest pipeline of the job's own: made of the definition before the first document of a generation, removed with
the job.

Its name is the job's, so that another definition replaces it and nothing is left behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sinks.base import SinkRefused
from sinks.elasticsearch_client import path
from sinks.elasticsearch_index import short_id

if TYPE_CHECKING:
    from sinks.elasticsearch_client import Client
    from sinks.specs import ElasticsearchSinkSpec


def with_own_pipeline(spec: ElasticsearchSinkSpec, job_id: str) -> ElasticsearchSinkSpec:
    """The definition, its documents sent through the job's own pipeline where it has one."""
    if spec.pipeline_definition is None:
        return spec
    return spec.model_copy(update={"pipeline": f"rowferry-{short_id(job_id)}"})


async def put_own_pipeline(client: Client, spec: ElasticsearchSinkSpec) -> None:
    """Make it, or make it anew. Raises SinkRefused `pipeline_refused`."""
    if spec.pipeline_definition is not None and spec.pipeline is not None:
        at = path("_ingest", "pipeline", spec.pipeline)
        await _told(client, "PUT", at, dict(spec.pipeline_definition), f"making pipeline {spec.pipeline!r}")


async def try_own_pipeline(client: Client, spec: ElasticsearchSinkSpec) -> None:
    """Whether the server takes the definition; nothing is kept. Raises SinkRefused `pipeline_refused`."""
    sample = {"pipeline": dict(spec.pipeline_definition or {}), "docs": [{"_index": spec.index, "_source": {}}]}
    try:
        await _told(client, "POST", path("_ingest", "pipeline", "_simulate"), sample, "trying the pipeline")
    except SinkRefused as error:
        if error.code != "right_missing":
            raise


async def remove_own_pipeline(client: Client, spec: ElasticsearchSinkSpec) -> None:
    """Repeatable."""
    if spec.pipeline_definition is not None and spec.pipeline is not None:
        at = path("_ingest", "pipeline", spec.pipeline)
        await client.call("DELETE", at, f"removing pipeline {spec.pipeline!r}", accept=(404,))


async def _told(client: Client, method: str, at: str, body: dict[str, Any], doing: str) -> None:
    answer = await client.call(method, at, doing, body=body, accept=(400,))
    if answer.status == 400:
        raise SinkRefused(
            "pipeline_refused",
            f"{doing} of sink.pipeline_definition was refused: {answer.told.type}: {answer.told.reason}. Correct it.",
        )
