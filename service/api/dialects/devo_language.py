"""The query language of Devo's jobs: the subset that names a table, conditions and columns, parsed to a tree.

Grammar by lark (docs/decisions/0016-devo-dialect.md); an LALR parser takes time linear in the text. What stands outside
the subset is refused by its name and its position, which counts characters from 0.
"""

from __future__ import annotations

import re
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any, Final, cast

from lark import Lark, Token, Transformer, UnexpectedInput, v_args
from lark.exceptions import VisitError

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
    Query,
    Selected,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.api.dialects.devo_tree import Condition, Operand

LONGEST: Final = 65_536
DEEPEST: Final = 20
"""Parentheses and `not` inside each other."""

_GRAMMAR: Final = r"""
    query: _FROM TABLE where* select? pragma*
    where: _WHERE condition ("," condition)*
    select: _SELECT (ALL | selected ("," selected)*)
    selected: field (_AS name)?
    pragma: PRAGMA

    ?condition: conjunction (_OR conjunction)*
    ?conjunction: inverted (_AND inverted)*
    ?inverted: _NOT inverted -> inverse
        | test
    ?test: operand
        | operand COMPARED operand -> comparison
        | operand (CONTAINS | MATCHED) operand -> match
        | MATCHED "(" operand "," operand ")" -> match_call
        | operand _IN set -> membership
        | operand _NOT _IN set -> exclusion
        | _IN "(" operand ("," literal)+ ")" -> membership_call
        | operand _IS _NULL -> null
        | operand _IS _NOT _NULL -> not_null
        | _ISNULL "(" operand ")" -> null
        | _ISNOTNULL "(" operand ")" -> not_null
        | "(" condition ")" -> group
    set: "{" literal ("," literal)* "}" | "(" literal ("," literal)* ")"
    ?operand: field | literal
    field: NAME | QUOTED
    name: NAME | QUOTED
    ?literal: STRING -> text
        | TIMESTAMP -> timestamp
        | NUMBER -> number
        | TRUTH -> truth

    TABLE: /[a-z0-9_][a-z0-9_-]*(\.[a-z0-9_][a-z0-9_-]*)*/i
    ALL: "*"
    COMPARED: ">=" | "<=" | "!=" | "=" | "<" | ">"
    CONTAINS: "->"
    MATCHED.2: /(has|startswith|endswith)\b/i
    _FROM.2: /from\b/i
    _WHERE.2: /where\b/i
    _SELECT.2: /select\b/i
    _AS.2: /as\b/i
    _OR.2: /or\b/i
    _AND.2: /and\b/i
    _NOT.2: /not\b/i
    _IN.2: /in\b/i
    _IS.2: /is\b/i
    _NULL.2: /null\b/i
    _ISNULL.2: /isnull\b/i
    _ISNOTNULL.2: /isnotnull\b/i
    TRUTH.2: /(true|false)\b/i
    TIMESTAMP.3: /\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[+-]\d{2}:\d{2})?)?(?![\w.-])/
    NUMBER.2: /-?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?(?![\w.])/
    NAME: /[a-z_][a-z0-9_]*/i
    QUOTED: /`[^`]+`/
    STRING: /"([^"\\]|\\.)*"|'([^'\\]|\\.)*'/s
    PRAGMA.2: /pragma\s+[a-z][\w.]*\s*:\s*("([^"\\]|\\.)*"|'([^'\\]|\\.)*'|[^\s"']+)/si
    %import common.WS
    %ignore WS
"""
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'", "/": "/"}
_MATCHES: Final = {"->": "contains", "has": "contains", "startswith": "startswith", "endswith": "endswith"}
_WORD: Final = re.compile(r"\w+|->|/=|==|[^\w\s]+")
_TOKENS: Final = re.compile(r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|`[^`]*`|\w+|[^\s\w]""", re.DOTALL)
_CALLED: Final = re.compile(r"(\w+)\s*$")


def parse(text: str) -> Query:
    """The tree of a query. Raises LanguageError."""
    if len(text) > LONGEST:
        raise LanguageError(f"a query has at most {LONGEST} characters, this one has {len(text)}", LONGEST)
    _check_depth(text)
    try:
        query = cast("Query", _parser().parse(text))
    except UnexpectedInput as error:
        raise _unexpected(text, error) from None
    except VisitError as error:
        if isinstance(error.orig_exc, LanguageError):
            raise error.orig_exc from None
        raise
    return query


@cache
def _parser() -> Lark:
    return Lark(_GRAMMAR, start="query", parser="lalr", transformer=_Tree())


@v_args(inline=True)
class _Tree(Transformer[Token, Any]):
    """Makes the tree while the text is parsed, from the leaves on."""

    def query(self, table: Token, *parts: Any) -> Query:
        conditions: tuple[Condition, ...] = ()
        selected = None
        for part in parts:
            if isinstance(part, tuple):
                conditions += part
            elif isinstance(part, list):
                selected = tuple(part) or None
        return Query(str(table), conditions, selected)

    def where(self, *conditions: Condition) -> tuple[Condition, ...]:
        return conditions

    def select(self, *selected: Selected | Token) -> list[Selected]:
        return [one for one in selected if isinstance(one, Selected)]

    def selected(self, field: Field, name: str | None = None) -> Selected:
        return Selected(field, name if name is not None else field.name)

    def pragma(self, _text: Token) -> None:
        return None

    def condition(self, *items: Condition) -> Or:
        return Or(items)

    def conjunction(self, *items: Condition) -> And:
        return And(items)

    def inverse(self, item: Condition) -> Not:
        return Not(item)

    def group(self, item: Condition) -> Condition:
        return item

    def comparison(self, left: Operand, operator: Token, right: Operand) -> Comparison:
        return Comparison(left, str(operator), right)

    def match(self, left: Operand, operator: Token, right: Operand) -> Match:
        return Match(left, _MATCHES[operator.lower()], right)

    def match_call(self, operator: Token, left: Operand, right: Operand) -> Match:
        return Match(left, _MATCHES[operator.lower()], right)

    def membership(self, item: Operand, options: Sequence[Literal]) -> Membership:
        return Membership(item, tuple(options))

    def exclusion(self, item: Operand, options: Sequence[Literal]) -> Not:
        return Not(Membership(item, tuple(options)))

    def membership_call(self, item: Operand, *options: Literal) -> Membership:
        return Membership(item, options)

    def null(self, item: Operand) -> Null:
        return Null(item)

    def not_null(self, item: Operand) -> Not:
        return Not(Null(item))

    def set(self, *options: Literal) -> Sequence[Literal]:
        return options

    def field(self, name: Token) -> Field:
        return Field(_unquoted_name(name), name.start_pos or 0)

    def name(self, name: Token) -> str:
        return _unquoted_name(name)

    def text(self, token: Token) -> Literal:
        return Literal(_unquoted(token), token.start_pos or 0)

    def number(self, token: Token) -> Literal:
        if len(token) > 64:
            raise LanguageError("a number has at most 64 characters", token.start_pos or 0)
        plain = token.removeprefix("-").isdigit()
        return Literal(int(token) if plain else Decimal(str(token)), token.start_pos or 0)

    def truth(self, token: Token) -> Literal:
        return Literal(token.lower() == "true", token.start_pos or 0)

    def timestamp(self, token: Token) -> Literal:
        try:
            return Literal(datetime.fromisoformat(str(token)), token.start_pos or 0)
        except ValueError as error:
            raise LanguageError(f"{str(token)!r} is no time: {error}", token.start_pos or 0) from None


def _unquoted_name(token: Token) -> str:
    return str(token).strip("`")


