"""/v1/datasources, /v1/credentials, /v1/tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from aiohttp import web

from service.api import answers, outlook, paging, present
from service.api.auth import DEFAULT_ACCOUNT
from service.api.models import CredentialDefinition, DatasourceRequest, TokenRequest
from service.api.native.jobs import actor, mapping
from service.api.problems import Problem, invalid
from service.api.queries import NameQuery, PageQuery
from service.api.routes import Role, Route, answer
from service.api.validation import validate
from service.domain.spec import NAME_PATTERN, Name, Strict

if TYPE_CHECKING:
    from service.api.routes import Call


class _Named(Strict):
    name: Name


async def datasources(call: Call) -> web.StreamResponse:
    """All of them."""
    found = [present.datasource(one) for one in await call.services.registry.datasources(call.account)]
    return answer(answers.DatasourcesAnswer(datasources=found))


async def datasource(call: Call) -> web.StreamResponse:
    """One of them."""
    return answer(present.datasource(await call.services.datasources.find(call.account, call.part("name"))))


async def put_datasource(call: Call) -> web.StreamResponse:
    """201 or 200."""
    name = new_name(call)
    stored, created = await call.services.datasources.put(call.account, actor(call), name, mapping(call.body))
    return answer(present.datasource(stored), 201 if created else 200, location(call, created=created))


async def delete_datasource(call: Call) -> web.StreamResponse:
    """204; 409 while a job uses it."""
    await call.services.datasources.remove(call.account, actor(call), call.part("name"))
    return web.Response(status=204)


async def check_datasource(call: Call) -> web.StreamResponse:
    """200 with findings."""
    return answer(outlook.findings(await call.services.datasources.validate(call.account, call.part("name"))))


async def tables(call: Call) -> web.StreamResponse:
    """A page of tables, by name."""
    query = cast("PageQuery", call.query)
    found = await call.services.datasources.tables(
        call.account, call.part("name"), limit=query.limit + 1, after=query.after
    )
    page = found[: query.limit]
    following = page[-1].name if len(found) > query.limit else None
    shown = [present.table(one) for one in page]
    return answer(answers.TablesAnswer(tables=shown, next=paging.following(call.request, following)))


async def credentials(call: Call) -> web.StreamResponse:
    """All of them."""
    found = [present.credential(one) for one in await call.services.registry.credentials(call.account)]
    return answer(answers.CredentialsAnswer(credentials=found))


async def credential(call: Call) -> web.StreamResponse:
    """One of them."""
    return answer(present.credential(await call.services.credentials.find(call.account, call.part("name"))))


async def put_credential(call: Call) -> web.StreamResponse:
    """201 or 200."""
    name = new_name(call)
    stored, created = await call.services.credentials.put(call.account, actor(call), name, mapping(call.body))
    return answer(present.credential(stored), 201 if created else 200, location(call, created=created))


async def delete_credential(call: Call) -> web.StreamResponse:
    """204; 409 while a job uses it."""
    await call.services.credentials.remove(call.account, actor(call), call.part("name"))
    return web.Response(status=204)


async def tokens(call: Call) -> web.StreamResponse:
    """All of them."""
    found = [present.token(one) for one in await call.services.registry.tokens(call.account)]
    return answer(answers.TokensAnswer(tokens=found))


async def create_token(call: Call) -> web.StreamResponse:
    """201; the token is in this answer and nowhere else."""
    request = validate(TokenRequest, call.body)
    account = await named_account(call, request.account)
    made = await call.services.tokens.create(account, actor(call), request.name, request.role, request.expires_at)
    shown = present.token(made.token).model_dump()
    return answer(answers.NewTokenAnswer(**shown, token=made.text), 201)


async def delete_token(call: Call) -> web.StreamResponse:
    """204."""
    await call.services.tokens.remove(call.account, actor(call), call.part("token"))
    return web.Response(status=204)


async def delete_token_by_name(call: Call) -> web.StreamResponse:
    """204."""
    await call.services.tokens.remove(call.account, actor(call), cast("NameQuery", call.query).name)
    return web.Response(status=204)


async def named_account(call: Call, named: str | None) -> str:
    """The account that a new token or key is for. Raises Problem 403."""
    account = named or call.account
    if account != call.account:
        if not call.caller.from_setting or call.account != DEFAULT_ACCOUNT:
            raise Problem(403, "account_not_allowed", f"account {account!r} is not the token's own; leave account out")
        await call.services.registry.ensure_account(account)
    return account


def new_name(call: Call) -> str:
    """The name in the path, as one that can be given. Raises Problem 422 `invalid_name`."""
    name = call.part("name")
    try:
        return _Named.model_validate({"name": name}).name
    except ValueError:
        raise invalid(
            "invalid_name", "/name", f"name {name!r} can not be used", f"names match {NAME_PATTERN}"
        ) from None


def location(call: Call, *, created: bool) -> dict[str, str]:
    """Where what was made now is."""
    return {"Location": call.request.path} if created else {}


_TABLES = "Tables its role may read"

ROUTES = (
    Route("GET", "/v1/datasources", Role.VIEWER, datasources, "Datasources", {200: answers.DatasourcesAnswer}),
    Route("GET", "/v1/datasources/{name}", Role.VIEWER, datasource, "One datasource", {200: answers.DatasourceAnswer}),
    Route("PUT", "/v1/datasources/{name}", Role.ADMIN, put_datasource, "Create or replace a datasource",
          {200: answers.DatasourceAnswer, 201: answers.DatasourceAnswer}, body=DatasourceRequest),
    Route("DELETE", "/v1/datasources/{name}", Role.ADMIN, delete_datasource, "Remove a datasource", {204: None}),
    Route("POST", "/v1/datasources/{name}:validate", Role.ADMIN, check_datasource, "Connect and look",
          {200: answers.ValidationAnswer}),
    Route("GET", "/v1/datasources/{name}/tables", Role.OPERATOR, tables, _TABLES, {200: answers.TablesAnswer},
          PageQuery),
    Route("GET", "/v1/credentials", Role.ADMIN, credentials, "Credentials", {200: answers.CredentialsAnswer}),
    Route("GET", "/v1/credentials/{name}", Role.ADMIN, credential, "One credential", {200: answers.CredentialAnswer}),
    Route("PUT", "/v1/credentials/{name}", Role.ADMIN, put_credential, "Create or replace a credential",
          {200: answers.CredentialAnswer, 201: answers.CredentialAnswer}, body=CredentialDefinition),
    Route("DELETE", "/v1/credentials/{name}", Role.ADMIN, delete_credential, "Remove a credential", {204: None}),
    Route("GET", "/v1/tokens", Role.ADMIN, tokens, "Tokens", {200: answers.TokensAnswer}),
    Route("POST", "/v1/tokens", Role.ADMIN, create_token, "A new token, shown once", {201: answers.NewTokenAnswer},
          body=TokenRequest),
    Route("DELETE", "/v1/tokens", Role.ADMIN, delete_token_by_name, "Remove a token by ?name=", {204: None},
          NameQuery),
    Route("DELETE", "/v1/tokens/{token}", Role.ADMIN, delete_token, "Remove a token by name or id", {204: None}),
)  # fmt: skip
