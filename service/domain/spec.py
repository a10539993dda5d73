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
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from service.domain.cron import Dialect, parse
from service.domain.limits import EveryZones
from service.domain.options import Options
from service.domain.schedules import is_zone
from service.domain.shape import ALL, ColumnEntry, SoftDelete, names_of
from service.domain.strict import Strict
from service.domain.window import refuse_window

Mode = Literal["once", "full", "incremental", "continuous"]

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
_UUID = re.compile(r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")


def _not_a_uuid(value: str) -> str:
    if _UUID.match(value):
        raise ValueError(f"{value!r} has the form of an id; choose a name that can not be taken for one")
    return value


Name = Annotated[str, Field(pattern=NAME_PATTERN), AfterValidator(_not_a_uuid)]


class TimeRange(Strict):
    """Rows whose `column` is at or after `from` and before `to`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)

    column: str = Field(min_length=1)
    from_: Annotated[datetime | None, Field(alias="from", strict=False), EveryZones] = None
    to: Annotated[datetime | None, Field(strict=False), EveryZones] = None

    @model_validator(mode="after")
    def _forwards(self) -> TimeRange:
        begin, end = self.from_, self.to
        if begin is None or end is None or (begin.tzinfo is None) != (end.tzinfo is None):
            return self  # with a zone and without one they meet only in the source's own zone
        if begin > end:
            raise ValueError("from is after to, so that no row is between them; swap them")
        return self


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
