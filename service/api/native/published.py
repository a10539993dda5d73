"""/v1/tables and /v1/keys: what the query dialect knows by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from aiohttp import web

from service.api import answers, present
from service.api.models import KeyRequest, TableDefinition
from service.api.native.jobs import actor, mapping
from service.api.native.named import location, named_account, new_name
from service.api.queries import NameQuery
from service.api.routes import Role, Route, answer
from service.api.validation import validate

if TYPE_CHECKING:
    from service.api.routes import Call


async def tables(call: Call) -> web.StreamResponse:
    """All of them."""
    found = [present.public_table(one) for one in await call.services.registry.tables(call.account)]
    return answer(answers.PublicTablesAnswer(tables=found))


async def table(call: Call) -> web.StreamResponse:
    """One of them."""
    return answer(present.public_table(await call.services.tables.find(call.account, call.part("name"))))


async def put_table(call: Call) -> web.StreamResponse:
    """201 or 200."""
    name = new_name(call)
    stored, created = await call.services.tables.put(call.account, actor(call), name, mapping(call.body))
    return answer(present.public_table(stored), 201 if created else 200, location(call, created=created))


async def delete_table(call: Call) -> web.StreamResponse:
    """204."""
    await call.services.tables.remove(call.account, actor(call), call.part("name"))
    return web.Response(status=204)


async def keys(call: Call) -> web.StreamResponse:
    """All of them, without their secrets."""
    found = [present.key(one) for one in await call.services.registry.keys(call.account)]
    return answer(answers.KeysAnswer(keys=found))


async def create_key(call: Call) -> web.StreamResponse:
    """201; the secret is in this answer and nowhere else."""
    request = validate(KeyRequest, call.body)
    account = await named_account(call, request.account)
    made = await call.services.keys.create(account, actor(call), request.name, request.role)
    return answer(answers.NewKeyAnswer(**present.key(made).model_dump(), secret=made.secret or ""), 201)


async def delete_key(call: Call) -> web.StreamResponse:
    """204."""
    await call.services.keys.remove(call.account, actor(call), call.part("key"))
    return web.Response(status=204)


async def delete_key_by_name(call: Call) -> web.StreamResponse:
    """204."""
    await call.services.keys.remove(call.account, actor(call), cast("NameQuery", call.query).name)
    return web.Response(status=204)


_TABLE = {200: answers.PublicTableAnswer}

ROUTES = (
    Route("GET", "/v1/tables", Role.VIEWER, tables, "Tables by their public names", {200: answers.PublicTablesAnswer}),
    Route("GET", "/v1/tables/{name}", Role.VIEWER, table, "One table", _TABLE),
    Route("PUT", "/v1/tables/{name}", Role.ADMIN, put_table, "Publish a table under this name, or change it",
          {**_TABLE, 201: answers.PublicTableAnswer}, body=TableDefinition),
    Route("DELETE", "/v1/tables/{name}", Role.ADMIN, delete_table, "Take a public name away", {204: None}),
    Route("GET", "/v1/keys", Role.ADMIN, keys, "Keys of the Devo dialect", {200: answers.KeysAnswer}),
    Route("POST", "/v1/keys", Role.ADMIN, create_key, "A new key, its secret shown once", {201: answers.NewKeyAnswer},
          body=KeyRequest),
    Route("DELETE", "/v1/keys", Role.ADMIN, delete_key_by_name, "Remove a key by ?name=", {204: None}, NameQuery),
    Route("DELETE", "/v1/keys/{key}", Role.ADMIN, delete_key, "Remove a key by name or key", {204: None}),
)  # fmt: skip
