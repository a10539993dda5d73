"""Looks at sources and sinks for the HTTP side: findings, previews, and keys compared by Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from service.domain.errors import Permanent, RowferryError, Transient
from service.domain.inspection import Finding, Outlook, Preview, RowsPage, SourceShape
from service.domain.spec import JobSpec
from service.domain.steps import OpenRange
from sinks import registry
from sinks.base import SinkError
from workers import template_checks
from workers.guarantees import FOLLOWING, guaranteed
from workers.outlook import before_the_first_row
from workers.retrying import from_sink
from workers.rows import first_rows, rows
from workers.shape_checks import check_shape
from workers.sources.sql import SqlError, parse_expression, parse_name, parse_query

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence

    from service.domain.datasource import Datasource
    from service.domain.inspection import Sample, TableInfo
    from workers.ports import Sinks, Sources
    from workers.sources.base import Facts, Inspection, Source

LIMIT_SECONDS = 15.0
T = TypeVar("T")


class DefinitionInspector:
    """Implements `service.domain.inspection.Inspector` on the worker's own sources and sinks."""

    def __init__(self, sources: Sources, sinks: Sinks) -> None:
        """Nothing is kept open between calls."""
        self._sources, self._sinks = sources, sinks

    def check(self, spec: Mapping[str, object]) -> Sequence[Finding]:
        """See the port."""
        shape = check_shape(JobSpec.model_validate(spec))
        return [*_check_sql(spec), *_check_sink(spec), *_check_mode(spec), *shape]

    def promise(self, spec: Mapping[str, object]) -> tuple[str, str]:
        """See the port."""
        return self._promise(spec, None)

    @staticmethod
    def _promise(spec: Mapping[str, object], facts: Facts | None) -> tuple[str, str]:
        promise = registry.build(_parsed(spec), registry.Context(files=Path())).promise()
        return guaranteed(spec, promise, facts)

    async def validate(self, account: str, spec: Mapping[str, object], secrets: Mapping[str, str]) -> Outlook:
        """See the port."""
        found = list(await asyncio.to_thread(self.check, spec))
        if any(finding.severity == "error" for finding in found):
            return Outlook(found)
        seen: list[Outlook] = []
        source, sink = await asyncio.gather(
            self._look("/source", self._source_findings(account, spec, secrets, seen)),
            self._look("/sink", self._sink_findings(account, spec, secrets)),
        )
        outlook = seen[0] if seen else Outlook((), *self.promise(spec))
        return replace(outlook, findings=[*found, *source, *sink])

    async def preview(
        self,
        account: str,
        spec: Mapping[str, object],
        secrets: Mapping[str, str],
        *,
        limit: int,
    ) -> Preview:
        """See the port."""

        async def read() -> Preview:
            # Parquet is not for the eye: its values are shown as JSON.
            readable = {**spec, "format": {}} if _parsed(spec).format.kind == "parquet" else spec
            async with self._source(account, readable, secrets) as source:
                inspection = await source.inspect()
                _refuse_errors(inspection)
                seen = await before_the_first_row(partial(self._promise, spec), _parsed(spec), source, inspection)
                found = await asyncio.to_thread(self.check, spec)
                outlook = replace(seen, findings=[*found, *seen.findings, *_of_now(spec)])
                reader = source.reader()
                try:
                    return Preview(await first_rows(reader, limit), outlook)
                finally:
                    await reader.close()

        return await _in_time(read())

    async def rows(self, account: str, spec: Mapping[str, object]) -> AsyncGenerator[RowsPage, None]:
        """See the port."""
        async with self._source(account, spec) as source, aclosing(rows(source, JobSpec.model_validate(spec))) as pages:
            async for page in pages:
                yield page

    async def describe(self, account: str, spec: Mapping[str, object]) -> SourceShape:
        """See the port."""

        async def look() -> SourceShape:
            async with self._source(account, spec) as source:
                inspection = await source.inspect()
            _refuse_errors(inspection)
            return SourceShape(inspection.all_columns, tuple(part.name for part in inspection.key))

        return await _in_time(look())

    async def check_ranges(
        self,
        account: str,
        spec: Mapping[str, object],
        secrets: Mapping[str, str],
        ranges: Sequence[OpenRange],
    ) -> None:
        """See the port."""

        async def compare() -> None:
            async with self._source(account, spec, secrets) as source:
                await source.check_keys([key for one in ranges for key in (one.lower, one.upper) if key is not None])

        await _in_time(compare())

    async def repeats(
        self,
        account: str,
        spec: Mapping[str, object],
        secrets: Mapping[str, str],
        *,
        delivered: Sequence[OpenRange],
        ranges: Sequence[OpenRange],
    ) -> Sequence[OpenRange]:
        """See the port."""

        async def overlaps() -> list[OpenRange]:
            async with self._source(account, spec, secrets) as source:
                found = [await _overlap(source, one, other) for one in delivered for other in ranges]
            return [overlap for overlap in found if overlap is not None]

        return await _in_time(overlaps())

    async def check_datasource(self, datasource: Datasource) -> Sequence[Finding]:
        """See the port."""
        return await self._look("", self._sources.check(datasource))

    async def tables(self, datasource: Datasource, *, limit: int, after: str | None) -> Sequence[TableInfo]:
        """See the port."""
        return await _in_time(self._sources.tables(datasource, limit=limit, after=after))

    async def sample(self, datasource: Datasource, query: str, *, rows: int, characters: int) -> Sample:
        """See the port."""
        return await _in_time(self._sources.sample(datasource, query, rows=rows, characters=characters))

    # -- one side at a time -------------------------------------------------------------------------------------

    async def _source_findings(
        self, account: str, spec: Mapping[str, object], secrets: Mapping[str, str], seen: list[Outlook]
    ) -> Sequence[Finding]:
        """Puts what was seen into `seen`, for those who look at more than findings."""
        async with self._source(account, spec, secrets) as source:
            outlook = await before_the_first_row(
                partial(self._promise, spec), _parsed(spec), source, await source.inspect()
            )
        seen.append(outlook)
        return outlook.findings

    async def _sink_findings(
        self, account: str, spec: Mapping[str, object], secrets: Mapping[str, str]
    ) -> list[Finding]:
        sink = await self._sinks.sink(account, spec, secrets)
        try:
            return [Finding(f.pointer, f.severity, f.code, f.message, f.hint) for f in await sink.check()]
        finally:
            await sink.close()

    @staticmethod
    async def _look(pointer: str, look: Awaitable[Sequence[Finding]]) -> Sequence[Finding]:
        """What cannot be looked at is a finding itself."""
        try:
            return await _in_time(look)
        except RowferryError as error:
            return [Finding(pointer, "error", error.code, error.message, error.hint)]

    @asynccontextmanager
    async def _source(
        self, account: str, spec: Mapping[str, object], secrets: Mapping[str, str] | None = None
    ) -> AsyncIterator[Source]:
        name = f"rowferry check {spec.get('name', '')}"[:63]
        source = await self._sources.source(account, spec, name=name, secrets=secrets)
        try:
            yield source
        finally:
            await source.close()


