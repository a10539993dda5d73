"""Query parameters: one model a route; an unknown or repeated parameter is a 422."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar, cast

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from service.api import validation
from service.api.bodies import storable
from service.api.paging import LARGEST, LIMIT
from service.api.problems import invalid_parameter
from service.domain.limits import EveryZones
from service.domain.states import State

if TYPE_CHECKING:
    from aiohttp import web

Q = TypeVar("Q", bound="Query")

LONGEST_WAIT = 60
_LIST = "list"


class Query(BaseModel):
    """Base, and the query of routes that take no parameter."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _words(value: Any) -> Any:
    """`a,b` and `a&b` alike."""
    if isinstance(value, list):
        return [word for item in value for word in str(item).split(",") if word]
    return value


def _labels(value: list[str] | None) -> list[str] | None:
    for pair in value or ():
        if ":" not in pair:
            raise ValueError(f"{pair[:80]!r} is not k:v")
    return value


def _pairs(labels: list[str]) -> list[tuple[str, ...]]:
    return [tuple(pair.split(":", 1)) for pair in labels]


Labels = Annotated[list[str] | None, AfterValidator(_labels), Field(json_schema_extra={_LIST: True}, description="k:v")]
Words = Annotated[list[State] | None, BeforeValidator(_words), Field(json_schema_extra={_LIST: True})]
Limit = Annotated[int, Field(ge=1, le=LARGEST)]
After = Annotated[str | None, Field(min_length=1, max_length=1024, description="from `next` of the page before")]
Moment = Annotated[AwareDatetime, EveryZones]
Seq = Annotated[int | None, Field(ge=0, lt=2**63, description="from `next` of the page before")]
Wait = Annotated[float | None, Field(ge=0, le=LONGEST_WAIT, allow_inf_nan=False)]


class CreateQuery(Query):
    """`start`: start it at once."""

    start: bool = False


class ReplaceQuery(Query):
    """`position`: what becomes of the position when the target changes."""

    position: Literal["keep", "reset"] | None = None


class VerbQuery(Query):
    """`wait`: seconds to wait for the run's end."""

    wait: Wait = None


class StartQuery(VerbQuery):
    """`from=beginning`: every row again, in a new generation."""

    from_: Annotated[Literal["beginning"] | None, Field(alias="from")] = None


class RemoveQuery(Query):
    """`force`: abort first."""

    force: bool = False


class PreviewQuery(Query):
    """How many rows."""

    limit: Annotated[int, Field(ge=1, le=100)] = 20


class PageQuery(Query):
    """A page."""

    limit: Limit = LIMIT
    after: After = None


class DeadLettersQuery(PageQuery):
    """Which dead letters of a job."""

    run_id: str | None = None
    code: Annotated[str | None, Field(description="of the reason")] = None

    def filters(self) -> dict[str, Any]:
        """As `JobStore.dead_letters` takes them."""
        return self.model_dump(exclude_none=True, exclude={"limit", "after"})


class DeadLettersDeleteQuery(Query):
    """Which dead letters to let go of: these, or every one."""

    id: Annotated[list[str] | None, Field(json_schema_extra={_LIST: True}, min_length=1, max_length=1000)] = None
    all: bool = False

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.id is None) == (not self.all):
            raise ValueError("give either id, as often as needed, or all=true")
        return self


class NameQuery(Query):
    """Which one: a token by name or id, a key by name or key."""

    name: Annotated[str, Field(min_length=1, max_length=128)]


class JobsQuery(PageQuery):
    """Which jobs."""

    state: Words = None
    sink: str | None = None
    mode: str | None = None
    datasource: str | None = None
    label: Labels = None
    q: Annotated[str | None, Field(min_length=1, max_length=128, description="part of the name")] = None
    stalled: bool | None = None
    error_code: str | None = None
    created_from: Moment | None = None
    created_to: Moment | None = None
    sort: Literal["created_at", "-created_at", "name", "-name", "state_changed_at", "-state_changed_at"] = "-created_at"

    def filters(self) -> dict[str, Any]:
        """As `JobStore.list` takes them."""
        given = self.model_dump(exclude_none=True, exclude={"limit", "after", "sort"})
        if self.label is not None:
            given["label"] = _pairs(self.label)
        if self.state is not None:
            given["state"] = [state.value for state in self.state]
        return given


class JobRunsQuery(PageQuery):
    """Which runs of a job."""

    state: Words = None
    sink: str | None = None
    trigger: str | None = None
    mode: str | None = None
    label: Labels = None
    error: Annotated[str | None, Field(description="code of a cause")] = None
    q: Annotated[
        str | None, Field(min_length=1, max_length=128, description="text in a cause's message, whole words")
    ] = None
    started_from: Moment | None = None
    started_to: Moment | None = None

    def filters(self) -> dict[str, Any]:
        """As `JobStore.runs` takes them."""
        given = self.model_dump(exclude_none=True, exclude={"limit", "after"})
        if self.label is not None:
            given["label"] = _pairs(self.label)
        if self.state is not None:
            given["state"] = [state.value for state in self.state]
        return given


class RunsQuery(JobRunsQuery):
    """Which runs of the account."""

    job: Annotated[str | None, Field(description="the job's name")] = None
    job_id: str | None = None


class LogQuery(Query):
    """Which lines; `follow=1` streams."""

    level: Literal["debug", "info", "warning", "error"] | None = None
    since: Moment | None = None
    until: Moment | None = None
    q: Annotated[str | None, Field(min_length=1, max_length=128)] = None
    follow: bool = False
    limit: Limit = LIMIT
    after: Seq = None

    def filters(self) -> dict[str, Any]:
        """As `JobStore.log_lines` takes them."""
        return self.model_dump(exclude_none=True, exclude={"limit", "after", "follow"})


class EventsQuery(Query):
    """Which events."""

    since: Moment | None = None
    until: Moment | None = None
    limit: Limit = LIMIT
    after: Seq = None

    def filters(self) -> dict[str, Any]:
        """As `JobStore.events` takes them."""
        return self.model_dump(exclude_none=True, exclude={"limit", "after"})


def read(model: type[Q], request: web.Request) -> Q:
    """The request's query as the model. Raises Problem 422."""
    if not request.query_string and (nothing := _of_nothing(model)) is not None:
        return cast("Q", nothing)
    lists = {
        name for name, field in model.model_fields.items() if isinstance(field.json_schema_extra, dict)
    }  # fmt: skip
    data: dict[str, Any] = {}
    for name in dict.fromkeys(request.query):
        values = request.query.getall(name)
        if not all(storable(text) for text in (name, *values)):
            raise invalid_parameter(name, f"{ascii(name)[:80]} holds a NUL or half of a surrogate pair", "remove it")
        if name in lists:
            data[name] = values
        elif len(values) > 1:
            raise invalid_parameter(name, f"{name[:80]} stands {len(values)} times; give it once", "keep one")
        else:
            data[name] = values[0]
    try:
        return model.model_validate(data)
    except ValidationError as error:
        names = [field.alias or name for name, field in model.model_fields.items()]
        raise validation.problem(error, data, names=names, parameters=True) from None


@lru_cache(maxsize=256)
def _of_nothing(model: type[Query]) -> Query | None:
    """The model of no parameter at all, which nobody changes; None where one is needed."""
    try:
        return model()
    except ValidationError:
        return None
