"""Named things of an account: datasources, credentials, tokens."""

from __future__ import annotations

import secrets as random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from config.redaction import register
from config.references import ReferenceRefused
from service import secret_fields
from service.domain.datasource import Datasource
from service.domain.errors import NotFound
from service.domain.inspection import Finding
from service.lifecycle.errors import Refused
from service.lifecycle.jobs import bounded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from pydantic import BaseModel

    from config.references import References
    from service.domain.inspection import Inspector, Sample, TableInfo
    from service.domain.named import Registry, StoredCredential, StoredDatasource, Token
    from service.domain.records import Actor

    Define = Callable[[Mapping[str, Any]], BaseModel]

_PASSWORD: Final = "/password"  # noqa: S105  a pointer
_URL_FIELDS: Final = ("host", "port", "database", "user", "password")
_TOKEN_PREFIX: Final = "rf_"  # noqa: S105  how every token begins


class Datasources:
    """Postgres connections by name."""

    def __init__(self, registry: Registry, inspector: Inspector, references: References, define: Define) -> None:
        self._registry = registry
        self._inspector = inspector
        self._references = references
        self._define = define

    async def find(self, account: str, name: str) -> StoredDatasource:
        """Raises NotFound."""
        found = await self._registry.datasource(account, name)
        if found is None:
            raise NotFound("datasource", name)
        return found

    async def put(
        self, account: str, actor: Actor, name: str, given: Mapping[str, Any]
    ) -> tuple[StoredDatasource, bool]:
        """Store; True when it is new. `url` may stand instead of the parts. Raises Refused, SecretRefused."""
        stored = await self._registry.datasource(account, name)
        spec, password = self._defined(name, given, stored)
        return await self._registry.put_datasource(account, actor, name, spec, password)

    async def remove(self, account: str, actor: Actor, name: str) -> None:
        """Raises NotFound, Conflict `datasource_in_use`."""
        if not await self._registry.delete_datasource(account, actor, name):
            raise NotFound("datasource", name)

    async def validate(self, account: str, name: str, given: Mapping[str, Any] | None = None) -> Sequence[Finding]:
        """Connect and look; as `put` would store `given`, where that is given. Raises as `put`."""
        try:
            datasource = await self._looked_at(account, name, given)
        except ReferenceRefused as error:
            hint = "correct the reference, or what it points to"
            return [Finding(_PASSWORD, "error", error.code, f"password: {error.message}", hint)]
        async with bounded():
            return await self._inspector.check_datasource(datasource)

    async def tables(self, account: str, name: str, *, limit: int, after: str | None) -> Sequence[TableInfo]:
        """A page of the tables its role may read."""
        datasource = resolved(await self.find(account, name), self._references)
        async with bounded():
            return await self._inspector.tables(datasource, limit=limit, after=after)

    async def sample(self, account: str, name: str, query: str, *, rows: int, characters: int) -> Sample:
        """The first rows of a query, values cut off at `characters`. Raises Permanent for what is no query."""
        datasource = resolved(await self.find(account, name), self._references)
        async with bounded():
            return await self._inspector.sample(datasource, query, rows=rows, characters=characters)

    def _defined(
        self, name: str, given: Mapping[str, Any], stored: StoredDatasource | None
    ) -> tuple[dict[str, Any], str | None]:
        """The definition without its password, and the password: the stored one where it is kept."""
        data = without_name(from_url(given) if "url" in given else given, name)
        kept_from = {_PASSWORD: stored.password} if stored is not None and stored.password is not None else {}
        definition = stored.definition if stored is not None else {}
        merged, kept = secret_fields.keep(data, ["password"], stored=definition, secrets=kept_from)
        spec, secrets = secret_fields.split(self._define(merged))
        secret_fields.check_kept(spec, definition, kept)
        spec.pop("name", None)
        return spec, secrets.get(_PASSWORD)

    async def _looked_at(self, account: str, name: str, given: Mapping[str, Any] | None) -> Datasource:
        if given is None:
            return resolved(await self.find(account, name), self._references)
        spec, password = self._defined(name, given, await self._registry.datasource(account, name))
        return connection(account, name, spec, password, self._references)


