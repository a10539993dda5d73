"""A query of Devo's language as a tree, before anything is known of the table it names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime
    from decimal import Decimal


class LanguageError(ValueError):
    """A text that is no query of the subset. `position` counts characters from 0."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(f"{message} (at character {position})")
        self.position = position


@dataclass(frozen=True, slots=True)
class Field:
    """A column by its name; `eventdate` is the table's time column."""

    name: str
    position: int


@dataclass(frozen=True, slots=True)
class Literal:
    """A value as written."""

    value: str | int | Decimal | bool | datetime
    position: int


Operand = Field | Literal


@dataclass(frozen=True, slots=True)
class Comparison:
    """`left operator right`, the operator one of = != < <= > >=."""

    left: Operand
    operator: str
    right: Operand


@dataclass(frozen=True, slots=True)
class Match:
    """A text that `contains`, `startswith` or `endswith` another, upper and lower case being different."""

    left: Operand
    kind: str
    right: Operand


@dataclass(frozen=True, slots=True)
class Membership:
    """`item in {…}`."""

    item: Operand
    options: tuple[Literal, ...]


@dataclass(frozen=True, slots=True)
class Null:
    """`isnull(item)`."""

    item: Operand


@dataclass(frozen=True, slots=True)
class Not:
    """The contrary."""

    item: Condition


@dataclass(frozen=True, slots=True)
class And:
    """All of them."""

    items: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Any of them."""

    items: tuple[Condition, ...]


Condition = Comparison | Match | Membership | Null | Not | And | Or | Operand
"""An operand by itself is a column of booleans, or true, or false."""


@dataclass(frozen=True, slots=True)
class Selected:
    """A column of the answer, under another name where one is given."""

    field: Field
    name: str


@dataclass(frozen=True, slots=True)
class Query:
    """A whole query."""

    table: str
    conditions: tuple[Condition, ...]
    selected: tuple[Selected, ...] | None
    """None: every column."""
