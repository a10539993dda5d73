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

_DEFAULTS: Final[dict[str, dict[str, Any]]] = {
    "csv": {"header": True, "delimiter": ",", "null": ""},
    "parquet": {
        "compression": formats.COMPRESSIONS["parquet"][0],
        "row_group_rows": formats.GROUP_ROWS,
        "row_group_bytes": formats.GROUP_BYTES,
    },
}


class FormatSpec(BaseModel):
    """How a row is written. Kafka and Elasticsearch take `json` without compression alone."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kind: Literal["json", "csv", "parquet"] = "json"
    compression: Literal["none", "gzip", "zstd", "snappy", "zip"] = Field(
        default="none", description="snappy for parquet alone, which has zstd if left out; zip not for parquet"
    )
    header: bool | None = Field(default=None, description="of csv: a first line of column names; true if left out")
    delimiter: str | None = Field(default=None, description="of csv: one ASCII character; a comma if left out")
    null: str | None = Field(
        default=None, max_length=64, description="of csv: what stands for NULL, unquoted; nothing if left out"
    )
    row_group_rows: int | None = Field(
        default=None, ge=1000, le=10_000_000, description="of parquet: rows after which a row group ends"
    )
    row_group_bytes: int | None = Field(
        default=None,
        ge=64 * 1024,
        le=128 * 1024 * 1024,
        description="of parquet: bytes of CSV after which a row group ends; it is held in memory until then",
    )

    envelope: Literal["bare", "with_metadata"] | None = Field(
        default=None,
        description="of json: `bare` is the row, `with_metadata` adds the field `_rowferry`; bare if left out",
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

    @field_validator("envelope")
    @classmethod
    def _of_documents(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value == "with_metadata" and info.data.get("kind") in {"csv", "parquet"}:
            raise ValueError(
                "with_metadata belongs to format.kind json: the columns of a file are the row's own; add what you need "
                "in source.columns as a constant or an expression"
            )
        return value

    @field_validator("header", "delimiter", "null", "row_group_rows", "row_group_bytes")
    @classmethod
    def _own(cls, value: bool | str | int | None, info: ValidationInfo) -> bool | str | int | None:
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