async def _in_time(call: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            return await call
    except TimeoutError:
        raise Transient("timeout", f"no answer within {LIMIT_SECONDS:.0f} seconds; try again") from None
    except SinkError as error:
        raise from_sink(error) from None


def _of_now(spec: Mapping[str, object]) -> list[Finding]:
    """What a preview can not show of a job that reads one moment."""
    if not JobSpec.model_validate(spec).options.snapshot:
        return []
    message = "these rows are as they are now; each run reads all of its own as of a moment that it takes at its start"
    return [Finding("/options/snapshot", "info", "preview_is_of_now", message, "nothing is held open for a preview")]


def _refuse_errors(inspection: Inspection) -> None:
    for finding in inspection.findings:
        if finding.severity == "error":
            raise Permanent(finding.code, finding.message, hint=finding.hint)


async def _overlap(source: Source, one: OpenRange, other: OpenRange) -> OpenRange | None:
    """What two ranges have in common; Postgres says which bound is the larger."""
    lower = one.lower or other.lower
    if one.lower is not None and other.lower is not None:
        lower = await source.later(one.lower, other.lower)
    upper = one.upper or other.upper
    if one.upper is not None and other.upper is not None:
        upper = one.upper if await source.later(one.upper, other.upper) == other.upper else other.upper
    if lower is not None and upper is not None and await source.later(lower, upper) == lower:
        return None
    return OpenRange(lower, upper)


def _parsed(spec: Mapping[str, object]) -> registry.Definition:
    sink, form = spec["sink"], spec.get("format")
    if not isinstance(sink, Mapping) or not isinstance(form, Mapping | None):
        raise TypeError("a stored definition holds sink and format as objects")
    return registry.parse(sink, form, secrets_apart=True)


def _check_sql(spec: Mapping[str, object]) -> Sequence[Finding]:
    source = JobSpec.model_validate(spec).source
    found = template_checks.sql(source)
    if source.table is not None:
        try:
            parse_name(source.table)
        except SqlError as error:
            hint = "write schema.table, quoted as in SQL where needed"
            found.append(Finding("/source/table", "error", "table_invalid", f"source.table: {error}", hint))
    for field, text, parse in (("where", source.where, parse_expression), ("query", source.query, parse_query)):
        if text is not None:
            try:
                parse(text)
            except SqlError as error:
                found.append(
                    Finding(
                        f"/source/{field}",
                        "error",
                        "sql_refused",
                        f"source.{field}: {error.placed}",
                        "give one SELECT" if field == "query" else "give one SQL expression",
                    )
                )
    return found


def _check_sink(spec: Mapping[str, object]) -> Sequence[Finding]:
    try:
        _parsed(spec)
    except registry.DefinitionRefused as error:
        return [Finding(error.pointer, "error", error.code, error.message)]
    return []


def _check_mode(spec: Mapping[str, object]) -> Sequence[Finding]:
    job = JobSpec.model_validate(spec)
    found = template_checks.mode(job)
    if (
        getattr(job.sink, "kind", "") == "s3"
        and getattr(job.sink, "name", None)
        and job.options.splits not in {1, "auto"}
    ):
        found.append(
            Finding(
                "/options/splits",
                "error",
                "splits_with_name",
                f"options.splits {job.options.splits} does not go with sink.name: by such names splits can not be told "
                "apart",
                "set options.splits to 1, or leave sink.name out",
            )
        )
    if job.options.snapshot and job.mode in FOLLOWING:
        found.append(
            Finding(
                "/options/snapshot",
                "error",
                "snapshot_unbounded",
                f"options.snapshot does not go with mode {job.mode}: one moment has no rows that come later",
                "use mode once or full, or leave it out",
            )
        )
    if job.source.limit is not None and job.mode == "continuous":
        found.append(
            Finding(
                "/source/limit",
                "error",
                "limit_with_continuous",
                f"source.limit {job.source.limit} can not end a continuous job",
                "leave it out, or use mode once, full or incremental",
            )
        )
    return found
