"""What a row consists of: the definition's columns as SQL over the source, each with its type.

The source's own columns stay what filters, keys and bounds are about; an output may be one of them as it is, under
another name, masked, computed, or constant. All of it stands in the page's inner SELECT, where user SQL sees the
source's names and nothing else.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from service.domain.errors import Permanent
from service.domain.shape import ALL, METADATA, ShapedColumn
from sinks.formats.columns import Column as ExactColumn
from workers.sources import catalog, fixed_columns
from workers.sources.catalog import Column
from workers.sources.sql import SqlError, in_thread, parse_expression, quote_ident, quote_literal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from service.domain.shape import Mask, SoftDelete
    from workers.sources.definition import Definition
    from workers.sources.session import Session
    from workers.sources.sql import UserSql

SALT_SETTING: Final = "rowferry.salt_{}"
"""Settings of the session that hold salts: sent with the start-up packet, they stand in no statement and in no log."""


@dataclass(frozen=True, slots=True)
class Output:
    """One column of the rows as they are delivered."""

    column: Column
    """Type and name, as the output has them."""
    alias: str
    """Its name in the page's inner SELECT: the source's column where it is one as it is."""
    sql: str
    """What it is there."""
    source: str | None = None
    """The source's column that it is, as it is; None where it is made."""

    @property
    def name(self) -> str:
        """In the output."""
        return self.column.name


@dataclass(frozen=True, slots=True)
class _Draft:
    """An output before its type is known."""

    name: str
    covers: str
    """The source's column whose place behind `*` it takes."""
    source: str | None = None
    """As of an output."""
    made: str = ""


class Shaper:
    """Turns the definition's columns into outputs, and collects findings instead of stopping at the first."""

    def __init__(
        self,
        session: Session,
        definition: Definition,
        stable: Callable[[UserSql, str], Awaitable[bool]],
        salts: Mapping[str, str],
    ) -> None:
        """`salts`: the session's setting that holds each credential's salt. `stable` refuses user SQL that is not."""
        self._session, self._definition = session, definition
        self._stable, self._salts = stable, salts

    async def shape(self, given: Sequence[str | ShapedColumn], fixed: Sequence[ExactColumn]) -> None:
        """Set the definition's outputs. `fixed`: the generation's columns, which are given out and no others."""
        definition = self._definition
        outputs = await self._typed(await self._drafts(given))
        if definition.refused:
            return
        if fixed:
            there = {column.name: _plain(definition, column, column.name) for column in definition.columns}
            there |= {one.name: one for one in outputs}
            definition.findings += fixed_columns.findings(
                definition.what, fixed, [one.column for one in there.values()]
            )
            outputs = [there[one.name] for one in fixed if one.name in there]
        if not outputs:
            definition.error("/source", "column_unknown", f"{definition.what} has no columns")
        definition.outputs = tuple(outputs)

    async def _drafts(self, given: Sequence[str | ShapedColumn]) -> list[_Draft]:
        known = [column.name for column in self._definition.columns]
        entries = [(index, one) for index, one in enumerate(given) if one != ALL]
        drafts = [await self._draft(one, f"/source/columns/{index}", known) for index, one in entries]
        found = [draft for draft in drafts if draft is not None]
        if ALL in given:
            found = _around_all(found, known)
        names = [draft.name for draft in found]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            self._definition.error(
                "/source/columns",
                "column_doubled",
                f"source.columns gives {', '.join(map(repr, twice))} more than once",
                "give each another name with `as`",
            )
        return found

    async def _draft(self, one: str | ShapedColumn, pointer: str, known: Sequence[str]) -> _Draft | None:
        """None: it is a finding."""
        entry = ShapedColumn(column=one) if isinstance(one, str) else one
        if entry.constant is not None:
            return _Draft(entry.name, entry.name, made=_constant(entry.constant))
        if entry.column is None:
            made = await self._expression(entry.expression or "", f"{pointer}/expression")
            if made is not None and entry.mask is not None:
                made = self._masked(made, entry.mask)
            return None if made is None else _Draft(entry.name, entry.name, made=made)
        if entry.column not in known:
            self._definition.no_column(pointer, entry.column)
            return None
        if entry.mask is None:
            return _Draft(entry.name, entry.column, source=entry.column)
        column = f"{self._definition.qualifier}.{quote_ident(entry.column)}"
        return _Draft(entry.name, entry.column, made=self._masked(column, entry.mask))

    async def _expression(self, text: str, pointer: str) -> str | None:
        """In parentheses, if it is one value a row; None: it is a finding."""
        definition = self._definition
        try:
            parsed = await in_thread(parse_expression, text)
        except SqlError as error:
            definition.error(pointer, error.code, error.placed, "one SQL expression is taken")
            return None
        if not await self._stable(parsed, pointer):
            return None
        try:
            async with self._session.in_use() as connection:
                # A condition is neither aggregated nor counted over a window, and gives no rows.
                await connection.prepare(f"SELECT FROM {definition.source_sql} WHERE ({parsed.text}) IS NULL")
        except Permanent as error:
            definition.error(pointer, error.code, error.message, "an expression gives one value for each row by itself")
            return None
        return f"({parsed.text})"

    def _masked(self, value: str, mask: Mask) -> str:
        text = f"({value})::text"
        if mask.kind == "null":
            return "NULL::text"
        if mask.kind == "partial":
            hidden = f"repeat('*', length({text})"
            shown = f"{hidden} - {mask.keep}) || right({text}, {mask.keep})"
            return f"CASE WHEN length({text}) > {mask.keep} THEN {shown} ELSE {hidden}) END"
        salt = f"current_setting({quote_literal(self._salts[mask.credential or ''])})"
        return f"encode(sha256(convert_to({salt} || {text}, 'UTF8')), 'hex')"

    async def _typed(self, drafts: Sequence[_Draft]) -> list[Output]:
        """The drafts with the types that Postgres gives them."""
        definition = self._definition
        if definition.refused:
            return []
        made = {f"x{number}_{secrets.token_hex(6)}": one for number, one in enumerate(drafts) if one.source is None}
        types: dict[str, Column] = {}
        if made:
            listed = ", ".join(f"{one.made} AS {quote_ident(alias)}" for alias, one in made.items())
            try:
                found = await catalog.query_columns(self._session, f"SELECT {listed} FROM {definition.source_sql}")
            except Permanent as error:
                definition.error("/source/columns", error.code, error.message, error.hint)
                return []
            types = {column.name: column for column in found}
        by_name = {column.name: column for column in definition.columns}
        outputs = {id(one): Output(_named(types[alias], one.name), alias, one.made) for alias, one in made.items()}
        return [
            outputs[id(one)] if one.source is None else _plain(definition, by_name[one.source], one.name)
            for one in drafts
        ]