def _unquoted(token: Token) -> str:
    """A string without its quotes and escapes."""
    start = token.start_pos or 0

    def value(match: re.Match[str]) -> str:
        if match[1] not in _ESCAPES:
            known = " ".join(f"\\{one}" for one in _ESCAPES)
            raise LanguageError(
                f"the escape \\{match[1]} is not supported; there are {known}", start + 1 + match.start()
            )
        return _ESCAPES[match[1]]

    return re.sub(r"\\(.)", value, str(token)[1:-1], flags=re.DOTALL)


def _check_depth(text: str) -> None:
    """What is nested in thousands would be written down by programs that call themselves."""
    depth = inverted = 0
    for token in _TOKENS.finditer(text):
        match token[0].lower():
            case "not":
                inverted += 1
            case "(":
                depth += 1
            case other:
                inverted = 0
                depth -= other == ")"
        if depth + inverted > DEEPEST:
            raise LanguageError(f"conditions are nested more than {DEEPEST} levels deep", token.start())


def _unexpected(text: str, error: UnexpectedInput) -> LanguageError:
    position = getattr(error, "pos_in_stream", None)
    position = len(text.rstrip()) if position is None or position < 0 else position
    rest = text[position:]
    if not rest.strip() or getattr(getattr(error, "token", None), "type", None) == "$END":
        return LanguageError("the query ends too early", len(text.rstrip()))
    position += len(rest) - len(rest.lstrip())
    found = _WORD.match(text, position)
    word = found[0] if found else text[position]
    called = _CALLED.search(text[:position])
    if word.startswith("(") and called is not None:
        return LanguageError(f"the function {called[1][:40]!r} is not supported here", called.start())
    return LanguageError(f"{word[:40]!r} is not supported here; {_EXPECTED}", position)


_EXPECTED: Final = "a query is: from <table> [where <condition>, …] [select *|<field> [as <name>], …]"
