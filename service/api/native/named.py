"""/v1/datasources, /v1/credentials, /v1/tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from service.api import outlook, paging, present
from service.api.answers.named import (
    CredentialAnswer,
    CredentialsAnswer,
    DatasourceAnswer,
    DatasourcesAnswer,
    NewTokenAnswer,
    TablesAnswer,
    TokensAnswer,
)
from service.api.answers.outlook import ValidationAnswer
from service.api.auth import DEFAULT_ACCOUNT
from service.api.models import CredentialDefinition, DatasourceRequest, TokenRequest
from service.api.native.jobs import actor
from service.api.native.kept import Kept, Removable
from service.api.problems import Problem
from service.api.queries import NameQuery, PageQuery
from service.api.routes import Role, Route, answer
from service.api.validation import validate

if TYPE_CHECKING:
    from aiohttp import web

    from service.api.routes import Call


_DATASOURCES: Final = Kept(lambda services: services.datasources, present.datasource)
_CREDENTIALS: Final = Kept(lambda services: services.credentials, present.credential)
_TOKENS: Final = Removable(lambda services: services.tokens, "token")


async def datasources(call: Call) -> web.StreamResponse:
    """All of them."""
    found = [present.datasource(one) for one in await call.services.registry.datasources(call.account)]
    return answer(DatasourcesAnswer(datasources=found))


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
    return answer(TablesAnswer(tables=shown, next=paging.following(call.request, following)))


async def credentials(call: Call) -> web.StreamResponse:
    """All of them."""
    found = [present.credential(one) for one in await call.services.registry.credentials(call.account)]
    return answer(CredentialsAnswer(credentials=found))


async def tokens(call: Call) -> web.StreamResponse:
    """All of them."""
    found = [present.token(one) for one in await call.services.registry.tokens(call.account)]
    return answer(TokensAnswer(tokens=found))


async def create_token(call: Call) -> web.StreamResponse:
    """201; the token is in this answer and nowhere else."""
    request = validate(TokenRequest, call.body)
    account = await named_account(call, request.account)
    made = await call.services.tokens.create(account, actor(call), request.name, request.role, request.expires_at)
    shown = present.token(made.token).model_dump()
    return answer(NewTokenAnswer(**shown, token=made.text), 201)


async def named_account(call: Call, named: str | None) -> str:
    """The account that a new token or key is for. Raises Problem 403."""
    account = named or call.account
    if account != call.account:
        if not call.caller.from_setting or call.account != DEFAULT_ACCOUNT:
            raise Problem(403, "account_not_allowed", f"account {account!r} is not the token's own; leave account out")
        await call.services.registry.ensure_account(account)
    return account


_TABLES = "Tables its role may read"

ROUTES = (
    Route("GET", "/v1/datasources", Role.VIEWER, datasources, "Datasources", {200: DatasourcesAnswer}),
    Route("GET", "/v1/datasources/{name}", Role.VIEWER, _DATASOURCES.one, "One datasource",
          {200: DatasourceAnswer}),
    Route("PUT", "/v1/datasources/{name}", Role.ADMIN, _DATASOURCES.put, "Create or replace a datasource",
          {200: DatasourceAnswer, 201: DatasourceAnswer}, body=DatasourceRequest),
    Route("DELETE", "/v1/datasources/{name}", Role.ADMIN, _DATASOURCES.delete, "Remove a datasource", {204: None}),
    Route("POST", "/v1/datasources/{name}:validate", Role.ADMIN, check_datasource, "Connect and look",
          {200: ValidationAnswer}),
    Route("GET", "/v1/datasources/{name}/tables", Role.OPERATOR, tables, _TABLES, {200: TablesAnswer},
          PageQuery),
    Route("GET", "/v1/credentials", Role.ADMIN, credentials, "Credentials", {200: CredentialsAnswer}),
    Route("GET", "/v1/credentials/{name}", Role.ADMIN, _CREDENTIALS.one, "One credential",
          {200: CredentialAnswer}),
    Route("PUT", "/v1/credentials/{name}", Role.ADMIN, _CREDENTIALS.put, "Create or replace a credential",
          {200: CredentialAnswer, 201: CredentialAnswer}, body=CredentialDefinition),
    Route("DELETE", "/v1/credentials/{name}", Role.ADMIN, _CREDENTIALS.delete, "Remove a credential", {204: None}),
    Route("GET", "/v1/tokens", Role.ADMIN, tokens, "Tokens", {200: TokensAnswer}),
    Route("POST", "/v1/tokens", Role.ADMIN, create_token, "A new token, shown once", {201: NewTokenAnswer},
          body=TokenRequest),
    Route("DELETE", "/v1/tokens", Role.ADMIN, _TOKENS.delete_by_name, "Remove a token by ?name=", {204: None},
          NameQuery),
    Route("DELETE", "/v1/tokens/{token}", Role.ADMIN, _TOKENS.delete, "Remove a token by name or id", {204: None}),
)  # fmt: skip