def metadata(definition: Definition, origin: Mapping[str, object]) -> Output:
    """The field that tells of the delivery: what the step says of itself, the row's key, and when it was read."""
    told = [f"{quote_literal(name)}, {_json_literal(value)}" for name, value in origin.items()]
    keys = [f"{column}::text" for column in definition.key.columns()]
    key = keys[0] if len(keys) == 1 else f"json_build_array({', '.join(keys)})"
    told += [f"'key', {key}", "'read_at', statement_timestamp()"]
    exact = ExactColumn(METADATA, "json", not_null=True)
    column = Column(METADATA, "json", "U", not_null=True, collation=None, exact=exact, varies=True)
    return Output(column, f"x_{secrets.token_hex(6)}", f"json_build_object({', '.join(told)})")


def deleted_sql(definition: Definition, given: SoftDelete) -> str:
    """The condition that a row is deleted; empty, with a finding, where there is no such column."""
    column = next((one for one in definition.columns if one.name == given.column), None)
    if column is None:
        definition.no_column("/source/soft_delete/column", given.column)
        return ""
    name = f"{definition.qualifier}.{quote_ident(column.name)}"
    return f"({name} IS TRUE)" if column.exact.type == "boolean" else f"({name} IS NOT NULL)"


def _around_all(drafts: Sequence[_Draft], known: Sequence[str]) -> list[_Draft]:
    """All columns in their order, each replaced by the first draft that is of it or bears its name, then the rest."""
    left = list(drafts)
    found = []
    for name in known:
        mine = next((one for one in left if one.covers == name), None)
        found.append(mine or _Draft(name, name, source=name))
        if mine is not None:
            left.remove(mine)
    return found + left


def _plain(definition: Definition, column: Column, name: str) -> Output:
    sql = f"{definition.qualifier}.{quote_ident(column.name)}"
    return Output(_named(column, name), column.name, sql, source=column.name)


def _named(column: Column, name: str) -> Column:
    return replace(column, name=name, exact=replace(column.exact, name=name))


def _constant(value: str | int | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"({value})::bigint" if isinstance(value, int) else f"{quote_literal(value)}::text"


def _json_literal(value: object) -> str:
    return f"{quote_literal(json.dumps(value, ensure_ascii=False))}::json"
