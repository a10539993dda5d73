"""`ingest`, as Siren's pages describe it: the model that a configuration is checked with."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, model_validator

from service.domain.strict import Strict

Strategy = Literal["INCREMENTAL", "REPLACE"]
_Text = Annotated[str, Field(min_length=1, max_length=1000)]


class Credentials(Strict):
    """Whom to come as. The password is kept while everything beside it stays the same."""

    username: str = Field(min_length=1, max_length=255)
    password: SecretStr | None = None


class Input(Strict):
    """A column of the query."""

    source: str = Field(min_length=1, max_length=63)


class IngestTransform(Strict):
    """One field of the documents, made of columns."""

    input: list[Input] = Field(min_length=1, max_length=100)
    output: str = Field(min_length=1, max_length=63)
    transform: Literal["copy", "geo_point", "array"] = "copy"
    mapping: dict[str, Any] | None = None


class Ingest(Strict):
    """A configuration. `sink` and `options` are ours."""

    datasource: _Text
    query: str = Field(min_length=1, max_length=100_000)
    batch_size: int | None = Field(default=None, ge=1, le=1_000_000)
    schedule: str | None = Field(default=None, min_length=1, max_length=512)
    enable_scheduler: bool | None = None
    enable_schedule: bool | None = None
    target: _Text | None = None
    staging_prefix: _Text | None = None
    strategy: Strategy
    pk_field: str | None = Field(default=None, min_length=1, max_length=63)
    mapping: dict[str, Any] | None = None
    pipeline: dict[str, Any] | str | None = None
    transforms: list[IngestTransform] | None = Field(default=None, max_length=1000)
    ds_credentials: Credentials | None = None
    es_credentials: Credentials | None = None
    description: str | None = Field(default=None, max_length=1000)
    sink: dict[str, Any] | None = None
    options: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if None not in {self.enable_scheduler, self.enable_schedule} and self.enable_scheduler != self.enable_schedule:
            raise ValueError("enable_scheduler and enable_schedule are two spellings of one switch; give one of them")
        if self.enabled and self.schedule is None:
            raise ValueError("enable_scheduler needs schedule, as 0 0 * * * ?")
        if self.strategy == "INCREMENTAL" and self.pk_field is None:
            raise ValueError("strategy INCREMENTAL needs pk_field: the column whose values only grow")
        if self.target is None and self.sink is None:
            raise ValueError("give target, the index that documents go to, or sink, as /v1/jobs takes it")
        return self

    @property
    def enabled(self) -> bool | None:
        """Whether the schedule is in force; None: nothing was said."""
        return self.enable_scheduler if self.enable_scheduler is not None else self.enable_schedule


class Body(Strict):
    """A body with a configuration in it."""

    ingest: Ingest
