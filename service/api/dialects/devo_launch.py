"""`POST /query` with a destination: a job, defined and started as those of `/v1` are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from service.api.dialects import devo_answers as answers
from service.api.dialects import devo_destinations, devo_labels, devo_tables, devo_values
from service.api.dialects.devo_jobs import TRIGGER
from service.api.dialects.devo_sql import Columns
from service.api.dialects.devo_tree import LanguageError
from service.api.native.jobs import actor
from service.api.problems import Problem
from service.domain import built_sql
from service.domain.errors import Conflict
from service.domain.states import Event
from service.lifecycle.errors import Refused
from service.secret_fields import SecretRefused

if TYPE_CHECKING:
    from aiohttp import web

    from service.api.dialects.devo_destinations import Destination
    from service.api.dialects.devo_request import QueryRequest
    from service.api.dialects.devo_tables import QueriedTable
    from service.api.dialects.devo_values import OutputColumn
    from service.api.routes import Call
    from service.domain.records import Job

_MOST_ROWS: Final = 1_000_000
"""In one chunk: its bytes and seconds are what closes it."""


async def launch(call: Call, request: QueryRequest) -> web.Response:
    """The new job's id. Nothing is stored when anything is refused."""
    destination = devo_destinations.read(request.destination, request.mode, call.services.settings)
    if request.skip:
        raise answers.invalid("skip (or offset) does not go with a destination; a job delivers all that matches")
    public = await devo_tables.find(call.services, call.account, request.query.table)
    table = await devo_tables.look(call.services, call.account, public)
    given = definition(call, request, table, destination)
    await devo_tables.described(
        call.services, call.account, public.name, given["source"], mode=given["mode"], options=given["options"]
    )
    job = await _create(call, given)
    await call.services.verbs.act(call.account, actor(call), job, Event.START, trigger=TRIGGER)
    return answers.answer(call.request, {"id": job.id}, msg="")


def definition(call: Call, request: QueryRequest, table: QueriedTable, destination: Destination) -> dict[str, Any]:
    """The job's definition as `/v1` takes it. Raises Failure."""
    labels = devo_labels.remember(
        kind=destination.kind,
        query=request.text,
        table=request.query.table,
        cid=call.request[answers.CID],
        files=destination.files,
    )
    return {
        "name": destination.name,
        "source": source(request, table),
        "mode": "continuous" if request.continuous else "once",
        "sink": dict(destination.sink),
        "format": dict(destination.form) or {"kind": "json"},
        "options": _options(request, destination, call.services.settings.dialect_delay_seconds),
        "labels": labels,
    }


def source(request: QueryRequest, table: QueriedTable) -> dict[str, Any]:
    """What the job reads. Raises Failure for a query that the table can not answer."""
    names = Columns(table.time_column, request.zone)
    try:
        devo_tables.check_fields(request.query, table)
        condition = names.condition(request.query.conditions)
        chosen = _chosen(request, table, names)
        if all(shown == column for shown, column in chosen):
            found = {**table.source(), "columns": [column for column, _ in chosen]}
            found |= {} if condition is None else {"where": built_sql.expression(condition)}
            moment = table.time_column
        else:
            found, moment = _renamed(table, chosen, condition)
    except (LanguageError, built_sql.BuildError) as error:
        raise answers.query_refused(str(error)) from error
    end = request.span.end.isoformat() if request.span.end is not None else None
    found["time"] = {"column": moment, "from": request.span.start.isoformat(), "to": end}
    if request.limit is not None:
        if not request.limit or request.continuous:
            raise answers.invalid("limit is 0, or can not end a job that has no end; leave it out, or give to")
        found["limit"] = request.limit
    return found


def rows_source(request: QueryRequest, table: QueriedTable) -> tuple[dict[str, Any], list[OutputColumn]]:
    """What is read for a caller who waits for the rows: the table itself, names are given while they are written; and
    the columns of the answer. Raises Failure as `source` does."""
    names = Columns(table.time_column, request.zone)
    try:
        devo_tables.check_fields(request.query, table)
        condition = names.condition(request.query.conditions)
        chosen = _chosen(request, table, names)
        found = {**table.source(), "columns": list(dict.fromkeys(column for _, column in chosen))}
        found |= {} if condition is None else {"where": built_sql.expression(condition)}
    except (LanguageError, built_sql.BuildError) as error:
        raise answers.query_refused(str(error)) from error
    end = request.span.end.isoformat() if request.span.end is not None else None
    found["time"] = {"column": table.time_column, "from": request.span.start.isoformat(), "to": end}
    if request.limit and not request.continuous:
        found["limit"] = request.limit + request.skip
    return found, devo_values.output_columns(chosen, table.columns)


def safety(request: QueryRequest, delay: float) -> dict[str, Any]:
    """Options of what has no end: rows that commit late are waited for."""
    return {"safety": {"kind": "delay", "delay_seconds": delay}} if request.continuous else {}


def _chosen(request: QueryRequest, table: QueriedTable, names: Columns) -> list[tuple[str, str]]:
    """(name outside, column) of everything that is delivered."""
    if request.query.selected is None:
        return [(one.name, one.name) for one in table.columns]
    taken: set[str] = set()
    for one in request.query.selected:
        if one.name in taken:
            raise LanguageError(f"{one.name[:60]!r} is selected twice; name one of them with as", one.field.position)
        taken.add(one.name)
    return [(one.name, names.named(one.field.name)) for one in request.query.selected]


def _renamed(
    table: QueriedTable, chosen: list[tuple[str, str]], condition: built_sql.Node | None
) -> tuple[dict[str, Any], str]:
    """A SELECT that gives columns other names, and the key beside them under names that none of them has; and what the
    time column is called in it."""
    shown = {name for name, _ in chosen}
    keys = []
    for column in table.key:
        name = column
        while name in shown:
            name = f"{name}_"
        keys.append((name, column))
        shown.add(name)
    targets = [(name, built_sql.column(column)) for name, column in (*chosen, *keys)]
    query = built_sql.select(targets, built_sql.table_name(table.public.table), condition)
    found = {
        "datasource": table.public.datasource,
        "query": query,
        "columns": [name for name, _ in chosen],
        "key": [name for name, _ in keys],
    }
    return found, keys[0][0]


def _options(request: QueryRequest, destination: Destination, delay: float) -> dict[str, Any]:
    options: dict[str, Any] = {"splits": 1}
    if destination.chunk:
        options["chunk"] = {"rows": _MOST_ROWS, **destination.chunk}
    return options | safety(request, delay)


async def _create(call: Call, given: dict[str, Any]) -> Job:
    """The job as stored. Raises Failure in the words of the dialect for what `/v1` refuses."""
    try:
        return await call.services.jobs.create(call.account, actor(call), given)
    except Refused as error:
        raise answers.of_refusal(error) from error
    except SecretRefused as error:
        raise answers.setting_wrong(error.whole) from error
    except Conflict as error:
        if error.code != "name_taken":
            raise
        raise answers.name_taken(str(given["name"])) from error
    except Problem as error:
        raise _of_definition(error) from error


def _of_definition(problem: Problem) -> answers.Failure:
    """What the models of `/v1` refuse in a definition that was made here: what the caller gave is in the sink, or the
    name."""
    said = "; ".join(f"{one.message}; {one.hint}" if one.hint else one.message for one in problem.errors)
    return answers.setting_wrong(said or problem.detail)
