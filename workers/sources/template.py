"""Queries that are rendered once a run: mustache templates of SQL.

The template's language is the library's; what its tags give never becomes text of the statement. Each value leaves a
mark behind, Postgres's own grammar reads the rendered text, and in its tree a mark that stands for a value, or inside a
quoted one, becomes part of a literal. A mark that the tree holds anywhere else is refused. So nothing in a value can
end what stands around it, quotes or not, and what is sent went through the checks of every query.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import mstache
import postgast

from workers.sources.sql import SqlError, parse_query, refuse_long

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

pb = postgast.pg_query_pb2

Scalar = str | None
"""One value of a record, as text; None is NULL."""

KEY: Final = "max_primary_key"
TIMESTAMP: Final = "last_record_timestamp"
RECORD: Final = "last_record"

_KNOWN: Final = re.compile(rf"{KEY}|{TIMESTAMP}|{RECORD}(\.(0|[1-9][0-9]{{0,3}}))?")
_PARTIAL: Final = (True, False, False)
_OPENS: Final = (True, False, True)
_CLOSES: Final = (True, True, True)
"""How the library's tokens begin that open a section, or close one."""
_LARGEST: Final = 2**31 - 1
_SAMPLE: Final = "0"


@dataclass(frozen=True, slots=True)
class Variables:
    """What a run knows of those before it; on a job's first run nothing."""

    max_primary_key: str | None = None
    """The last key that was delivered."""
    last_record_timestamp: str | None = None
    """When that was, in UTC."""
    last_record: Sequence[Scalar] | None = None
    """The values of the row with that key, in the order of the query's columns."""

    def as_json(self) -> dict[str, Any]:
        """As it is kept with a generation."""
        return {KEY: self.max_primary_key, TIMESTAMP: self.last_record_timestamp}


@dataclass(frozen=True, slots=True)
class Rendered:
    """A template with its values in place, written back from the tree."""

    text: str
    """The whole of it, for people."""
    query: str
    """What is read: without the LIMIT and the order of the whole, which are the reader's."""
    limit: int | None
    """Rows of one run, the first ones by key."""


def names(template: str) -> frozenset[str]:
    """The variables that the template asks for. Raises SqlError `template_invalid` where it is no template, asks for
    something that there is not, or for another template."""
    try:
        _, tokens, labels = mstache.tokenize(template.encode())
    except UnicodeEncodeError as error:
        raise SqlError("template_invalid", "a half of a surrogate pair is no text", error.start) from None
    except mstache.TokenException as error:
        raise SqlError("template_invalid", _said(error)) from None
    repeats = 0
    for token in tokens:
        kind, name = tuple(token[:3]), bytes(token[3]).decode(errors="replace")
        if kind == _PARTIAL:
            raise _invalid(template, name, f"another template ({name[:60]!r}) can not be put in")
        if name == RECORD and kind in {_OPENS, _CLOSES}:
            repeats += 1 if kind == _OPENS else -1
            if repeats > 1:
                raise _invalid(template, name, f"a section of {RECORD} inside another would repeat without end")
    found = {label for label in labels if isinstance(label, str)} - {"."}
    for name in sorted(found):
        if not _KNOWN.fullmatch(name):
            raise _invalid(
                template, name, f"there is no variable {name[:60]!r}; there are {KEY}, {TIMESTAMP}, {RECORD}"
            )
    return frozenset(found)


def check(template: str) -> tuple[Rendered, Rendered]:
    """Whether the template gives one SELECT on a job's first run and on later ones: both as rendered, the later one
    with samples of values. Raises SqlError."""
    asked = names(template)
    places = [int(name.partition(".")[2]) for name in asked if name.startswith(f"{RECORD}.")]
    record = [_SAMPLE] * (1 + max(places, default=0))
    samples = Variables(_SAMPLE, "1970-01-01T00:00:00.000000Z", record)
    rendered = []
    for run, variables in (("on the first run", Variables()), ("on later runs", samples)):
        try:
            rendered.append(render(template, variables))
        except SqlError as error:
            said = f"rendered as {run}: {error.message}"
            raise SqlError(error.code, said, error.offset if template.isascii() and not asked else None) from None
    return rendered[0], rendered[1]


