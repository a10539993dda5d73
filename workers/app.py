"""Composition root of a worker: which source reads, which sinks write, and where both may connect to."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import ValidationError

from config.allocator import keep_least
from config.destinations import DestinationRefused
from config.references import ReferenceRefused, References
from service.domain.errors import Permanent, Transient
from service.domain.options import Options
from service.domain.shape import credentials_of
from service.domain.spec import SourceSpec
from sinks import registry
from sinks.base import SinkRefused, SinkUnavailable
from sinks.formats import columns
from workers import rendering
from workers.datasources import Datasources, NamedThings
from workers.definition_parts import key_of, put, section
from workers.limits import MemoryBudget, RateLimit
from workers.ports import Workplace
from workers.row_wishes import row_wishes
from workers.salts import salts_of
from workers.signals import NoSignals
from workers.sources.checks import check_datasource
from workers.sources.postgres import PostgresSource
from workers.sources.sample import first_rows
from workers.sources.snapshot import hold
from workers.sources.tables import list_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from config.destinations import Destinations
    from service.domain.datasource import Datasource
    from service.domain.inspection import Finding, Sample, TableInfo
    from service.domain.ports import StepStore
    from sinks.base import Sink
    from workers.signals import Signals
    from workers.sources.base import Snapshot, Source
    from workers.sources.budget import ConnectionBudget
    from workers.sources.cut import Cut


class StoredSources:
    """Makes Postgres sources of stored definitions."""

    def __init__(
        self,
        things: NamedThings,
        references: References,
        destinations: Destinations,
        connections: ConnectionBudget,
        learn_secret: Callable[[str], None],
    ) -> None:
        """`learn_secret` hears every password before it is used, so that no log line can hold it."""
        self._things, self._references, self._destinations = things, references, destinations
        self._connections, self._learn_secret = connections, learn_secret
        self.datasources = Datasources(things, references, learn_secret)

    async def source(
        self,
        account: str,
        spec: Mapping[str, object],
        target: Mapping[str, object] | None = None,
        *,
        name: str,
        origin: Mapping[str, object] | None = None,
        secrets: Mapping[str, str] | None = None,
        waiting: Callable[[bool], None] | None = None,
        cut: Cut | None = None,
    ) -> Source:
        """See `workers.ports.Sources`."""
        source = rendering.as_query(SourceSpec.model_validate(spec["source"]), target)
        datasource = await self.datasources.of(account, source, secrets or {})
        masked_with = credentials_of(source.columns)
        salts = await salts_of(masked_with, account, self._things, self._references, self._learn_secret)
        return PostgresSource(
            datasource,
            source,
            row_wishes(spec, target, salts=salts, origin=origin),
            mode=str(spec.get("mode", "once")),
            options=Options.model_validate(spec.get("options", {})),
            application_name=name,
            connections=self._connections,
            guard=self._guard,
            waiting=waiting,
            cut=cut,
        )

    async def snapshot(
        self,
        account: str,
        spec: Mapping[str, object],
        *,
        name: str,
        secrets: Mapping[str, str] | None = None,
        waiting: Callable[[bool], None] | None = None,
    ) -> Snapshot:
        """See `workers.ports.Sources`."""
        source = SourceSpec.model_validate(spec["source"])
        return await hold(
            await self.datasources.of(account, source, secrets or {}),
            what=source.table or "the query",
            seconds=Options.model_validate(spec.get("options", {})).snapshot_max_age_seconds,
            application_name=name,
            connections=self._connections,
            guard=self._guard,
            waiting=waiting,
        )

    async def check(self, datasource: Datasource) -> Sequence[Finding]:
        """See `workers.ports.Sources`."""
        return await check_datasource(datasource, connections=self._connections, guard=self._guard)

    async def tables(self, datasource: Datasource, *, limit: int, after: str | None) -> Sequence[TableInfo]:
        """See `workers.ports.Sources`."""
        return await list_tables(datasource, connections=self._connections, guard=self._guard, limit=limit, after=after)

    async def sample(self, datasource: Datasource, query: str, *, rows: int, characters: int) -> Sample:
        """See `workers.ports.Sources`."""
        return await first_rows(
            datasource, query, connections=self._connections, guard=self._guard, rows=rows, characters=characters
        )

    async def _guard(self, host: str, port: int) -> Sequence[str]:
        try:
            return await self._destinations.check("postgres", host, port)
        except DestinationRefused as error:
            raise Permanent(error.code, error.message) from None
        except OSError as error:
            raise Transient("source_unreachable", f"{host} can not be resolved: {error.strerror or error}") from error


class StoredSinks:
    """Makes sinks of stored definitions, secrets and credentials put in."""

    def __init__(
        self,
        things: NamedThings,
        references: References,
        destinations: Destinations,
        data_dir: Path,
        learn_secret: Callable[[str], None],
        *,
        ambient_s3_buckets: frozenset[str] = frozenset(),
    ) -> None:
        """File jobs of an account write below `data_dir/files/<account>`. The host's own AWS credentials may be used
        for `ambient_s3_buckets` only."""
        self._ambient_s3_buckets = ambient_s3_buckets
        self._things, self._references, self._destinations = things, references, destinations
        self._data_dir, self._learn_secret = data_dir, learn_secret

    async def sink(
        self,
        account: str,
        spec: Mapping[str, object],
        secrets: Mapping[str, str],
        target: Mapping[str, object] | None = None,
        *,
        job_id: str = "",
        generation: int = 0,
    ) -> Sink:
        """See `workers.ports.Sinks`."""
        definition = copy.deepcopy(dict(spec))
        sink = section(definition, "sink")
        for pointer, value in secrets.items():
            if pointer.startswith("/sink/"):
                put(definition, pointer, value)
                self._learn_secret(value)
        if name := sink.get("credential"):
            await self._add_credential(account, str(name), sink)
        try:
            parsed = registry.parse(sink, section(definition, "format"))
            if parsed.format.kind == "parquet":
                keep_least()
            context = replace(self._context(account, parsed.sink.kind, target), key=key_of(definition))
            return registry.build(parsed, replace(context, job_id=job_id, generation=generation))
        except registry.DefinitionRefused as error:
            raise Permanent(error.code, error.message) from None
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise Permanent("definition_refused", f"sink.{where}: {first['msg']}") from None

    def _context(self, account: str, kind: str, target: Mapping[str, object] | None) -> registry.Context:
        async def guard(host: str, port: int) -> Sequence[str]:
            try:
                return await self._destinations.check(kind, host, port)
            except DestinationRefused as error:
                raise SinkRefused(error.code, error.message) from None
            except OSError as error:
                text = f"{host} can not be resolved: {error.strerror or error}"
                raise SinkUnavailable("sink_unreachable", text) from error

        return registry.Context(
            files=self._data_dir / "files" / account,
            guard=guard,
            target=target or {},
            columns=columns.from_json((target or {}).get(registry.COLUMNS)),
            ambient_s3_buckets=self._ambient_s3_buckets,
        )

    async def _add_credential(self, account: str, name: str, sink: dict[str, Any]) -> None:
        """A credential's fields stand beside the sink's own: for Kafka in its `security`."""
        stored = await self._things.credential(account, name)
        if stored is None:
            raise Permanent(
                "credential_unknown",
                f"sink.credential {name!r} does not exist; create it with PUT /v1/credentials/{name}",
            )
        place = sink.setdefault("security", {}) if sink.get("kind") == "kafka" else sink
        for field, value in stored.secrets.items():
            try:
                place[field] = self._references.resolve(value)
            except ReferenceRefused as error:
                raise Permanent(error.code, f"credential {name!r}, field {field!r}: {error.message}") from None
            self._learn_secret(place[field])


def workplace(
    store: StepStore,
    sources: StoredSources,
    sinks: StoredSinks,
    *,
    memory_bytes: int,
    signals: Signals | None = None,
) -> Workplace:
    """What the steps of this process share."""
    rates: dict[str, RateLimit] = {}
    return Workplace(
        store=store,
        sources=sources,
        sinks=sinks,
        signals=signals or NoSignals(),
        memory=MemoryBudget(memory_bytes),
        rate=lambda job_id: rates.setdefault(job_id, RateLimit()),
    )
