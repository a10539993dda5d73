"""Named things and who may use them: datasources, credentials, public tables, tokens, signing keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from service.domain.records import Actor, Job


@dataclass(frozen=True, slots=True)
class Token:
    """An API token; the token itself is shown once and kept hashed."""

    id: str
    name: str
    role: str
    account: str
    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class StoredDatasource:
    """A datasource as stored: `password` is a value, or a reference `env:…`/`file:…`, or None."""

    id: str
    account: str
    name: str
    revision: int
    definition: Mapping[str, object]
    """Everything but the password."""
    password: str | None = field(repr=False)
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class StoredCredential:
    """A named set of secret fields for sinks: values or references."""

    id: str
    account: str
    name: str
    revision: int
    secrets: Mapping[str, str] = field(repr=False)
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class PublicTable:
    """A table under the dotted name that the query dialect knows it by."""

    id: str
    account: str
    name: str
    revision: int
    datasource: str
    table: str
    """As `source.table` takes it."""
    time_column: str | None
    """What `eventdate`, `from` and `to` mean; None: the table has no time."""
    key: Sequence[str] | None
    """As `source.key`; None: the primary key."""
    columns: Sequence[str]
    key_is_monotonic: bool
    """The owner's word that keys only ever grow, in the order of commits."""
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that signs requests of the query dialect. Its secret is only there where one key is looked up."""

    id: str
    account: str
    name: str
    key: str
    role: str
    created_at: datetime
    secret: str | None = field(default=None, repr=False)


class Registry(Protocol):
    """Named things and who may use them."""

    async def datasource(self, account: str, name: str) -> StoredDatasource | None:
        """With the password decrypted, references unresolved."""

    async def datasources(self, account: str) -> Sequence[StoredDatasource]:
        """All, by name."""

    async def put_datasource(
        self, account: str, actor: Actor, name: str, definition: Mapping[str, object], password: str | None
    ) -> tuple[StoredDatasource, bool]:
        """Store; True when it was created."""

    async def delete_datasource(self, account: str, actor: Actor, name: str) -> bool:
        """Raises Conflict `datasource_in_use` naming a job that uses it."""

    async def credential(self, account: str, name: str) -> StoredCredential | None:
        """With the secrets decrypted, references unresolved."""

    async def credentials(self, account: str) -> Sequence[StoredCredential]:
        """All, by name."""

    async def put_credential(
        self, account: str, actor: Actor, name: str, secrets: Mapping[str, str]
    ) -> tuple[StoredCredential, bool]:
        """Store; True when it was created."""

    async def delete_credential(self, account: str, actor: Actor, name: str) -> bool:
        """Raises Conflict `credential_in_use` naming a job that uses it."""

    async def token(self, digest: bytes) -> Token | None:
        """By SHA-256 of the token; expired ones are None."""

    async def tokens(self, account: str) -> Sequence[Token]:
        """All of the account, without what they open."""

    async def create_token(
        self, account: str, actor: Actor, name: str, role: str, digest: bytes, expires_at: datetime | None
    ) -> Token:
        """Raises Conflict `name_taken`."""

    async def delete_token(self, account: str, actor: Actor, ref: str) -> bool:
        """By id or name."""

    async def table(self, account: str, name: str) -> PublicTable | None:
        """By its public name."""

    async def tables(self, account: str) -> Sequence[PublicTable]:
        """All, by name."""

    async def put_table(
        self, account: str, actor: Actor, name: str, definition: Mapping[str, object]
    ) -> tuple[PublicTable, bool]:
        """Store; True when it was created. `definition` has the fields of `PublicTable` from `datasource` to
        `key_is_monotonic`. Raises Conflict `datasource_unknown` when that was removed meanwhile."""

    async def delete_table(self, account: str, actor: Actor, name: str) -> bool:
        """False when there was none."""

    async def key(self, key: str) -> SigningKey | None:
        """By its public part, of any account; with the secret decrypted."""

    async def signed(self, key: str, job_id: str) -> tuple[SigningKey, Job] | None:
        """A key as `key` finds it, and the job of its account with this id, as `JobStore.get` finds it: both read in
        one go, after this call. None where one of them is not there: ask for each then. It says nothing of whether
        whoever asks has the key's secret."""

    async def keys(self, account: str) -> Sequence[SigningKey]:
        """All of the account by name, without their secrets."""

    async def create_key(
        self, account: str, actor: Actor, name: str, role: str, *, key: str, secret: str
    ) -> SigningKey:
        """Makes the account unless it exists. Raises Conflict `name_taken`."""

    async def delete_key(self, account: str, actor: Actor, ref: str) -> bool:
        """By name or by its public part."""

    async def any_token(self) -> bool:
        """Whether anybody could come in."""

    async def ensure_account(self, name: str) -> None:
        """Make the account unless it exists."""
