"""What the query dialect knows by name: public tables, and the keys that its requests are signed with."""

from __future__ import annotations

import secrets as random
from typing import TYPE_CHECKING, Any, Final

from config.redaction import register
from service.domain.errors import NotFound
from service.domain.inspection import Finding
from service.lifecycle.errors import Refused
from service.lifecycle.named import without_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic import BaseModel

    from service.domain.inspection import Inspector
    from service.domain.named import PublicTable, Registry, SigningKey
    from service.domain.records import Actor

    Define = Callable[[Mapping[str, Any]], BaseModel]

_SOURCE: Final = "/source"
_SOURCE_FIELDS: Final = ("datasource", "table", "key", "columns")


class Tables:
    """Dotted public names of tables."""

    def __init__(self, registry: Registry, inspector: Inspector, define: Define) -> None:
        self._registry = registry
        self._inspector = inspector
        self._define = define

    async def find(self, account: str, name: str) -> PublicTable:
        """What a query means by `from <name>`. Raises NotFound."""
        found = await self._registry.table(account, name)
        if found is None:
            raise NotFound("table", name)
        return found

    async def put(self, account: str, actor: Actor, name: str, given: Mapping[str, Any]) -> tuple[PublicTable, bool]:
        """Store; True when it is new. Looks at the definition without connecting. Raises Refused."""
        definition = self._define(without_name(given, name)).model_dump(mode="json", exclude={"name"})
        errors = [*await self._unknown(account, definition), *self._wrong(definition)]
        if errors:
            raise Refused(errors)
        return await self._registry.put_table(account, actor, name, definition)

    async def remove(self, account: str, actor: Actor, name: str) -> None:
        """Jobs that were made from it keep what it said then. Raises NotFound."""
        if not await self._registry.delete_table(account, actor, name):
            raise NotFound("table", name)

    async def _unknown(self, account: str, definition: Mapping[str, Any]) -> list[Finding]:
        name = definition["datasource"]
        if await self._registry.datasource(account, name) is not None:
            return []
        message = f"datasource {name!r} does not exist in this account"
        hint = f"PUT /v1/datasources/{name} first, or name one that GET /v1/datasources lists"
        return [Finding("/datasource", "error", "datasource_unknown", message, hint)]

    def _wrong(self, definition: Mapping[str, Any]) -> list[Finding]:
        """What a job that reads it would be refused for."""
        source = {field: definition[field] for field in _SOURCE_FIELDS}
        found = self._inspector.check({"name": "t", "source": source, "sink": {"kind": "donothing"}})
        return [
            Finding(
                one.pointer.removeprefix(_SOURCE), one.severity, one.code, one.message.replace("source.", ""), one.hint
            )
            for one in found
            if one.severity == "error"
        ]


class Keys:
    """Key and secret pairs. The secret is told once; it is kept encrypted, because a signature can not be checked
    without it."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def find(self, key: str) -> SigningKey | None:
        """Whose signature it is, with the secret; of any account. None for an unknown key. Raises Permanent when the
        secret can not be decrypted."""
        if not key.isascii() or not key.isalnum() or len(key) > 64:
            return None
        found = await self._registry.key(key)
        if found is not None:
            register(found.secret)
        return found

    async def create(self, account: str, actor: Actor, name: str, role: str) -> SigningKey:
        """A new pair, with its secret. Raises Conflict `name_taken`, Permanent `secret_key_required`."""
        key, secret = random.token_hex(16), random.token_hex(32)
        register(secret)
        return await self._registry.create_key(account, actor, name, role, key=key, secret=secret)

    async def remove(self, account: str, actor: Actor, ref: str) -> None:
        """By name or by its public part; at once of no more use. Raises NotFound."""
        if not await self._registry.delete_key(account, actor, ref):
            raise NotFound("key", ref)
