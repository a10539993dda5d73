"""What the API takes: the models that validate are the ones OpenAPI shows."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AwareDatetime, ConfigDict, Field, RootModel, SecretStr, model_validator

from service.domain.limits import EveryZones
from service.domain.spec import JobSpec, Name
from service.domain.states import State
from service.domain.strict import Strict
from sinks.format_spec import FormatSpec
from sinks.specs import AnySinkSpec, ElasticsearchSinkSpec

Role = Literal["viewer", "operator", "admin"]
KeyText = Annotated[str | list[str] | None, Field(description="text, or a list of texts for a composite key")]
# What the reader sets itself: another value would change what rows look like, or where they are looked for.
PINNED_PROPERTIES = frozenset(
    {
        "timezone",
        "datestyle",
        "intervalstyle",
        "extra_float_digits",
        "bytea_output",
        "client_encoding",
        "lc_monetary",
        "search_path",
        "xmloption",
        "row_security",
        "application_name",
        "statement_timeout",
        "idle_in_transaction_session_timeout",
        "transaction_timeout",
        "default_transaction_read_only",
        "transaction_read_only",
        "session_authorization",
    }
)


class JobDefinition(JobSpec):
    """A job as given."""

    sink: AnySinkSpec  # type: ignore[assignment]  # narrowed: the open model only carries what this one validates
    format: FormatSpec = FormatSpec()  # type: ignore[assignment]  # as above

    @model_validator(mode="after")
    def _together(self) -> Self:
        replaces = isinstance(self.sink, ElasticsearchSinkSpec) and self.sink.strategy == "replace"
        if replaces and self.mode in {"incremental", "continuous"}:
            raise ValueError(
                f"sink.strategy 'replace' does not go with mode {self.mode!r}: each run would replace all documents by "
                "the new ones alone; use mode full, or strategy incremental"
            )
        return self


def _host(value: str) -> str:
    if not value.isascii() or any(character in value for character in "/\\@?# \t\r\n,"):
        raise ValueError("give one host name or address, without scheme, port, user or path")
    return value


class Tls(Strict):
    """As libpq: `mode` is its sslmode, `ca` the PEM of the authorities to trust."""

    mode: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] = "prefer"
    ca: str | None = None


class DatasourceDefinition(Strict):
    """A named Postgres connection, part by part; on PUT `url` may stand instead of host, port, database, user and
    password."""

    name: Name | None = None
    host: Annotated[str, Field(min_length=1, max_length=253), AfterValidator(_host)]
    port: int = Field(default=5432, ge=1, le=65535)
    database: str = Field(min_length=1, max_length=63)
    user: str = Field(min_length=1, max_length=63)
    password: SecretStr | None = Field(default=None, description="a value, or env:NAME or file:PATH")
    tls: Tls = Tls()
    time_zone: str | None = Field(default=None, min_length=1, max_length=64)
    properties: dict[str, str] = Field(default_factory=dict, max_length=32)
    max_connections: int | None = Field(default=None, ge=1, le=1000)
    barrier: Name | None = Field(default=None, description="of a standby: the datasource that is its primary")

    @model_validator(mode="after")
    def _free_properties(self) -> Self:
        for name in self.properties:
            if name.lower() in PINNED_PROPERTIES:
                raise ValueError(f"properties.{name} is set by the reader itself; remove it")
        return self


class DatasourceByUrl(Strict):
    """The same with host, port, database, user and password in one; the password is kept apart at once."""

    name: Name | None = None
    url: SecretStr = Field(description="postgresql://user:password@host:port/database?sslmode=require")
    tls: Tls = Tls()
    time_zone: str | None = None
    properties: dict[str, str] = Field(default_factory=dict)
    max_connections: int | None = None
    barrier: Name | None = None


class DatasourceRequest(RootModel[DatasourceDefinition | DatasourceByUrl]):
    """Part by part, or by URL."""


class CredentialDefinition(Strict):
    """A named set of secret fields for sinks."""

    name: Name | None = None
    secrets: dict[str, SecretStr] = Field(
        min_length=1,
        description="secret field of a sink, or `salt` of masks -> a value, or env:NAME or file:PATH; null removes one",
    )


class TableDefinition(Strict):
    """A table under a dotted public name."""

    name: Name | None = None
    datasource: Name
    table: str = Field(min_length=1, max_length=260, description="`schema.table`, quoted as in SQL where needed")
    time_column: str | None = Field(
        default=None, min_length=1, max_length=63, description="what `eventdate`, `from` and `to` mean"
    )
    key: list[str] | None = Field(
        default=None, min_length=1, max_length=8, description="columns of a unique index; null: the primary key"
    )
    columns: list[str] = Field(default=["*"], min_length=1)
    key_is_monotonic: bool = Field(default=False, description="keys only grow, in the order of commits: at your word")


class KeyRequest(Strict):
    """A new key and secret pair of the caller's account."""

    name: Name
    role: Role
    account: Name | None = Field(default=None, description="only for the token of ROWFERRY_ADMIN_TOKEN")


