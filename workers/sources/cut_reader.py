"""Reads one split as of one moment, and looks after each page whether Postgres can still show that moment.

TRUNCATE, ALTER TABLE that writes the table anew and DETACH PARTITION reach into the past: a statement in an older
snapshot finds such a table empty, without a word (https://www.postgresql.org/docs/current/mvcc-caveats.html). So the
tables are held against what the catalog said of them at the moment itself, after the rows were read: who finds them
unchanged then has read what was there. (VACUUM FULL and CLUSTER keep what a snapshot shows, but can not be told apart.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.domain.errors import Permanent, Transient
from workers.sources.cut import SNAPSHOT_LOST, lost
from workers.sources.queries import load
from workers.sources.reader import PostgresReader

if TYPE_CHECKING:
    from workers.sources.base import Key, Page
    from workers.sources.definition import Definition
    from workers.sources.session import Session


class Tables:
    """What a definition reads, as it was at the moment of its session's cut."""

    def __init__(self, session: Session) -> None:
        """Asks nothing yet."""
        self._session = session
        self._of: Definition | None = None
        self._then: str | None = None

    async def look(self, definition: Definition) -> None:
        """Raises Permanent `snapshot_lost` when a table was emptied, written anew or taken away since."""
        names = _names(definition)
        if self._of is not definition:
            self._then = await self._session.fetchval(load("storage"), *names)
            self._of = definition
        if await self._session.fetchval_now(load("storage"), *names) != self._then:
            raise lost(
                definition.what,
                "since then a table was emptied, written anew, attached or taken away (TRUNCATE, ALTER TABLE, DROP, "
                "ATTACH, DETACH, VACUUM FULL), and what was there can not be read any more",
            )


def _names(definition: Definition) -> tuple[list[str], list[str]]:
    """Schemas and names of what it reads; names alone are looked up in `public`, as its session does."""
    if definition.relation is not None:
        return [definition.relation.schema], [definition.relation.name]
    named = () if definition.query is None else definition.query.relations
    return [name[-2] if len(name) > 1 else "public" for name in named], [name[-1] for name in named]


class CutReader(PostgresReader):
    """A PostgresReader that gives out no page of a moment that is gone."""

    def __init__(self, tables: Tables, *arguments: Any, **options: Any) -> None:
        """`tables` are those of the reader's own session."""
        super().__init__(*arguments, **options)
        self._tables = tables

    async def read(self, after: Key | None, upper: Key | None, *, max_rows: int | None = None) -> Page:
        """As the protocol says; raises Permanent `snapshot_lost` besides."""
        try:
            page = await super().read(after, upper, max_rows=max_rows)
        except (Permanent, Transient) as error:
            if (gone := await self._gone()) is not None:
                raise gone from error
            raise
        await self._tables.look(await self._resolve())
        return page

    async def one(self, key: Key) -> Page:
        """As `read`."""
        page = await super().one(key)
        await self._tables.look(await self._resolve())
        return page

    async def _gone(self) -> Permanent | None:
        """Whether it is no wonder that a page failed."""
        try:
            await self._tables.look(await self._resolve())
        except (Permanent, Transient) as error:
            return error if isinstance(error, Permanent) and error.code == SNAPSHOT_LOST else None
        return None
