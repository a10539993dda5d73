"""Datasources of the Siren dialect, over the same store as `/v1/datasources`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field, SecretStr

from service.api.dialects import siren_answers as answers
from service.api.dialects import siren_jdbc
from service.api.dialects import siren_request as requests
from service.api.native.jobs import actor
from service.api.validation import validate as checked
from service.domain import built_sql
from service.domain.strict import Strict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from service.api.routes import Call
    from service.domain.named import StoredDatasource

_PAGE: Final = 500
_MOST_TABLES: Final = 10_000
_Text = Annotated[str, Field(min_length=1, max_length=4096)]


class Jdbc(Strict):
    """A connection as Siren describes one."""

    driver: str | None = None
    url: SecretStr
    username: Annotated[str, Field(max_length=63)] | None = None
    password: SecretStr | None = None
    timezone: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    properties: dict[_Text, str] | None = Field(default=None, max_length=100)


class Body(Strict):
    """A datasource as given."""

    jdbc: Jdbc | None = None
    elastic: Any = None


class SampleRequest(Strict):
    """What to read."""

    query: str = Field(min_length=1, max_length=100_000)
    row_limit: int = Field(default=10, ge=1, le=1000)
    max_text_size: int = Field(default=1000, ge=1, le=100_000)


async def put(call: Call) -> web.StreamResponse:
    """201 or 200. A password that is left out is kept, unless host, port or user changed."""
    name = requests.new_name(call)
    requests.parameters(call)
    given, warnings = await _given(call, name)
    _, created = await call.services.datasources.put(call.account, actor(call), name, given)
    said = {"_id": name, "result": "created" if created else "updated"}
    return answers.answer(call.request, said, 201 if created else 200, warnings=warnings)


async def get(call: Call) -> web.StreamResponse:
    """One of them, without its password."""
    requests.parameters(call)
    stored = await _found(call)
    return answers.answer(call.request, {"_id": stored.name, "found": True, "_source": _source(stored)})


async def delete(call: Call) -> web.StreamResponse:
    """409 while a job uses it."""
    requests.parameters(call)
    name = (await _found(call)).name
    await call.services.datasources.remove(call.account, actor(call), name)
    return answers.answer(call.request, {"_id": name, "result": "deleted"})


async def search(call: Call) -> web.StreamResponse:
    """All of them, by name."""
    skip, size = requests.window(
        requests.searched(call, requests.WINDOW),
        None,
        "GET /v1/datasources lists any number of them",
    )
    found = await call.services.registry.datasources(call.account)
    hits = [{"_id": stored.name, "_source": _source(stored)} for stored in found[skip : skip + size]]
    return answers.answer(call.request, {"hits": {"total": len(found), "hits": hits}})


async def validate(call: Call) -> web.StreamResponse:
    """Connects, with the body where one is given, else with what is stored."""
    name = requests.new_name(call)
    requests.parameters(call)
    given, warnings = await _given(call, name) if requests.body(call) else (None, [])
    if given is None:
        await _found(call)
    findings = await call.services.datasources.validate(call.account, name, given)
    wrong = [finding for finding in findings if finding.severity == "error"]
    if wrong:
        said = "; ".join(f"{one.message} ({one.hint})" if one.hint else one.message for one in wrong)
        raise answers.invalid(said)
    warnings += [one.message for one in findings if one.severity == "warning"]
    return answers.answer(call.request, {"_id": name, "valid": True, "warnings": warnings})


async def metadata(call: Call) -> web.StreamResponse:
    """The database, its schemas, and the tables and views that the role may read."""
    given = requests.parameters(call, ("catalog", "schema"))
    requests.no_body(call)
    stored = await _found(call)
    database = str(stored.definition["database"])
    schemas: dict[str, list[dict[str, str]]] = {}
    for schema, table in await _tables(call, stored.name):
        if given.get("catalog", database) == database and given.get("schema", schema) == schema:
            schemas.setdefault(schema, []).append({"name": table})
    shown = [{"name": schema, "resources": tables} for schema, tables in schemas.items()]
    catalogs = [{"name": database, "schemas": shown}] if given.get("catalog", database) == database else []
    return answers.answer(call.request, {"catalogs": catalogs})


async def sample(call: Call) -> web.StreamResponse:
    """The first rows of a query: its columns' types, and values as texts."""
    requests.parameters(call)
    asked = checked(SampleRequest, requests.body(call))
    name = (await _found(call)).name
    found = await call.services.datasources.sample(
        call.account, name, asked.query, rows=asked.row_limit, characters=asked.max_text_size
    )
    types = [{"name": column.name, "type": column.type} for column in found.columns]
    return answers.answer(call.request, {"_id": name, "types": types, "values": [list(row) for row in found.rows]})


async def _found(call: Call) -> StoredDatasource:
    stored = await call.services.registry.datasource(call.account, requests.name(call))
    if stored is None:
        raise requests.missing(call.part("id"))
    return stored


async def _given(call: Call, name: str) -> tuple[dict[str, Any], list[str]]:
    """The definition as `/v1` takes it, with what this language has no word for as it is stored; and warnings. Raises
    Failure and Problem."""
    body = checked(Body, requests.body(call))
    if "elastic" in body.model_fields_set:
        raise answers.invalid("elastic datasources are not supported; the sources here are PostgreSQL: give jdbc")
    if body.jdbc is None:
        raise answers.invalid("jdbc is missing; give its url, username and password")
    jdbc = body.jdbc
    if jdbc.driver not in {None, "", siren_jdbc.DRIVER}:
        raise answers.invalid(f"jdbc.driver is not supported; the only one is {siren_jdbc.DRIVER}")
    plain: dict[str, Any] = {"url": jdbc.url.get_secret_value(), "properties": jdbc.properties}
    plain |= {} if jdbc.username is None else {"username": jdbc.username}
    plain |= {} if jdbc.password is None else {"password": jdbc.password.get_secret_value()}
    found, warnings = siren_jdbc.definition(plain)
    if jdbc.timezone is not None:
        found["time_zone"] = jdbc.timezone
    stored = await call.services.registry.datasource(call.account, name)
    return _completed(found, {} if stored is None else stored.definition), warnings


def _completed(found: dict[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    authority = (stored.get("tls") or {}).get("ca")
    if authority is not None:
        found["tls"] = {"mode": "prefer", **found.get("tls", {}), "ca": authority}
    if stored.get("max_connections") is not None:
        found["max_connections"] = stored["max_connections"]
    return found


async def _tables(call: Call, name: str) -> list[tuple[str, str]]:
    """(schema, table), sorted."""
    found: list[tuple[str, str]] = []
    after: str | None = None
    while len(found) < _MOST_TABLES:
        page = await call.services.datasources.tables(call.account, name, limit=_PAGE, after=after)
        found += [(parts[0], parts[-1]) for parts in (built_sql.table_name(one.name) for one in page)]
        if len(page) < _PAGE:
            break
        after = page[-1].name
    return sorted(found)


def _source(stored: StoredDatasource) -> dict[str, Any]:
    definition = stored.definition
    jdbc: dict[str, Any] = {"driver": siren_jdbc.DRIVER, "url": siren_jdbc.url(definition)}
    jdbc["username"] = definition["user"]
    if definition.get("time_zone") is not None:
        jdbc["timezone"] = definition["time_zone"]
    settings: Any = definition.get("properties") or {}
    if settings:
        jdbc["properties"] = {"options": siren_jdbc.options(settings)}
    return {"jdbc": jdbc}
