"""The table that a query names: its public name looked up, its columns and its key asked of the source."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from service.api.dialects import devo_answers as answers
from service.api.dialects.devo_sql import EVENTDATE
from service.api.dialects.devo_tree import And, Comparison, Field, LanguageError, Match, Membership, Not, Null, Or
from service.domain.errors import NotFound, Permanent
from service.lifecycle.jobs import bounded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from service.api.dialects.devo_tree import Condition, Query
    from service.api.services import Services
    from service.domain.inspection import SourceShape, TableColumn
    from service.domain.named import PublicTable

NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_FORBIDDEN: Final = "permission_denied"


@dataclass(frozen=True, slots=True)
class QueriedTable:
    """A table as queries see it."""

    public: PublicTable
    columns: Sequence[TableColumn]
    """Those that queries may name, in order."""
    time_column: str
    key: Sequence[str]
    """The time column, then the table's own key."""

    def source(self) -> dict[str, Any]:
        """What every job that reads it has in its `source`."""
        return {"datasource": self.public.datasource, "table": self.public.table, "key": list(self.key)}


async def find(services: Services, account: str, name: str) -> PublicTable:
    """The table of a public name. Raises Failure 624."""
    found = await services.registry.table(account, name) if NAME.fullmatch(name) else None
    if found is None:
        raise answers.table_unknown(name[:128], account)
    return found


async def look(services: Services, account: str, public: PublicTable) -> QueriedTable:
    """Ask the source. Raises Failure for a table that can not be queried."""
    if public.time_column is None:
        said = f"the table {public.name} has no time column, so from and to mean nothing"
        raise answers.query_refused(f"{said}; name it with PUT /v1/tables/{public.name}")
    source: dict[str, Any] = {"datasource": public.datasource, "table": public.table}
    if public.key:
        source["key"] = list(public.key)
    shape = await described(services, account, public.name, source)
    allowed = None if list(public.columns) in ([], ["*"]) else set(public.columns)
    columns = [one for one in shape.columns if allowed is None or one.name in allowed]
    key = [public.time_column, *(name for name in shape.key if name != public.time_column)]
    return QueriedTable(public, columns, public.time_column, key)


async def described(
    services: Services, account: str, table: str, source: Mapping[str, Any], **more: Any
) -> SourceShape:
    """The source's shape. Raises Failure where it can not be read as asked."""
    try:
        async with bounded():
            return await services.inspector.describe(account, {"name": table, "source": source, **_COUNTED, **more})
    except NotFound as error:
        raise answers.query_refused(error.whole) from error
    except Permanent as error:
        if error.code == _FORBIDDEN:
            raise answers.not_allowed(f"Access not allowed for table '{table}'") from error
        raise answers.query_refused(error.whole) from error


def check_fields(query: Query, table: QueriedTable) -> None:
    """Every name of the query is a column that it may name. Raises LanguageError at the first that is none."""
    known = {one.name for one in table.columns} | {EVENTDATE}
    for field in fields(query):
        if field.name not in known:
            names = ", ".join([EVENTDATE, *(one.name for one in table.columns)])
            said = f"the table {query.table} has no field {field.name[:60]!r}; it has {names[:1000]}"
            raise LanguageError(said, field.position)


def fields(query: Query) -> Iterator[Field]:
    """Every field that a query names."""
    for condition in query.conditions:
        yield from _fields_of(condition)
    for selected in query.selected or ():
        yield selected.field


def _fields_of(condition: Condition) -> Iterator[Field]:
    match condition:
        case And(items) | Or(items):
            for item in items:
                yield from _fields_of(item)
        case Not(item) | Null(item) | Membership(item, _):
            yield from _fields_of(item)
        case Comparison(left, _, right) | Match(left, _, right):
            yield from _fields_of(left)
            yield from _fields_of(right)
        case Field():
            yield condition


_COUNTED: Final = {"mode": "once", "sink": {"kind": "donothing"}, "format": {"kind": "json"}, "options": {}}
"""What a definition needs besides its source, where nothing but the source is looked at."""
