"""A job as given: the models that validate, are stored as JSON and describe themselves in OpenAPI.

Sink and format are left open here (`kind` and whatever else): their models live in `sinks.specs`, and
`service.api.models` joins the two.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from service.domain.cron import Dialect, parse
from service.domain.limits import FASTEST, LONGEST_SECONDS, EveryZones
from service.domain.schedules import is_zone
from service.domain.shape import ALL, ColumnEntry, SoftDelete, names_of
from service.domain.window import MOST_LATE_KEYS, refuse_window

Mode = Literal["once", "full", "incremental", "continuous"]

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
_UUID = re.compile(r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")


def _not_a_uuid(value: str) -> str:
    if _UUID.match(value):
        raise ValueError(f"{value!r} has the form of an id; choose a name that can not be taken for one")
    return value


Name = Annotated[str, Field(pattern=NAME_PATTERN), AfterValidator(_not_a_uuid)]


class Strict(BaseModel):
    """Base of every model of the API: unknown fields are errors and nothing is coerced."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TimeRange(Strict):
    """Rows whose `column` is at or after `from` and before `to`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)

    column: str = Field(min_length=1)
    from_: Annotated[datetime | None, Field(alias="from", strict=False), EveryZones] = None
    to: Annotated[datetime | None, Field(strict=False), EveryZones] = None


class SourceCredentials(Strict):
    """Whom to read as, in the place of the datasource's own user."""

    user: str = Field(min_length=1, max_length=63)
    password: SecretStr | None = None


class Transform(Strict):
    """One more column, made by Postgres out of those that the query gives."""

    input: list[str] = Field(min_length=1, max_length=100, description="columns of the query")
    output: str = Field(min_length=1, max_length=63, description="a column of this name is replaced")
    kind: Literal["copy", "geo_point", "array"] = Field(
        default="copy", description="`geo_point`: of latitude and longitude; `array`: of all inputs, in their order"
    )

    @model_validator(mode="after")
    def _inputs(self) -> Transform:
        most = {"copy": 1, "geo_point": 2, "array": len(self.input)}[self.kind]
        if len(self.input) > most:
            raise ValueError(f"input of {self.kind} is {'one column' if most == 1 else 'latitude and longitude'}")
        return self


class SourceSpec(Strict):
    """What to read: a table, one SELECT, or a template of one."""

    datasource: str = Field(min_length=1)
    table: str | None = Field(default=None, min_length=1, description="`schema.table`, quoted as in SQL where needed")
    query: str | None = Field(default=None, min_length=1, description="one SELECT; stands instead of `table`")
    template: str | None = Field(
        default=None,
        min_length=1,
        description="a mustache template of one SELECT, rendered once a run; stands instead of `query`",
    )
    transforms: list[Transform] = Field(default=[], max_length=1000, description="further columns of a template")
    credentials: SourceCredentials | None = None
    columns: list[ColumnEntry] = Field(
        default=["*"], min_length=1, max_length=1600, description="names, `*`, and entries that rename, compute or mask"
    )
    where: str | None = Field(default=None, min_length=1, description="one SQL expression")
    key: list[str] | None = Field(default=None, min_length=1, max_length=8)
    time: TimeRange | None = None
    limit: int | None = Field(default=None, ge=1)
    soft_delete: SoftDelete | None = Field(default=None, description="deleted rows become tombstones")

    @model_validator(mode="after")
    def _one_of(self) -> SourceSpec:
        if sum(one is not None for one in (self.table, self.query, self.template)) != 1:
            raise ValueError("give either table or query, or a template of a query")
        if self.transforms and self.template is None:
            raise ValueError("transforms go with template; a query makes its columns itself")
        if self.query is not None and self.key is None:
            raise ValueError("query needs key: the output columns that are unique and can be compared")
        named = [*names_of(self.columns), *(ALL for one in self.columns if one == ALL)]
        if twice := sorted({name for name in named if named.count(name) > 1}):
            raise ValueError(f"columns gives {', '.join(map(repr, twice))} more than once; name each with `as`")
        return self