def render(template: str, variables: Variables) -> Rendered:
    """The template as one run reads it. Raises SqlError."""
    names(template)
    marks = _Marks()
    record = variables.last_record
    scope = {
        KEY: marks.of(variables.max_primary_key),
        TIMESTAMP: marks.of(variables.last_record_timestamp),
        RECORD: None if record is None else [marks.of(value, there=True) for value in record],
    }
    try:
        text = mstache.render(template, scope, escape=lambda data: data, stringify=marks.written, keep_lines=True)
        return _bound(text, marks)
    except (mstache.TokenException, RecursionError) as error:
        raise SqlError("template_invalid", _said(error)) from None


def single_table(text: str) -> bool:
    """Whether a SELECT gives rows of one table as they are: no join, no grouping, no UNION."""
    statement = postgast.parse(text).stmts[0].stmt.select_stmt
    plain = {"target_list", "from_clause", "where_clause", "sort_clause", "limit_option", "op"}
    if statement.op != pb.SETOP_NONE or any(field.name not in plain for field, _ in statement.ListFields()):
        return False
    return len(statement.from_clause) == 1 and statement.from_clause[0].WhichOneof("node") == "range_var"


class _Marks:
    """Names that stand in the rendered text for values. Nobody can know them before."""

    def __init__(self) -> None:
        self._begin = f"rowferry_{secrets.token_hex(8)}_"
        self._values: list[Scalar] = []
        self.pattern = re.compile(rf"{self._begin}(\d+)_")

    def of(self, value: Scalar, *, there: bool = False) -> _Mark | None:
        """The mark of a value; `there`: None is NULL, else no value at all."""
        if value is None and not there:
            return None
        if value is not None and "\0" in value:
            raise SqlError("value_invalid", "Postgres texts can not hold NUL")
        self._values.append(value)
        return _Mark(f"{self._begin}{len(self._values) - 1}_", value is not None)

    def written(self, value: object, _text: bool) -> bytes:
        """What a tag leaves in the text."""
        if value is None:
            return b""
        if not isinstance(value, _Mark):
            raise SqlError("template_invalid", f"{RECORD} has many values; name one of them, as {RECORD}.0")
        return value.text.encode()

    def constant(self, name: str) -> Any:
        """The literal that the mark `name` stands for; None where it is no mark."""
        found = self.pattern.fullmatch(name)
        if found is None:
            return None
        value = self._values[int(found[1])]
        return pb.A_Const(isnull=True) if value is None else pb.A_Const(sval=pb.String(sval=value))

    def filled(self, text: str) -> str:
        """A quoted value with the values of its marks."""
        return self.pattern.sub(lambda found: self._values[int(found[1])] or "", text)


@dataclass(frozen=True, slots=True)
class _Mark:
    """0 and the empty text are values too: their sections stay. That of NULL vanishes."""

    text: str
    there: bool

    def __bool__(self) -> bool:
        return self.there


def _bound(text: str, marks: _Marks) -> Rendered:
    """The rendered text with literals for its marks. Raises SqlError."""
    refuse_long(text)
    if "\0" in text:
        raise SqlError("sql_invalid", "SQL can not hold NUL", text.index("\0"))
    try:
        tree = postgast.parse(text)
    except postgast.PgQueryError as error:
        raise SqlError("sql_invalid", _shown(marks, error.message), _offset(error, text, marks)) from None
    except Exception as error:  # noqa: BLE001  the bindings fail in ways of their own on what they can not carry
        raise SqlError("sql_invalid", f"the text can not be parsed: {_shown(marks, str(error))}") from None
    if len(tree.stmts) != 1:
        raise SqlError("sql_not_one", "only one statement is taken" if tree.stmts else "there is no SQL in the text")
    if tree.stmts[0].stmt.WhichOneof("node") != "select_stmt":
        raise SqlError("sql_not_select", "only a SELECT is taken", 0)
    _fill(tree, marks)
    whole = _written(tree)
    limit = _take_limit(tree.stmts[0].stmt.select_stmt)
    query = parse_query(_written(tree)).text
    return Rendered(whole, query, limit)


