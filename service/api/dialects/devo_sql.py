"""From the tree of a query to Postgres's own tree, and by it to SQL: no name and no value is ever text beside text."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from service.api.dialects.devo_tree import (
    And,
    Comparison,
    Field,
    LanguageError,
    Literal,
    Match,
    Membership,
    Not,
    Null,
    Or,
)
from service.domain import built_sql
from service.domain.built_sql import BuildError, Node

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import tzinfo

    from service.api.dialects.devo_tree import Condition, Operand

EVENTDATE: Final = "eventdate"
"""The name by which queries call the time column of any table."""
_OPERATORS: Final = {"!=": "<>"}


class Columns:
    """What the names of a query mean: the columns of one table."""

    def __init__(self, time_column: str, zone: tzinfo = UTC) -> None:
        """`zone` is that of times that are written without one."""
        self._time_column = time_column
        self._zone = zone

    def named(self, name: str) -> str:
        """The column of this name."""
        return self._time_column if name == EVENTDATE else name

    def condition(self, conditions: Sequence[Condition]) -> Node | None:
        """What all conditions together mean; None without any. Raises LanguageError."""
        return built_sql.all_of([self._node(one) for one in conditions]) if conditions else None

    def _node(self, condition: Condition) -> Node:  # noqa: PLR0911 - one for each kind of condition
        match condition:
            case And(items):
                return built_sql.all_of([self._node(item) for item in items])
            case Or(items):
                return built_sql.any_of([self._node(item) for item in items])
            case Not(Null(item)):
                return built_sql.is_null(self._operand(item), negated=True)
            case Not(item):
                return built_sql.negated(self._node(item))
            case Null(item):
                return built_sql.is_null(self._operand(item))
            case Comparison(left, operator, right):
                return built_sql.operator(_OPERATORS.get(operator, operator), self._operand(left), self._operand(right))
            case Membership(item, options):
                return built_sql.among(self._operand(item), [self._operand(option) for option in options])
            case Match():
                return self._match(condition)
            case Literal(value, position) if not isinstance(value, bool):
                raise LanguageError(f"{value!r} is no condition; compare it with something", position)
            case _:
                return self._operand(condition)

    def _match(self, condition: Match) -> Node:
        left, right = self._text(condition.left), self._text(condition.right)
        if condition.kind == "contains":
            return built_sql.operator(">", built_sql.call("strpos", left, right), built_sql.constant(0))
        if condition.kind == "startswith":
            return built_sql.call("starts_with", left, right)
        tail = built_sql.call("right", left, built_sql.call("length", right))
        return built_sql.operator("=", tail, right)

    def _text(self, operand: Operand) -> Node:
        if isinstance(operand, Literal) and not isinstance(operand.value, str):
            raise LanguageError("only texts can be looked for in texts; write the value in quotes", operand.position)
        return built_sql.cast(self._operand(operand), "text")

    def _operand(self, operand: Operand) -> Node:
        try:
            if isinstance(operand, Field):
                return built_sql.column(self.named(operand.name))
            value = operand.value
            if isinstance(value, datetime):
                aware = value if value.tzinfo is not None else value.replace(tzinfo=self._zone)
                value = aware.astimezone(UTC).isoformat()
            return built_sql.constant(value)
        except (BuildError, OverflowError) as error:
            raise LanguageError(str(error), operand.position) from error
