"""What the API answers: the models that OpenAPI shows are the ones that write the JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema

if TYPE_CHECKING:
    from service.domain.records import Key

Identity = Annotated[str, Field(json_schema_extra={"format": "uuid"})]


def rfc3339(value: datetime) -> str:
    """UTC, always with microseconds."""
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


Moment = Annotated[datetime, PlainSerializer(rfc3339), WithJsonSchema({"type": "string", "format": "date-time"})]
KeyText = Annotated[str | list[str] | None, Field(description="text, or a list of texts for a composite key")]


def key_text(key: Key | None) -> str | list[str] | None:
    """A key as the API writes it."""
    return None if key is None else key[0] if len(key) == 1 else list(key)


class Answer(BaseModel):
    """Base of every answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CauseAnswer(Answer):
    """One link of a cause chain."""

    code: str
    message: str
    at: Moment
    retryable: bool


class RunAnswer(Answer):
    """One execution of a job."""

    id: Identity
    number: int
    job_id: Identity
    job_name: str
    generation: int
    trigger: str
    state: str
    sink: str
    started_at: Moment
    ended_at: Moment | None
    rows_read: int
    rows_sent: int
    rows_dead: int
    rows_maybe_doubled: int
    rows_late: int
    bytes_sent: int
    last_id: KeyText
    rows_per_second: float | None
    splits_done: int
    splits_total: int
    progress: float | None = Field(description="0 to 1; null where the number of rows is unknown")
    eta_seconds: float | None
    labels: dict[str, str]
    errors: list[CauseAnswer]


class TotalsAnswer(Answer):
    """Over all runs."""

    rows_read: int
    rows_sent: int
    rows_dead: int
    rows_late: int
    bytes_sent: int
    runs: int


class SplitAnswer(Answer):
    """Where one split stands."""

    ordinal: int
    lower: KeyText
    upper: KeyText
    last_id: KeyText
    done: bool


class PositionAnswer(Answer):
    """Where the current generation stands."""

    generation: int
    splits: list[SplitAnswer]


class SnapshotAnswer(Answer):
    """The moment as of which a job's current generation is read."""

    taken_at: Moment
    until: Moment
    pid: int
    held: bool


class JobAnswer(Answer):
    """A job as answered."""

    id: Identity
    name: str
    account: str
    owner: str
    spec: dict[str, Any]
    generation: int
    state: str
    desired: str | None
    verbs: list[str]
    reason: str | None
    guarantee: str
    guarantee_note: str
    run: RunAnswer | None
    totals: TotalsAnswer
    last_id: KeyText
    position: PositionAnswer
    horizon: dict[str, Any] | None
    snapshot: SnapshotAnswer | None
    lag: dict[str, Any] | None
    stalled: bool
    waiting_for: str | None
    retrying: dict[str, Any] | None
    last_progress_at: Moment | None
    errors: list[CauseAnswer]
    created_at: Moment
    updated_at: Moment
    state_changed_at: Moment
    next_run_at: Moment | None


class JobsAnswer(Answer):
    """A page of jobs."""

    jobs: list[JobAnswer]
    next: str | None


class RunsAnswer(Answer):
    """A page of the job log."""

    runs: list[RunAnswer]
    next: str | None


class RangeAnswer(Answer):
    """Keys above `lower`, up to and with `upper`."""

    lower: KeyText
    upper: KeyText


class CheckpointAnswer(Answer):
    """The position; after a PUT `repeats` are the delivered ranges that come again."""

    generation: int
    last_id: KeyText
    splits: list[SplitAnswer]
    repeats: list[RangeAnswer] | None = None


class OutputAnswer(Answer):
    """One visible chunk."""

    run_id: Identity
    generation: int
    split: int
    sequence: int
    target: str
    partition: int | None
    first_offset: int | None
    last_offset: int | None
    rows: int
    bytes: int
    etag: str | None
    checksum: str | None
    first_id: KeyText
    last_id: KeyText
    committed_at: Moment


class OutputsAnswer(Answer):
    """A page of outputs."""

    outputs: list[OutputAnswer]
    next: str | None


