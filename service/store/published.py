"""What the query dialect asks for by name: public tables, and the keys that its requests are signed with."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from service.domain.errors import Conflict
from service.domain.named import PublicTable, SigningKey
from service.store.clauses import compose
from service.store.gathered import Gathered
from service.store.ids import uuid7
from service.store.part import Part, account_id
from service.store.registry import SQL, one, record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from service.domain.records import Actor
    from service.store.pool import Connection, Row

_SECRET = "secret"  # noqa: S105  the name of a field
_ROLES = frozenset({"viewer", "operator", "admin"})


class Published(Part):
    """The part of `Registry` that keeps tables and keys. What is put as it is already stored changes nothing."""

    async def table(self, account: str, name: str) -> PublicTable | None:
        """As `Registry.table`."""
        found = await self._select("select_tables", account=account, name=name)
        return _table_of(found[0]) if found else None

    async def tables(self, account: str) -> Sequence[PublicTable]:
        """As `Registry.tables`."""
        return [_table_of(row) for row in await self._select("select_tables", account=account)]

    async def put_table(
        self, account: str, actor: Actor, name: str, definition: Mapping[str, object]
    ) -> tuple[PublicTable, bool]:
        """As `Registry.put_table`. Raises NotFound for the account."""
        async with self._pool.transaction() as connection:
            owner = await account_id(connection, account)
            # The datasource's row, so that it is not removed while a table comes to lie in it.
            if await connection.fetchrow(SQL["lock_datasource"], owner, definition["datasource"]) is None:
                raise Conflict(
                    "datasource_unknown",
                    f"datasource {definition['datasource']!r} does not exist in this account",
                    hint="it was removed a moment ago; name another",
                )
            before = await connection.fetchrow(SQL["lock_table"], owner, name)
            if before is None or before["definition"] != dict(definition):
                await connection.execute(SQL["put_table"], uuid7(), owner, name, dict(definition))
                await record(connection, owner, "table_put", actor, name=name, created=before is None)
            row = await one(connection, "select_tables", account=account, name=name)
        return _table_of(row), before is None

    async def delete_table(self, account: str, actor: Actor, name: str) -> bool:
        """As `Registry.delete_table`."""
        async with self._pool.transaction() as connection:
            owner = await account_id(connection, account)
            gone = await connection.fetchval(SQL["delete_table"], owner, name) is not None
            if gone:
                await record(connection, owner, "table_deleted", actor, name=name)
            return gone

    async def key(self, key: str) -> SigningKey | None:
        """As `Registry.key`. Raises Permanent `secret_key_wrong` or `secret_key_required`."""
        row = await self._row_by_key.get(key)
        return None if row is None else self._key_of(row, secret=self._opened(row["secret"]))

    @cached_property
    def _row_by_key(self) -> Gathered[str, Row, Connection]:
        return Gathered(self._pool.connection, _read_keys)

    @cached_property
    def _opened(self) -> Callable[[bytes], str]:
        """What is in a sealed secret. Remembered: every signed request asks, and what is sealed anew differs."""
        return lru_cache(maxsize=256)(lambda sealed: self._box.open(sealed)[_SECRET])

    async def keys(self, account: str) -> Sequence[SigningKey]:
        """As `Registry.keys`."""
        return [self._key_of(row) for row in await self._select("select_keys", account=account)]

    async def create_key(
        self, account: str, actor: Actor, name: str, role: str, *, key: str, secret: str
    ) -> SigningKey:
        """As `Registry.create_key`. Raises ValueError for an unknown role, Permanent `secret_key_required`."""
        if role not in _ROLES:
            raise ValueError(f"role {role!r}: give viewer, operator or admin")
        sealed, key_id = self._box.seal({_SECRET: secret}), uuid7()
        async with self._pool.transaction() as connection:
            await connection.execute(SQL["ensure_account"], uuid7(), account)
            owner = await account_id(connection, account)
            created = await connection.fetchval(SQL["insert_key"], key_id, owner, name, key, role, sealed)
            if created is None:
                raise Conflict("name_taken", f"there is a key {name!r} already", hint="choose another name")
            await record(connection, owner, "key_created", actor, name=name, key=key, role=role)
        return SigningKey(key_id, account, name, key, role, created, secret)

    async def delete_key(self, account: str, actor: Actor, ref: str) -> bool:
        """As `Registry.delete_key`."""
        async with self._pool.transaction() as connection:
            owner = await account_id(connection, account)
            name = await connection.fetchval(SQL["delete_key"], account, ref)
            if name is not None:
                await record(connection, owner, "key_deleted", actor, name=name)
            return name is not None

    async def _select(self, query: str, **values: object) -> Sequence[Row]:
        text, arguments = compose(SQL[query], frozenset(values), values)
        async with self._pool.connection() as connection:
            return await connection.fetch(text, *arguments)

    @staticmethod
    def _key_of(row: Row, secret: str | None = None) -> SigningKey:
        return SigningKey(row["id"], row["account"], row["name"], row["key"], row["role"], row["created_at"], secret)


async def _read_keys(connection: Connection, keys: Sequence[str]) -> dict[str, Row]:
    text, arguments = compose(SQL["select_keys"], frozenset({"keys"}), {"keys": keys})
    return {row["key"]: row for row in await connection.fetch(text, *arguments)}


def _table_of(row: Row) -> PublicTable:
    return PublicTable(
        id=row["id"],
        account=row["account"],
        name=row["name"],
        revision=row["revision"],
        datasource=row["definition"]["datasource"],
        table=row["definition"]["table"],
        time_column=row["definition"]["time_column"],
        key=row["definition"]["key"],
        columns=row["definition"]["columns"],
        key_is_monotonic=row["definition"]["key_is_monotonic"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
