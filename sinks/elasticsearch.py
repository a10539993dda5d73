"""The Elasticsearch and OpenSearch sink: a row is a document whose `_id` is the row's key.

Promise: idempotent. A chunk is sent by `_bulk` with one external version, drawn from one sequence of the store when it
is prepared. Sending it again puts the same documents; whoever sends a chunk that was prepared earlier loses against
what is there. So a chunk whose outcome is not known is read and sent again, and nothing doubles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sinks.base import (
    Finding,
    Guarantee,
    PositionConflict,
    Promise,
    Receipt,
    Shows,
    SinkError,
    SinkRefused,
)
from sinks.elasticsearch_client import WORK_SECONDS, Client, names_of, path
from sinks.elasticsearch_errors import index_missing, index_recreated, pipeline_missing
from sinks.elasticsearch_index import (
    create,
    generation_index,
    own_generation,
    remove_others,
    take_over,
    written,
)
from sinks.elasticsearch_pipeline import put_own_pipeline, remove_own_pipeline, try_own_pipeline, with_own_pipeline
from sinks.elasticsearch_reader import ElasticsearchReader
from sinks.elasticsearch_writer import ElasticsearchWriter, writable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from sinks.base import Owner, Prepared
    from sinks.guarded import Guard
    from sinks.reading import Wanted
    from sinks.specs import ElasticsearchSinkSpec

_POINTERS: Final = {
    **dict.fromkeys(("sink_unreachable", "tls_failed", "destination_refused"), "/sink/url"),
    **dict.fromkeys(("index_closed", "index_read_only", "index_missing", "index_recreated"), "/sink/index"),
    **dict.fromkeys(("index_ambiguous", "data_stream_not_supported", "alias_taken"), "/sink/index"),
    "mapping_refused": "/sink/mapping",
    "certificate_refused": "/sink/ca",
    "pipeline_missing": "/sink/pipeline",
    "pipeline_refused": "/sink/pipeline_definition",
}


class ElasticsearchSink:
    """
    An index as one job's definition describes it, secrets resolved. Promises of the methods: `sinks.base.Sink`.

    `guard` is awaited with host and port before any connection. `target` is what `prepare_target` said when the
    generation began; without it the first index seen counts. `job_id` and `generation` name the index that
    `prepare_target` makes with strategy `replace`.
    """

    kind = "elasticsearch"
    shows = Shows.NOTHING
    needs_anchor = False
    settles_with_prepare = False
    upserts = True

    def __init__(
        self,
        spec: ElasticsearchSinkSpec,
        *,
        guard: Guard | None = None,
        target: Mapping[str, object] | None = None,
        key: tuple[str, ...] = (),
        job_id: str = "",
        generation: int = 0,
    ) -> None:
        """`key`: the source's, in which `spec.id` has its places."""
        self._spec, self._guard = with_own_pipeline(spec, job_id), guard
        self._id = tuple(key.index(name) for name in spec.id or () if name in key)
        self._job_id, self._generation = job_id, generation
        self._index: object = (target or {}).get("index")
        uuid = (target or {}).get("index_uuid")
        self._uuid = str(uuid) if uuid else None

    def promise(self) -> Promise:
        """Idempotent, whatever the strategy."""
        note = "a document is put under its row's key with a version; sent again it replaces itself, sent late it loses"
        if self._spec.strategy == "replace":
            note += "; readers of the alias see a generation when all of it is there"
        return Promise(Guarantee.IDEMPOTENT, note)

    async def check(self) -> list[Finding]:
        """Reachability, credentials, index, alias, blocks and pipeline."""
        findings: list[Finding] = []
        if self._spec.url.startswith("http:") and (self._spec.api_key or self._spec.username):
            message = "sink.url has http://, so the credentials cross the network unencrypted"
            findings.append(Finding("/sink/url", "warning", "password_in_clear", message, "use https://"))
        client = self._client()
        try:
            await self._check_pipeline(client)
            found = await written(client, self._spec.index, "checking")
            if found is None:
                message = f"sink.index {self._spec.index!r} is not there; the run makes it"
                findings.append(Finding("/sink/index", "info", "index_will_be_created", message))
            elif self._spec.strategy == "replace" and not found[1]:
                message = f"sink.index {self._spec.index!r} is an index, and strategy replace needs an alias's name"
                hint = "choose another name, or move the documents and delete the index"
                findings.append(Finding("/sink/index", "error", "alias_taken", message, hint))
            elif self._spec.strategy == "incremental":
                found[0].refuse_unwritable(client, "checking")
        except SinkError as error:
            findings.append(Finding(self._pointer(error.code), "error", error.code, error.message))
        finally:
            await client.close()
        return findings

    def _pointer(self, code: str) -> str:
        """The field that a refusal is about."""
        if code == "authentication_failed":
            spec = self._spec
            return f"/sink/{'api_key' if spec.api_key else 'password' if spec.username else 'username'}"
        return _POINTERS.get(code, "/sink")

    async def prepare_target(self) -> Mapping[str, object]:
        """Make the index where it is missing, with the definition's mapping and settings; with strategy `replace` the
        generation's own. An index that is there is never changed."""
        client = self._client()
        try:
            await put_own_pipeline(client, self._spec)
            await self._check_pipeline(client)
            if self._spec.strategy == "replace":
                index = await own_generation(client, self._spec, self._job_id, self._generation)
                self._index = index.name
            else:
                if await written(client, self._spec.index, "looking at the index") is None:
                    if self._uuid is not None:
                        raise index_missing(client.names, "looking at the index")
                    await create(client, self._spec, self._spec.index, None)
                index = await writable(client, self._spec.index, self._uuid, "looking at the index")
            self._uuid = index.uuid if index.name == self._name_of(self._job_id, self._generation) else None
            chosen = {} if self._spec.staging_prefix is None or self._index is None else {"index": self._index}
            return {"index_uuid": self._uuid, **chosen}
        finally:
            await client.close()

    def writer(self, owner: Owner) -> ElasticsearchWriter:
        """A writer with connections of its own."""
        name = self._name_of(owner.job_id, owner.generation)
        return ElasticsearchWriter(self._client(name), self._spec, owner, name, self._uuid, self._id)

    def receipt(self, prepared: Prepared) -> Receipt:
        """The index says it all."""
        return Receipt(target=prepared.target)

    def reader(self, owner: Owner, wanted: Wanted) -> ElasticsearchReader:
        """A reader with connections of its own."""
        client = self._client(self._name_of(owner.job_id, owner.generation))
        return ElasticsearchReader(client, wanted, self._id, as_sent=self._spec.pipeline is None)

    async def finish(self, owner: Owner, chunks: AsyncIterator[Prepared]) -> None:
        """Every chunk went into the index that is there now. With strategy `replace`: refresh, see that no document is
        missing, and let the alias lead to it."""
        name = self._name_of(owner.job_id, owner.generation)
        client = self._client(name)
        try:
            found = await written(client, name, "finishing")
            if found is None:
                raise index_missing(client.names, "finishing")
            index, alias = found
            rows = 0
            async for chunk in chunks:
                rows += chunk.rows
                uuid = chunk.details.get("index_uuid")
                if chunk.target == name and not alias and isinstance(uuid, str) and index.uuid and uuid != index.uuid:
                    raise index_recreated(client.names, uuid, index.uuid)
            await self._refresh(client, name)
            if self._spec.strategy == "replace":
                await self._refuse_missing(client, name, rows)
                await take_over(client, self._spec, owner.job_id, name)
        finally:
            await client.close()

    async def clean_up(self, owners: Sequence[Owner]) -> None:
        """Remove the job's own pipeline, and the indices of generations that no reader ever saw (strategy `replace`).
        Documents that readers see stay."""
        if self._spec.strategy != "replace" and self._spec.pipeline_definition is None:
            return
        client = self._client()
        try:
            await remove_own_pipeline(client, self._spec)
            if self._spec.strategy != "replace":
                return
            for job_id in sorted({owner.job_id for owner in owners}):
                await remove_others(client, self._spec, job_id)
        finally:
            await client.close()

    async def close(self) -> None:
        """Nothing is held between calls."""

    async def _check_pipeline(self, client: Client) -> None:
        if self._spec.pipeline_definition is not None:
            await try_own_pipeline(client, self._spec)
            return
        if self._spec.pipeline is None:
            return
        doing = "looking for the pipeline"
        try:
            answer = await client.call("GET", path("_ingest", "pipeline", self._spec.pipeline), doing, accept=(404,))
        except SinkRefused as error:
            if error.code == "right_missing":  # reading pipelines is an administrator's right, using one is not
                return
            raise
        if answer.status == 404:
            raise pipeline_missing(client.names, doing)

    async def _refresh(self, client: Client, name: str) -> None:
        """So that a search finds what a successful run has delivered. Without the right to, it finds it a moment
        later."""
        try:
            await client.call("POST", path(name, "_refresh"), "refreshing", seconds=WORK_SECONDS)
        except SinkRefused as error:
            if error.code != "right_missing":
                raise

    async def _refuse_missing(self, client: Client, name: str, rows: int) -> None:
        answer = await client.call("GET", path(name, "_count"), "counting", seconds=WORK_SECONDS)
        count = int(answer.body.get("count", 0))
        # There may be more: of a row that was deleted in the source between two tries of its chunk. A pipeline may
        # drop documents.
        if count < rows and self._spec.pipeline is None:
            raise PositionConflict(
                "output_missing",
                f"index {name!r} has {count} documents, and {rows} rows were delivered; somebody deleted some, or two "
                "rows have one key. Start from the beginning.",
            )

    def _name_of(self, job_id: str, generation: int) -> str:
        if isinstance(self._index, str) and (job_id, generation) == (self._job_id, self._generation):
            return self._index
        return generation_index(self._spec, job_id, generation)

    def _client(self, index: str | None = None) -> Client:
        return Client(self._spec, self._guard, names_of(self._spec, index))