class ChunkOptions(Strict):
    """A chunk closes at whichever comes first."""

    rows: int = Field(default=50_000, ge=1, le=10_000_000)
    bytes: int = Field(default=16 * 1024 * 1024, ge=1024, le=1024**3)
    seconds: Annotated[float, Field(ge=0.05, le=600, strict=False)] = 5.0


class RateOptions(Strict):
    """Upper limits for the whole job; null is no limit. Can be changed while the job runs."""

    rows_per_second: Annotated[float | None, Field(gt=0, le=FASTEST, strict=False)] = None
    bytes_per_second: Annotated[float | None, Field(gt=0, le=FASTEST, strict=False)] = None


class EaseOptions(Strict):
    """Reading waits while the source's server has more than this to do for others. Can be changed while the job
    runs."""

    active_sessions: int = Field(ge=1, le=10_000, description="statements under way that are not this product's")


class SafetyOptions(Strict):
    """How rows whose keys commit out of order are kept from being passed over."""

    kind: Literal["commit", "delay", "none"] = "commit"
    delay_seconds: Annotated[float | None, Field(gt=0, le=86_400, strict=False)] = None

    @model_validator(mode="after")
    def _delay(self) -> SafetyOptions:
        if (self.kind == "delay") != (self.delay_seconds is not None):
            raise ValueError("delay_seconds belongs to kind delay, and kind delay needs it")
        return self


class DeadLetterOptions(Strict):
    """How many rows a run may set aside before it ends in error: both limits hold, and with 0 the first one is too
    many. Can be changed while the job runs."""

    max_rows: int = Field(default=0, ge=0, le=1_000_000)
    max_ratio: Annotated[
        float | None,
        Field(gt=0, le=1, strict=False, description="of the rows that the run has read, and of at least 1,000"),
    ] = None

    @model_validator(mode="after")
    def _both(self) -> DeadLetterOptions:
        if self.max_ratio is not None and self.max_rows == 0:
            raise ValueError(
                "max_ratio needs max_rows above 0: the most rows that may be set aside, whatever the ratio"
            )
        return self


class RetryOptions(Strict):
    """Retries go on in place until this long without progress."""

    max_without_progress_seconds: Annotated[float, Field(gt=0, le=LONGEST_SECONDS, strict=False)] = 900.0


def _splits(value: object) -> object:
    if value != "auto" and (type(value) is not int or not 1 <= value <= _MOST_SPLITS):
        raise ValueError(f'must be a valid integer greater than or equal to 1, at most {_MOST_SPLITS}, or "auto"')
    return value


_MOST_SPLITS = 64
SNAPSHOT_SECONDS = 3600.0
"""How old a snapshot may become where nobody says: what VACUUM can not remove meanwhile stays small."""
Splits = Annotated[
    int | Literal["auto"],
    PlainValidator(_splits),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer", "minimum": 1, "maximum": _MOST_SPLITS}, {"const": "auto", "type": "string"}],
            "description": "`auto`: as many as rows and bytes are worth, and cores, connections and sink can use",
        }
    ),
]


