"""The shape of a row as a job's definition writes it: which columns, under which names, how much of each, and which
column says that a row is deleted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ALL: Final = "*"
LONGEST_NAME: Final = 63
"""Bytes of a name in Postgres, which cuts longer ones short."""
METADATA: Final = "_rowferry"
"""The field that `format.envelope` `with_metadata` adds to a row."""


def _fits(value: str) -> str:
    if len(value.encode()) > LONGEST_NAME or "\0" in value:
        raise ValueError(f"a name has at most {LONGEST_NAME} bytes: Postgres would cut it short")
    return value


class _Part(BaseModel):
    """What is left out is not stored."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)

    @model_serializer(mode="wrap")
    def _given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}


class Mask(_Part):
    """What is shown instead of a value. NULL stays NULL."""

    kind: Literal["sha256", "null", "partial"] = Field(
        description="`sha256`: the hex digest of salt and text; `null`: nothing; `partial`: the last characters"
    )
    credential: str | None = Field(
        default=None, min_length=1, description="of sha256: the stored credential whose field `salt` is the salt"
    )
    keep: int | None = Field(
        default=None, ge=1, le=64, description="of partial: how many characters stay, of texts longer than that"
    )

    @model_validator(mode="after")
    def _own(self) -> Mask:
        if (self.kind == "sha256") != (self.credential is not None):
            raise ValueError(
                "mask.credential belongs to kind sha256, which needs it: without a salt the values can be guessed"
            )
        if (self.kind == "partial") != (self.keep is not None):
            raise ValueError("mask.keep belongs to kind partial, which needs it")
        return self


class ShapedColumn(_Part):
    """One column of the output: a column of the source, an expression over them, or a constant."""

    column: str | None = Field(default=None, min_length=1, description="a column of the source")
    expression: str | None = Field(default=None, min_length=1, description="one SQL expression over them")
    constant: str | int | bool | None = Field(default=None, description="the same value in every row")
    as_: Annotated[str, AfterValidator(_fits)] | None = Field(
        default=None,
        alias="as",
        min_length=1,
        description="the name in the output; of a column its own where it is left out",
    )
    mask: Mask | None = None

    @model_validator(mode="after")
    def _one_of(self) -> ShapedColumn:
        if sum(part is not None for part in (self.column, self.expression, self.constant)) != 1:
            raise ValueError("give one of column, expression and constant")
        if self.column is None and self.as_ is None:
            raise ValueError("an expression and a constant need `as`, their name in the output")
        if self.constant is not None and self.mask is not None:
            raise ValueError("mask belongs to a column or an expression; a constant is the same for all")
        return self

    @property
    def name(self) -> str:
        """In the output."""
        return self.as_ or self.column or ""

    @property
    def plain(self) -> bool:
        """A column of the source as it is, under whatever name."""
        return self.column is not None and self.mask is None


ColumnEntry = Annotated[str | ShapedColumn, Field(union_mode="left_to_right")]
"""A name, `*` (all columns that no entry of its own names), or more."""


class SoftDelete(_Part):
    """Rows that were deleted without being removed."""

    column: str = Field(
        min_length=1, description="a row is deleted where this column is true, or, of another type, not null"
    )


def names_of(columns: Sequence[str | ShapedColumn]) -> list[str]:
    """The output names that are certain without asking the source: all but those behind `*`."""
    return [one if isinstance(one, str) else one.name for one in columns if one != ALL]


def name_of(stored: Mapping[str, Any]) -> str:
    """The output name of a stored entry."""
    return str(stored.get("as") or stored.get("column"))


def held_as(columns: Sequence[str | ShapedColumn], key: Sequence[str]) -> tuple[str, ...] | None:
    """Under which output names the rows hold the key's columns as they are; None where they do not hold all of them."""
    entries = [one for one in columns if isinstance(one, ShapedColumn)]
    covered = {entry.column for entry in entries} | {entry.name for entry in entries}
    held: dict[str, str] = {}
    for one in columns:
        if isinstance(one, ShapedColumn):
            if one.plain and one.column is not None:
                held.setdefault(one.column, one.name)
        elif one != ALL:
            held[one] = one
    if ALL in columns:
        for name in key:
            if name not in covered:
                held.setdefault(name, name)
    return tuple(held[name] for name in key) if all(name in held for name in key) else None


def credentials_of(columns: Sequence[str | ShapedColumn]) -> list[str]:
    """The credentials that hold salts, each once, in the order of their names."""
    masks = [one.mask for one in columns if isinstance(one, ShapedColumn) and one.mask is not None]
    return sorted({mask.credential for mask in masks if mask.credential is not None})
