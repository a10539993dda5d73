"""/v1/tables and /v1/keys: what the query dialect knows by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from service.api import present
from service.api.answers.named import KeysAnswer, NewKeyAnswer, PublicTableAnswer, PublicTablesAnswer
from service.api.models import KeyRequest, TableDefinition
from service.api.native.jobs import actor
from service.api.native.kept import Kept, Removable
from service.api.native.named import named_account
from service.api.queries import NameQuery
from service.api.routes import Role, Route, answer
from service.api.validation import validate

if TYPE_CHECKING:
    from aiohttp import web

    from service.api.routes import Call


_TABLES: Final = Kept(lambda services: services.tables, present.public_table)
_KEYS: Final = Removable(lambda services: services.keys, "key")


async def tables(call: Call) -> web.StreamResponse:
    """All of them."""
    found = [present.public_table(one) for one in await call.services.registry.tables(call.account)]
    return answer(PublicTablesAnswer(tables=found))


async def keys(call: Call) -> web.StreamResponse:
    """All of them, without their secrets."""
    found = [present.key(one) for one in await call.services.registry.keys(call.account)]
    return answer(KeysAnswer(keys=found))


async def create_key(call: Call) -> web.StreamResponse:
    """201; the secret is in this answer and nowhere else."""
    request = validate(KeyRequest, call.body)
    account = await named_account(call, request.account)
    made = await call.services.keys.create(account, actor(call), request.name, request.role)
    return answer(NewKeyAnswer(**present.key(made).model_dump(), secret=made.secret or ""), 201)


_TABLE = {200: PublicTableAnswer}

ROUTES = (
    Route("GET", "/v1/tables", Role.VIEWER, tables, "Tables by their public names", {200: PublicTablesAnswer}),
    Route("GET", "/v1/tables/{name}", Role.VIEWER, _TABLES.one, "One table", _TABLE),
    Route("PUT", "/v1/tables/{name}", Role.ADMIN, _TABLES.put, "Publish a table under this name, or change it",
          {**_TABLE, 201: PublicTableAnswer}, body=TableDefinition),
    Route("DELETE", "/v1/tables/{name}", Role.ADMIN, _TABLES.delete, "Take a public name away", {204: None}),
    Route("GET", "/v1/keys", Role.ADMIN, keys, "Keys of the Devo dialect", {200: KeysAnswer}),
    Route("POST", "/v1/keys", Role.ADMIN, create_key, "A new key, its secret shown once", {201: NewKeyAnswer},
          body=KeyRequest),
    Route("DELETE", "/v1/keys", Role.ADMIN, _KEYS.delete_by_name, "Remove a key by ?name=", {204: None}, NameQuery),
    Route("DELETE", "/v1/keys/{key}", Role.ADMIN, _KEYS.delete, "Remove a key by name or key", {204: None}),
)  # fmt: skip