class Options(Strict):
    """How to move it."""

    splits: Splits = 1
    page_bytes: int = Field(default=4 * 1024 * 1024, ge=64 * 1024, le=64 * 1024 * 1024)
    chunk: ChunkOptions = ChunkOptions()
    rate: RateOptions = RateOptions()
    ease: EaseOptions | None = None
    safety: SafetyOptions = SafetyOptions()
    late_window: int | None = Field(
        default=None, ge=1, le=MOST_LATE_KEYS, description="this many rows behind the last are looked at again"
    )
    poll_seconds: Annotated[float, Field(ge=0.05, le=3600, strict=False)] = 1.0
    stop_timeout_seconds: Annotated[float, Field(ge=0.1, le=3600, strict=False)] = 30.0
    dead_letters: DeadLetterOptions = DeadLetterOptions()
    retry: RetryOptions = RetryOptions()
    timeout_seconds: Annotated[float | None, Field(gt=0, le=LONGEST_SECONDS, strict=False)] = None
    single_row_timeout_seconds: Annotated[float, Field(ge=1, le=3600, strict=False)] = 60.0
    max_row_bytes: int = Field(default=64 * 1024 * 1024, ge=1024, le=1024**3)
    allow_long_statements: bool = False
    key_is_monotonic: bool = Field(
        default=False, description="at your word: keys rise in the order in which writers take their locks"
    )
    barrier_sequences: list[str] = Field(
        default=[], max_length=16, description="`schema.sequence`: what numbers a key that is monotonic at your word"
    )
    barrier_timeout_seconds: Annotated[
        float | None, Field(gt=0, le=604_800, strict=False, description="the longest that rows wait for writers to end")
    ] = None
    schema_change: Literal["fail", "continue"] = Field(
        default="fail", description="when the source's columns change while it is read"
    )
    snapshot: bool = Field(default=False, description="read all splits as of one moment, in one exported snapshot")
    snapshot_max_age_seconds: Annotated[float, Field(ge=1, le=86_400, strict=False)] = Field(
        default=SNAPSHOT_SECONDS, description="how long that moment may be held open on the source"
    )
    row_security: bool = Field(
        default=False, description="read what the role's policies let it see, instead of failing"
    )
    key_is_unique: bool = Field(
        default=False, description="at your word; the reader looks at every row, and ends the run at a repeated key"
    )

    @model_validator(mode="after")
    def _at_your_word(self) -> Options:
        if self.barrier_sequences and not self.key_is_monotonic:
            raise ValueError("barrier_sequences needs key_is_monotonic: true, for it is at your word that they count")
        return self

    @model_validator(mode="after")
    def _of_a_snapshot(self) -> Options:
        if self.snapshot_max_age_seconds != SNAPSHOT_SECONDS and not self.snapshot:
            raise ValueError("snapshot_max_age_seconds needs snapshot: true")
        return self


class ScheduleSpec(Strict):
    """When the job starts by itself. Can be changed in any state, at once in force."""

    dialect: Dialect = Field(default="unix", description="`unix`: five fields; `quartz`: with seconds, L, W, # and ?")
    cron: str = Field(min_length=1, max_length=512)
    time_zone: str = Field(default="UTC", max_length=64, description="a name of the IANA database")
    enabled: bool = True
    missed: Literal["run_once", "skip"] = Field(
        default="run_once", description="what becomes of times at which no service ran"
    )

    @field_validator("cron")
    @classmethod
    def _parsed(cls, value: str, info: ValidationInfo) -> str:
        if "dialect" in info.data:
            parse(value, info.data["dialect"])
        return value

    @field_validator("time_zone")
    @classmethod
    def _known(cls, value: str) -> str:
        if not is_zone(value):
            raise ValueError("no such time zone; give a name of the IANA database, as Europe/Madrid or UTC")
        return value


class OpenSink(BaseModel):
    """Any sink, before its own model has looked at it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str


class OpenFormat(BaseModel):
    """Any format, before its own model has looked at it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str = "json"
    compression: str = "none"


class JobSpec(Strict):
    """A job's definition. `sink` and `format` are narrowed by the API's subclass."""

    name: Name
    source: SourceSpec
    mode: Mode = "once"
    sink: OpenSink
    format: OpenFormat = OpenFormat()
    options: Options = Options()
    schedule: ScheduleSpec | None = None
    labels: dict[str, str] = Field(default_factory=dict, max_length=64)

    @field_validator("options")
    @classmethod
    def _looks_back(cls, value: Options, info: ValidationInfo) -> Options:
        if value.late_window is not None and {"source", "mode"} <= info.data.keys():
            refuse_window(info.data["source"], info.data["mode"])
        return value

    @field_validator("schedule")
    @classmethod
    def _repeats(cls, value: ScheduleSpec | None, info: ValidationInfo) -> ScheduleSpec | None:
        mode = info.data.get("mode")
        if value is not None and mode in {"once", "continuous"}:
            raise ValueError(f"mode {mode} does not start again by itself; use full or incremental, or leave it out")
        return value