class LogLineAnswer(Answer):
    """One line of the log."""

    seq: int
    at: Moment
    level: str
    event: str
    message: str
    job_id: Identity | None
    run_id: Identity | None
    split: int | None
    epoch: int | None
    request_id: str | None
    fields: dict[str, Any]


class LogAnswer(Answer):
    """A page of the log."""

    lines: list[LogLineAnswer]
    next: str | None


class EventAnswer(Answer):
    """Who did what, when, from where; or a change of state."""

    seq: int
    at: Moment
    event: str
    job_id: Identity | None
    job_name: str | None
    run_id: Identity | None
    actor: str | None
    origin: str | None
    state_from: str | None
    state_to: str | None
    details: dict[str, Any]


class EventsAnswer(Answer):
    """A page of events."""

    events: list[EventAnswer]
    next: str | None


class ReasonAnswer(Answer):
    """Why a row is a dead letter."""

    code: str
    message: str


class DeadLetterAnswer(Answer):
    """A row that could not be delivered."""

    id: Identity
    run_id: Identity
    generation: int
    split: int
    key: KeyText
    reason: ReasonAnswer
    payload: str | None = Field(description="the record as sent, its beginning where it is long; null: never read")
    payload_bytes: int | None = Field(description="of the whole record; more than the payload's: it was cut")
    at: Moment
    retries: int
    note: str | None = Field(description="what came of the last retry, beside the reason")
    retrying: bool = Field(description="a retry has it in hand")


class DeadLettersAnswer(Answer):
    """A page of dead letters, in the order in which they became final."""

    dead_letters: list[DeadLetterAnswer]
    next: str | None


class DeadLettersRetryAnswer(Answer):
    """What is being sent again; the event `dead_letters_retried` tells of the end."""

    from_: str = Field(serialization_alias="from", validation_alias="from")
    dead_letters: int
    notes: list[str]
    """What a person should know of these rows."""


class DeadLettersDeletedAnswer(Answer):
    """How many went."""

    deleted: int


class FindingAnswer(Answer):
    """One thing that validation has to say."""

    pointer: str
    severity: str
    code: str
    message: str
    hint: str


class ValidationAnswer(Answer):
    """`valid` when no finding is an error."""

    valid: bool
    findings: list[FindingAnswer]


class EstimateAnswer(Answer):
    """How much the definition lets through from the beginning, as the source's planner and catalog see it."""

    rows: int | None
    bytes: int | None


class OutlookAnswer(Answer):
    """What is known before the first row; null and empty where something stands in the way."""

    findings: list[FindingAnswer]
    guarantee: str | None
    guarantee_note: str
    key: list[str] = Field(description="as given, or the primary key")
    index: str | None = Field(description="gives the rows in the key's order")
    estimate: EstimateAnswer


class JobValidationAnswer(OutlookAnswer):
    """`valid` when no finding is an error."""

    valid: bool


class PreviewRowAnswer(Answer):
    """One row as the sink would get it."""

    key: KeyText
    value: str


class PreviewAnswer(OutlookAnswer):
    """The first rows, and what is to be said about all of them."""

    rows: list[PreviewRowAnswer]
    format: str


class BulkResultAnswer(Answer):
    """What became of one job."""

    id: str
    name: str | None
    status: int
    state: str | None
    code: str | None
    detail: str | None


class BulkAnswer(Answer):
    """Per job, in the order asked for."""

    verb: str
    dry_run: bool
    results: list[BulkResultAnswer]


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


class HealthAnswer(Answer):
    """The process serves."""

    status: str


class CheckAnswer(Answer):
    """One dependency. `error` and `since` only with a token."""

    ok: bool
    error: str | None = None
    since: Moment | None = None


class ReadyAnswer(Answer):
    """Whether everything the service needs is there."""

    ready: bool
    checks: dict[str, CheckAnswer]


class InfoAnswer(Answer):
    """What this service is and has."""

    version: str
    engine: str
    sinks: list[str]
    formats: list[str]
    modes: list[str]
