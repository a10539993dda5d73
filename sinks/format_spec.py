"""The format as a job's definition writes it: what the API validates, stores and documents."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from sinks import formats
from sinks.formats import csv_records

_DEFAULTS: Final[dict[str, dict[str, Any]]] = {"csv": {"header": True, "delimiter": ",", "null": ""}}


class FormatSpec(BaseModel):
    """How a row is written. Kafka and Elasticsearch take `json` without compression alone."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kind: Literal["json", "csv"] = "json"
    compression: Literal["none", "gzip", "zstd"] = "none"
    header: bool | None = Field(default=None, description="of csv: a first line of column names; true if left out")
    delimiter: str | None = Field(default=None, description="of csv: one ASCII character; a comma if left out")
    null: str | None = Field(
        default=None, max_length=64, description="of csv: what stands for NULL, unquoted; nothing if left out"
    )

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, given: Any) -> Any:
        """What is left out stands in the stored definition: a later default changes no job."""
        if not isinstance(given, dict):
            return given
        kind = given.get("kind", "json")
        known = _DEFAULTS.get(kind, {}) if isinstance(kind, str) else {}
        return {**known, **{name: value for name, value in given.items() if value is not None or name not in known}}

    @field_validator("compression")
    @classmethod
    def _possible(cls, value: str, info: ValidationInfo) -> str:
        kind = info.data.get("kind", "json")
        if value not in formats.COMPRESSIONS[kind]:
            known = ", ".join(formats.COMPRESSIONS[kind])
            raise ValueError(f"does not go with format.kind {kind}; choose one of {known}")
        return value

    @field_validator("header", "delimiter", "null")
    @classmethod
    def _own(cls, value: bool | str | None, info: ValidationInfo) -> bool | str | None:
        kind, name = info.data.get("kind"), info.field_name
        if value is None or kind is None:
            return value
        if name not in formats.OPTIONS[kind]:
            owners = " or ".join(kind for kind, options in formats.OPTIONS.items() if name in options)
            raise ValueError(f"belongs to format.kind {owners}, not to {kind}; leave it out")
        if name == "delimiter":
            csv_records.check_delimiter(str(value))
        if name == "null" and isinstance(delimiter := info.data.get("delimiter"), str):
            csv_records.check_null(str(value), delimiter)
        return value

    @model_serializer(mode="wrap")
    def _without_others(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Only the options of its own kind."""
        return {name: value for name, value in handler(self).items() if value is not None}

    def options(self) -> dict[str, Any]:
        """The kind's own options, as `formats.Format` takes them."""
        return {name: getattr(self, name) for name in formats.OPTIONS[self.kind]}
