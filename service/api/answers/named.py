"""Named things: datasources and what they hold, credentials, public tables, keys, tokens."""

from __future__ import annotations

from service.api.answers.base import Answer, Identity, Moment


class TlsAnswer(Answer):
    """As given."""

    mode: str
    ca: str | None


class DatasourceAnswer(Answer):
    """A datasource; the password is never shown."""

    name: str
    host: str
    port: int
    database: str
    user: str
    password: str | None
    tls: TlsAnswer
    time_zone: str | None
    properties: dict[str, str]
    max_connections: int | None
    barrier: str | None
    created_at: Moment
    updated_at: Moment


class DatasourcesAnswer(Answer):
    """All of the account, by name."""

    datasources: list[DatasourceAnswer]


class ColumnAnswer(Answer):
    """One column."""

    name: str
    type: str
    nullable: bool


class TableAnswer(Answer):
    """A table that a job could read."""

    name: str
    kind: str
    columns: list[ColumnAnswer]
    keys: list[list[str]]
    estimated_rows: int | None


class TablesAnswer(Answer):
    """A page of tables, by name."""

    tables: list[TableAnswer]
    next: str | None


class CredentialAnswer(Answer):
    """A credential; no value is ever shown."""

    name: str
    secrets: dict[str, str]
    created_at: Moment
    updated_at: Moment


class CredentialsAnswer(Answer):
    """All of the account, by name."""

    credentials: list[CredentialAnswer]


class PublicTableAnswer(Answer):
    """A table under its public name."""

    name: str
    datasource: str
    table: str
    time_column: str | None
    key: list[str] | None
    columns: list[str]
    key_is_monotonic: bool
    created_at: Moment
    updated_at: Moment


class PublicTablesAnswer(Answer):
    """All of the account, by name."""

    tables: list[PublicTableAnswer]


class KeyAnswer(Answer):
    """A key of the Devo dialect without its secret."""

    key: str
    name: str
    role: str
    account: str
    created_at: Moment


class NewKeyAnswer(KeyAnswer):
    """A new pair; `secret` is shown this once."""

    secret: str


class KeysAnswer(Answer):
    """All of the account, by name."""

    keys: list[KeyAnswer]


class TokenAnswer(Answer):
    """A token without what it opens."""

    id: Identity
    name: str
    role: str
    account: str
    created_at: Moment
    expires_at: Moment | None


class NewTokenAnswer(TokenAnswer):
    """A new token; `token` is shown this once."""

    token: str


class TokensAnswer(Answer):
    """All of the account, by name."""

    tokens: list[TokenAnswer]
