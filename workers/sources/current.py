"""The definition as its source is now: looked up once, and anew when a statement says that the source has changed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from config.names import LogEvent
from service.domain.errors import Permanent
from workers.sources import catalog, drift, failures
from workers.sources.base import SourceChanged
from workers.sources.resolver import Resolver

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.domain.datasource import Datasource
    from service.domain.errors import RowferryError
    from service.domain.options import Options
    from service.domain.spec import SourceSpec
    from sinks.formats.columns import Column
    from workers.sources.definition import Definition
    from workers.sources.session import Session
    from workers.sources.wishes import RowWishes

log = structlog.get_logger(__name__)

_MOST_LOOKS: Final = 4
"""At a table that is changed while it is looked at."""


class CurrentDefinition:
    """One source's definition. What the session says in its errors follows what was found."""

    def __init__(
        self, session: Session, datasource: Datasource, spec: SourceSpec, wishes: RowWishes, options: Options
    ) -> None:
        """Nothing is looked up yet."""
        self._session, self._datasource, self._spec = session, datasource, spec
        self._wishes, self._key_is_unique = wishes, options.key_is_unique
        self._goes_on = options.schema_change == "continue"
        self._definition: Definition | None = None
        self._resolving = asyncio.Lock()

    async def look(self) -> Definition:
        """The definition, which may be one that was refused. Raises what asking the source raises."""
        async with self._resolving:
            if self._definition is None:
                definition = await self._resolve(self._wishes.columns if self._wishes.csv is not None else ())
                if not definition.refused:
                    definition.guard = await drift.guard(self._session, definition)
                self._definition = definition
                self._session.what = definition.what
                self._session.reading = True
                if definition.unwalked:
                    self._session.long_is_permanent = True
            return self._definition

    async def required(self) -> Definition:
        """The definition. Raises Permanent where it was refused, and what asking the source raises."""
        definition = self._definition or await self.look()
        definition.require()
        return definition

    async def of_now(self) -> Definition:
        """The definition as if no generation had been planned with it. Raises what asking the source raises."""
        return await self._resolve(())

    async def changed(self, before: Definition, cause: RowferryError) -> None:
        """The source is not what `before` was made of: the next statement reads from what it is now, or the run ends.
        Raises SourceChanged where that is another file's business."""
        if self._definition is before:
            self._definition, self._session.reading = None, False
        now = await self.look()
        if drift.reads_alike(before, now) and not now.refused:
            return
        if now.columns and self._wishes.renews and self._goes_on:
            raise SourceChanged from cause
        said = "; ".join(drift.differences(exact_columns(before), exact_columns(now))) if now.columns else ""
        if not now.columns and before.relation is not None:
            said = await drift.whereabouts(self._session, before)
        message = f"{before.what} has changed while it was read: {said or 'another table bears its name'}"
        if not self._goes_on or now.refused:
            hint = failures.GO_ON
            if now.refused and (why := next(one for one in now.findings if one.severity == "error")):
                message, hint = f"{message}; {why.message}", failures.PUT_BACK
            self._definition = before
            raise Permanent(failures.SCHEMA_CHANGED, message, hint=hint) from cause
        log.warning(LogEvent.SCHEMA_CHANGED, table=before.what, cause=said)

    async def lost(self, cause: Permanent) -> None:
        """A statement that is no page met a change: raises what a page would, with the change named."""
        if cause.code == failures.SCHEMA_CHANGED and self._definition is not None:
            await self.changed(self._definition, cause)
            raise SourceChanged from cause

    async def _resolve(self, fixed: Sequence[Column]) -> Definition:
        """Looked up anew where the table was changed between two looks at it."""
        for _ in range(_MOST_LOOKS):
            resolver = Resolver(
                self._session,
                self._datasource,
                self._spec,
                self._wishes,
                fixed=fixed,
                key_is_unique=self._key_is_unique,
            )
            definition = await resolver.resolve()
            relation = definition.relation
            if not definition.refused or relation is None:
                break
            if await catalog.columns_of(self._session, relation.oid) == definition.columns:
                break
        return definition


def exact_columns(definition: Definition) -> tuple[Column, ...]:
    """What the source consists of, with the types that a format keeps."""
    return tuple(one.exact for one in definition.columns)