class Credentials:
    """Secret fields of sinks by name."""

    def __init__(self, registry: Registry, define: Define, fields: frozenset[str]) -> None:
        self._registry = registry
        self._define = define
        self._fields = fields

    async def find(self, account: str, name: str) -> StoredCredential:
        """Raises NotFound."""
        found = await self._registry.credential(account, name)
        if found is None:
            raise NotFound("credential", name)
        return found

    async def put(
        self, account: str, actor: Actor, name: str, given: Mapping[str, Any]
    ) -> tuple[StoredCredential, bool]:
        """Store; True when it is new. `***` and absence keep a stored field, null removes it. Raises Refused
        `unknown_field`, SecretRefused."""
        data = without_name(given, name)
        stored = await self._registry.credential(account, name)
        fields = data.get("secrets")
        before = stored.secrets if stored is not None else {}
        kept = {f"/secrets/{secret_fields.escaped(key)}": value for key, value in before.items()}
        merged, _ = secret_fields.keep(data, fields if isinstance(fields, dict) else (), secrets=kept)
        if isinstance(fields, dict):
            merged["secrets"] = {key: value for key, value in merged["secrets"].items() if value is not None}
        definition = self._define(merged)
        values = {key: value.get_secret_value() for key, value in getattr(definition, "secrets").items()}  # noqa: B009
        self._refuse_unknown(values)
        register(*values.values())
        return await self._registry.put_credential(account, actor, name, values)

    async def remove(self, account: str, actor: Actor, name: str) -> None:
        """Raises NotFound, Conflict `credential_in_use`."""
        if not await self._registry.delete_credential(account, actor, name):
            raise NotFound("credential", name)

    def _refuse_unknown(self, values: Mapping[str, str]) -> None:
        findings = [
            Finding(
                f"/secrets/{secret_fields.escaped(key)}",
                "error",
                "unknown_field",
                f"secrets.{key} is no secret field of any sink",
                f"the secret fields are {', '.join(sorted(self._fields))}",
            )
            for key in values
            if key not in self._fields
        ]
        findings += [
            Finding(f"/secrets/{key}", "error", "invalid", f"secrets.{key} is empty", "give a value, or leave it out")
            for key, value in values.items()
            if key in self._fields and not value
        ]
        if findings:
            raise Refused(findings)


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token and, this once, what it is."""

    token: Token
    text: str


class Tokens:
    """Who may use the API. What is stored of a token is its digest."""

    def __init__(self, registry: Registry, digest: Callable[[str], bytes]) -> None:
        self._registry = registry
        self._digest = digest

    async def create(self, account: str, actor: Actor, name: str, role: str, expires_at: datetime | None) -> NewToken:
        """Raises Conflict `name_taken`."""
        text = _TOKEN_PREFIX + random.token_urlsafe(32)
        register(text)
        token = await self._registry.create_token(account, actor, name, role, self._digest(text), expires_at)
        return NewToken(token, text)

    async def remove(self, account: str, actor: Actor, ref: str) -> None:
        """By id or name. Raises NotFound."""
        if not await self._registry.delete_token(account, actor, ref):
            raise NotFound("token", ref)


def resolved(stored: StoredDatasource, references: References) -> Datasource:
    """A datasource with its real password. Raises `config.references.ReferenceRefused`."""
    return connection(stored.account, stored.name, stored.definition, stored.password, references)


def connection(
    account: str, name: str, definition: Mapping[str, Any], password: str | None, references: References
) -> Datasource:
    """A definition as it is connected to; `password` may be a reference. Raises as `resolved`."""
    password = references.resolve(password) if password is not None else None
    register(password)
    return Datasource.of(account, name, definition, password)


def from_url(given: Mapping[str, Any]) -> dict[str, Any]:
    """`url` taken apart; its password goes where passwords go. Raises Refused for what is no Postgres URL, and for
    parts that are given twice; the URL is in no message."""
    both = [name for name in _URL_FIELDS if name in given]
    if both:
        raise Refused.one("invalid", f"/{both[0]}", f"url and {both[0]} are both given", "give the url or the parts")
    url = given["url"]
    wanted = "give postgresql://user:password@host:port/database?sslmode=require"
    if not isinstance(url, str):
        raise Refused.one("invalid", "/url", "url is not a text", wanted)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Refused.one("invalid", "/url", "url can not be read", wanted) from None
    register(unquote(parts.password) if parts.password else None)
    if parts.scheme not in {"postgres", "postgresql"} or not parts.hostname or not parts.username or parts.fragment:
        raise Refused.one("invalid", "/url", "url is no Postgres URL with user and host", wanted)
    found: dict[str, Any] = {name: value for name, value in given.items() if name != "url"}
    found |= {"host": parts.hostname, "port": port or 5432, "user": unquote(parts.username)}
    found["database"] = unquote(parts.path.lstrip("/")) or found["user"]
    if parts.password is not None:
        found["password"] = unquote(parts.password)
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name != "sslmode" or "tls" in given:
            hint = "only sslmode may stand there; write tls, time_zone and properties as fields"
            raise Refused.one("invalid", "/url", f"url has the parameter {name[:40]!r}", hint)
        found["tls"] = {"mode": value}
    return found


def without_name(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A definition whose name stands in the path. Raises Refused `name_mismatch` when it says another."""
    if given.get("name", name) != name:
        message = f"name {given['name']!r} is not the name in the path, {name!r}"
        raise Refused.one("name_mismatch", "/name", message, "leave it out, or use the other path")
    return {key: value for key, value in given.items() if key != "name"}