def _fill(message: Any, marks: _Marks) -> None:
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for part in [value] if hasattr(value, "ListFields") else value:
                _fill_part(part, marks)
        elif field.type == field.TYPE_STRING:
            for part in [value] if isinstance(value, str) else value:
                if marks.pattern.search(part):
                    raise SqlError("template_invalid", "a tag can stand only where SQL takes a value")


def _fill_part(part: Any, marks: _Marks) -> None:
    kind = type(part).__name__
    if kind == "Node" and part.WhichOneof("node") == "column_ref":
        fields = part.column_ref.fields
        constant = marks.constant(fields[0].string.sval) if len(fields) == 1 else None
        if constant is not None:
            part.a_const.CopyFrom(constant)
            return
    elif kind == "A_Const" and part.WhichOneof("val") == "sval":
        part.sval.sval = marks.filled(part.sval.sval)
        return
    _fill(part, marks)


def _take_limit(statement: Any) -> int | None:
    """Take LIMIT and order off the whole; the reader has a key's order of its own. Raises SqlError for what would lose
    rows or repeat them."""
    for inner in _selects(statement):
        if (inner.HasField("limit_count") or inner.HasField("limit_offset")) and not inner.sort_clause:
            said = "a LIMIT or OFFSET of a part of the query without ORDER BY gives other rows each time"
            raise SqlError("limit_without_order", f"{said}; give it an ORDER BY")
    if statement.HasField("limit_offset"):
        said = "OFFSET passes over rows that no run would ever read; leave it out: each run goes on after the last"
        raise SqlError("offset_refused", said)
    limit = None
    if statement.HasField("limit_count"):
        if statement.limit_option == pb.LIMIT_OPTION_WITH_TIES:
            raise SqlError("limit_refused", "WITH TIES is not taken; give LIMIT a number of rows")
        limit = _limit(statement.limit_count)
    statement.ClearField("limit_count")
    statement.limit_option = pb.LIMIT_OPTION_DEFAULT
    if not statement.distinct_clause:
        statement.ClearField("sort_clause")
    return limit


def _limit(node: Any) -> int | None:
    constant = node.a_const if node.WhichOneof("node") == "a_const" else None
    if constant is None or not (constant.isnull or constant.WhichOneof("val") == "ival"):
        raise SqlError("limit_refused", f"LIMIT takes a whole number from 1 to {_LARGEST}")
    if constant.isnull:  # LIMIT ALL
        return None
    if constant.ival.ival < 1:
        raise SqlError("limit_refused", "LIMIT 0 would never deliver a row; leave it out, or give a number")
    number: int = constant.ival.ival
    return number


def _selects(statement: Any) -> Iterator[Any]:
    """Every SELECT inside another."""
    for _, node in postgast.walk(statement):
        if type(node).__name__ == "SelectStmt" and node is not statement and node != statement:
            yield node


def _written(tree: Any) -> str:
    try:
        text: str = postgast.deparse(tree)
    except Exception as error:  # noqa: BLE001  as in _bound
        raise SqlError("sql_not_reproducible", f"this SQL can not be written back: {error}") from None
    return text


def _offset(error: Any, text: str, marks: _Marks) -> int | None:
    """Where in the rendered text, as long as no value stands before."""
    at = error.cursorpos - 1 if error.cursorpos else None
    return at if at is not None and not marks.pattern.search(text[:at]) else None


def _shown(marks: _Marks, message: str) -> str:
    return marks.pattern.sub("{{…}}", message)


def _said(error: BaseException) -> str:
    text = str(error)
    return f"{text[:1].lower()}{text[1:]}"


def _invalid(template: str, name: str, message: str) -> SqlError:
    found = re.search(r"\{\{[#^/&{>]?\s*" + re.escape(name), template)
    return SqlError("template_invalid", message, found.start() if found else None)
