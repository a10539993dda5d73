"""Accounts, datasources, credentials and tokens."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from service.domain.errors import Conflict
from service.domain.named import StoredCredential, StoredDatasource, Token
from service.store.clauses import compose
from service.store.gathered import Gathered
from service.store.ids import uuid7
from service.store.part import Part, account_id
from service.store.sql import load

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from service.domain.records import Actor
    from service.store.pool import Connection, Row

SQL = load("registry")

_PASSWORD = "password"  # noqa: S105  the name of a field


class Named(Part):
    """`Registry`, over tables of their own. What is put as it is already stored changes nothing, not even the
    revision."""

    async def ensure_account(self, name: str) -> None:
        """As `Registry.ensure_account`."""
        async with self._pool.connection() as connection:
            await connection.execute(SQL["ensure_account"], uuid7(), name)

    async def datasource(self, account: str, name: str) -> StoredDatasource | None:
        """As `Registry.datasource`."""
        rows = await self._rows("select_datasources", account=account, name=name)
        return self._datasource_of(rows[0]) if rows else None

    async def datasources(self, account: str) -> Sequence[StoredDatasource]:
        """As `Registry.datasources`."""
        return [self._datasource_of(row) for row in await self._rows("select_datasources", account=account)]

    async def put_datasource(
        self, account: str, actor: Actor, name: str, definition: Mapping[str, object], password: str | None
    ) -> tuple[StoredDatasource, bool]:
        """As `Registry.put_datasource`; `password` None stores none. Raises NotFound for the account, Permanent
        `secret_key_required` for a password without a key."""
        sealed = None if password is None else self._box.seal({_PASSWORD: password})
        async with self._pool.transaction() as connection:
            owner = await account_id(connection, account)
            before = await connection.fetchrow(SQL["lock_datasource"], owner, name)
            known = None if before is None else self._box.open(before["password"]).get(_PASSWORD)
            if before is None or before["definition"] != dict(definition) or known != password:
                await connection.execute(SQL["put_datasource"], uuid7(), owner, name, dict(definition), sealed)
                await record(connection, owner, "datasource_put", actor, name=name, created=before is None)
            row = await one(connection, "select_datasources", account=account, name=name)
        return self._datasource_of(row), before is None

    async def delete_datasource(self, account: str, actor: Actor, name: str) -> bool:
        """As `Registry.delete_datasource`."""
        async with self._pool.transaction() as connection:
            owner = await account_id(connection, account)
            if await connection.fetchrow(SQL["lock_datasource"], owner, name) is None:
                return False
            job = await connection.fetchval(SQL["job_with_datasource"], owner, name)
            if job is not None:
                raise Conflict(
                    "datasource_in_use",
                    f"job {job!r} reads from datasource {name!r}",
                    hint="remove the job, or let it read from another",
                    job=job,
                )
            table = await connection.fetchval(SQL["table_with_datasource"], owner, name)
            if table is not None:
                raise Conflict(
                    "datasource_in_use",
                    f"table {table!r} lies in datasource {name!r}",
                    hint="remove the table, or let it lie in another",
                    table=table,
                )
            await connection.execute(SQL["delete_datasource"], owner, name)
            await record(connection, owner, "datasource_deleted", actor, name=name)
            return True

    async def credential(self, account: str, name: str) -> StoredCredential | None:
        """As `Registry.credential`."""
        rows = await self._rows("select_credentials", account=account, name=name)
        return self._credential_of(rows[0]) if rows else None

    async def credentials(self, account: str) -> Sequence[StoredCredential]:
        """As `Registry.credentials`."""
        return [self._credential_of(row) for row in await self._rows("select_credentials", account=account)]

    async def put_credential(
        self, account: str, actor: Actor, name: str, secrets: Mapping[str, str]
    ) -> tuple[StoredCredential, bool]:
        """As `Registry.put_credential`. Raises ValueError for no secrets, NotFound for the account, Permanent
        `secret_key_required` without a key."""
        sealed = self._box.seal(secrets)
        if sealed is None:
            raise ValueError(f"credential {name!r} has no secret fields: give at least one")
        async with self._pool.transaction() as connection:
            owner = await account_id(connection, account)
            before = await connection.fetchrow(SQL["lock_credential"], owner, name)
            if before is None or self._box.open(before["secrets"]) != dict(secrets):
                await connection.execute(SQL["put_credential"], uuid7(), owner, name, sealed)
                await record(connection, owner, "credential_put", actor, name=name, created=before is None)
            row = await one(connection, "select_credentials", account=account, name=name)
        return self._credential_of(row), before is None

    async def delete_credential(self, account: str, actor: Actor, name: str) -> bool:
        """As `Registry.delete_credential`; a removed job uses its credential until its clean-up has ended, and a job
        that changed to another until the generation made with this one is closed."""
        async with self._pool.transaction() as connection:
            owner = await account_id(connection, account)
            if await connection.fetchrow(SQL["lock_credential"], owner, name) is None:
                return False
            job = await connection.fetchrow(SQL["job_with_credential"], owner, name)
            if job is not None:
                who = "the clean-up of removed job" if job["removed"] else "job"
                raise Conflict(
                    "credential_in_use",
                    f"{who} {job['name']!r} uses credential {name!r}",
                    hint="try again when it has ended" if job["removed"] else "remove the job, or let it use another",
                    job=job["name"],
                )
            await connection.execute(SQL["delete_credential"], owner, name)
            await record(connection, owner, "credential_deleted", actor, name=name)
            return True

    async def token(self, digest: bytes) -> Token | None:
        """As `Registry.token`."""
        return await self._token_by_digest.get(digest)

    @cached_property
    def _token_by_digest(self) -> Gathered[bytes, Token, Connection]:
        return Gathered(self._pool.connection, _read_tokens)

    async def tokens(self, account: str) -> Sequence[Token]:
        """As `Registry.tokens`, by name; expired ones too."""
        return [_token_of(row) for row in await self._rows("select_tokens", account=account)]

    async def create_token(
        self, account: str, actor: Actor, name: str, role: str, digest: bytes, expires_at: datetime | None
    ) -> Token:
        """As `Registry.create_token`; makes the account unless it exists. Raises ValueError for an unknown role."""
        if role not in {"viewer", "operator", "admin"}:
            raise ValueError(f"role {role!r}: give viewer, operator or admin")
        token_id = uuid7()
        async with self._pool.transaction() as connection:
            await connection.execute(SQL["ensure_account"], uuid7(), account)
            owner = await account_id(connection, account)
            created = await connection.fetchval(SQL["insert_token"], token_id, owner, name, role, digest, expires_at)
            if created is None:
                raise Conflict("name_taken", f"there is a token {name!r} already", hint="choose another name")
            await record(connection, owner, "token_created", actor, name=name, role=role)
        return Token(token_id, name, role, account, created, expires_at)

    async def delete_token(self, account: str, actor: Actor, ref: str) -> bool:
        """As `Registry.delete_token`."""
        async with self._pool.transaction() as connection:
            owner = await account_id(connection, account)
            name = await connection.fetchval(SQL["delete_token"], account, ref)
            if name is not None:
                await record(connection, owner, "token_deleted", actor, name=name)
            return name is not None

    async def any_token(self) -> bool:
        """As `Registry.any_token`; expired ones open nothing."""
        async with self._pool.connection() as connection:
            return bool(await connection.fetchval(SQL["any_token"]))

    async def _rows(self, query: str, **values: object) -> Sequence[Row]:
        text, arguments = compose(SQL[query], frozenset(values), values)
        async with self._pool.connection() as connection:
            return await connection.fetch(text, *arguments)

    def _datasource_of(self, row: Row) -> StoredDatasource:
        return StoredDatasource(
            id=row["id"],
            account=row["account"],
            name=row["name"],
            revision=row["revision"],
            definition=row["definition"],
            password=self._box.open(row["password"]).get(_PASSWORD),
            created_at=row["created_at"],
            updated_at=row["updated_at"],
        )

    def _credential_of(self, row: Row) -> StoredCredential:
        return StoredCredential(
            id=row["id"],
            account=row["account"],
            name=row["name"],
            revision=row["revision"],
            secrets=self._box.open(row["secrets"]),
            created_at=row["created_at"],
            updated_at=row["updated_at"],
        )


async def one(connection: Connection, query: str, **values: object) -> Row:
    """A row that this transaction has written."""
    text, arguments = compose(SQL[query], frozenset(values), values)
    row = await connection.fetchrow(text, *arguments)
    assert row is not None, "written in this transaction"
    return row


async def record(connection: Connection, owner: str, event: str, actor: Actor, **details: Any) -> None:
    """The event of a change of a named thing, in the same transaction."""
    await connection.execute(SQL["record"], owner, event, actor.name or None, actor.origin, actor.request_id, details)


async def _read_tokens(connection: Connection, digests: Sequence[bytes]) -> dict[bytes, Token]:
    text, arguments = compose(SQL["select_tokens"], frozenset({"digests"}), {"digests": digests})
    return {row["digest"]: _token_of(row) for row in await connection.fetch(text, *arguments)}


def _token_of(row: Row) -> Token:
    return Token(row["id"], row["name"], row["role"], row["account"], row["created_at"], row["expires_at"])