class TokenRequest(Strict):
    """A new token of the caller's account."""

    name: Name
    role: Role
    account: Name | None = Field(default=None, description="only for the token of ROWFERRY_ADMIN_TOKEN")
    expires_at: Annotated[AwareDatetime | None, Field(strict=False), EveryZones] = None


class CloneRequest(Strict):
    """The name of the copy."""

    name: Name


class CheckpointSplit(Strict):
    """One range: rows above `last_id` (else above `lower`), up to and with `upper`."""

    ordinal: int | None = Field(default=None, ge=0)
    lower: KeyText = None
    upper: KeyText = None
    last_id: KeyText = None
    done: bool = False


class CheckpointRequest(Strict):
    """Where the next run begins. `generation` is the one the caller saw."""

    generation: int = Field(ge=0)
    last_id: KeyText = None
    splits: list[CheckpointSplit] | None = Field(default=None, min_length=1, max_length=1000)
    allow_repeats: bool = False

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if ("last_id" in self.model_fields_set) == (self.splits is not None):
            raise ValueError("give either last_id or splits; last_id null is the beginning")
        return self


def _state(value: str) -> str:
    if value not in set(State):
        raise ValueError(f"{value[:80]!r} is no state; the states are {', '.join(State)}")
    return value


class Filter(Strict):
    """Which jobs a bulk verb means: the names of the list's query."""

    state: list[Annotated[str, AfterValidator(_state)]] | None = None
    sink: str | None = None
    mode: str | None = None
    datasource: str | None = None
    label: dict[str, str] | None = None
    q: str | None = None
    stalled: bool | None = None
    error_code: str | None = None
    created_from: Annotated[AwareDatetime | None, Field(strict=False), EveryZones] = None
    created_to: Annotated[AwareDatetime | None, Field(strict=False), EveryZones] = None


class BulkRequest(Strict):
    """One verb for many jobs."""

    verb: Literal["start", "stop", "abort"]
    ids: list[str] | None = Field(default=None, min_length=1, max_length=500, description="ids or names")
    filter: Filter | None = None
    dry_run: bool = False

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.ids is None) == (self.filter is None):
            raise ValueError("give either ids or filter")
        if self.filter is not None and not self.filter.model_fields_set:
            raise ValueError("an empty filter would mean every job; name what you mean, or ids")
        return self


class VerifyRequest(Strict):
    """What to compare: the chunks of one run, or of all runs of the current generation."""

    run_id: str | None = Field(default=None, min_length=1, max_length=64)
    checksums: bool = Field(default=False, description="compare whole rows, not their keys alone")


class JobPatch(Strict):
    """A merge patch (RFC 7396) of what may change in any state; null takes the default, of `schedule` none."""

    labels: dict[str, str | None] | None = None
    schedule: dict[Literal["dialect", "cron", "time_zone", "enabled", "missed"], Any] | None = None
    options: dict[Literal["rate", "ease", "retry", "dead_letters"], dict[str, Any] | None] | None = None


class DeadLettersRetryRequest(Strict):
    """Which dead letters to send again, and what: `source` reads each row by its key, `payload` sends what was kept."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)

    ids: list[str] | None = Field(default=None, min_length=1, max_length=10_000, description="all where left out")
    from_: Literal["source", "payload"] = Field(default="source", alias="from")
