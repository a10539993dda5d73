"""SQL that users wrote, through PostgreSQL's own grammar.

Only text that is written back from a parsed tree is ever sent to a source: pasted text could end the statement around
it. The tree must be exactly one SELECT, or exactly one expression, and must come back the same when its text is
parsed again. Which functions are volatile only the source's catalog knows (`workers.sources.catalog`).
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import postgast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Name = tuple[str, ...]
"""A possibly qualified name, each part as it stands in the catalog."""

LONGEST: Final = 65_536
"""Characters of one text. Every node of its tree is looked at, so that 64 KiB take most of a second: a text of 240
kept everything else in the process from its turn for longer than a lease lives, again with every step of its job."""
_SHORT: Final = 1_000
"""What costs less than handing it to a thread."""
_REMEMBERED: Final = 128
_EXPRESSION_PREFIX = "SELECT WHERE "
_SETOP_NONE = 1
_OPERATOR_FIELDS = {"A_Expr": "name", "SubLink": "oper_name", "SortBy": "use_op"}
_POSITIONS = ("location", "list_start", "list_end")
"""How fields end that say where in the text a node stood (PostgreSQL 18 knows where lists begin and end)."""
_STATEMENTS = frozenset({"SelectStmt", "RawStmt"})
_REFUSED_NODES = {
    "IntoClause": "INTO",
    "LockingClause": "a locking clause (FOR UPDATE, FOR SHARE)",
    "ParamRef": "a parameter ($1)",
    "CurrentOfExpr": "WHERE CURRENT OF",
    "MultiAssignRef": "an assignment",
}
_DANGEROUS = re.compile(
    r"^(pg_read_.*|pg_ls_.*|pg_stat_file|pg_file_.*|pg_sleep.*|pg_terminate_backend|pg_cancel_backend|pg_reload_conf"
    r"|pg_rotate_logfile.*|pg_(try_)?advisory_.*|pg_notify|pg_promote|pg_switch_wal|pg_create_.*|pg_drop_.*"
    r"|pg_logical_.*|pg_replication_.*|pg_export_snapshot|pg_backup_.*|pg_(start|stop)_backup|pg_log_.*"
    r"|lo_.*|loread|lowrite|dblink.*|set_config|setval|nextval|query_to_xml.*|table_to_xml.*|schema_to_xml.*"
    r"|database_to_xml.*|cursor_to_xml.*|txid_current|pg_current_xact_id|xpath_table|crosstab.*|connectby)$"
)
"""Known by name before anything connects; the catalog's word on volatility comes on top."""


class SqlError(ValueError):
    """User SQL that is not taken. `offset` counts characters from the beginning of the text; None: the whole."""

    def __init__(self, code: str, message: str, offset: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.offset = offset

    @property
    def placed(self) -> str:
        """The message with the place, where it is known."""
        return self.message if self.offset is None else f"{self.message} (at character {self.offset})"


@dataclass(frozen=True, slots=True)
class UserSql:
    """One expression or one SELECT, safe to stand inside parentheses."""

    text: str
    """Written back from the tree."""
    functions: frozenset[Name]
    operators: frozenset[Name]
    attributes: frozenset[str]
    """Last parts of column references: Postgres also calls a function of a row by `row.name`."""
    relations: tuple[Name, ...]
    """Tables and views as named, without the names of common table expressions."""
    filters: bool = False
    """It has a WHERE, anywhere."""
    function_scan: bool = False
    """A function stands behind FROM: nobody can say whose rows it gives."""


def quote_ident(name: str) -> str:
    """`name` as an identifier that no quote inside can end."""
    if not name or "\0" in name:
        raise SqlError("name_invalid", "a name may neither be empty nor hold NUL")
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """`text` as a string constant, whatever standard_conforming_strings says."""
    if "\0" in text:
        raise SqlError("value_invalid", "Postgres texts can not hold NUL")
    quoted = "'" + text.replace("'", "''") + "'"
    return " E" + quoted.replace("\\", "\\\\") if "\\" in text else quoted


def parse_name(text: str) -> Name:
    """A dotted name, quoted as in SQL where needed: `public.orders`, `"My Schema"."T"`. One or two parts."""
    tree = _parse(f"TABLE {text}", len("TABLE "))
    statement = tree.stmts[0].stmt.select_stmt if len(tree.stmts) == 1 else None
    if (
        statement is not None
        and len(statement.from_clause) == 1
        and not _more_than(statement, {"target_list", "from_clause", "limit_option", "op"})
    ):
        table = statement.from_clause[0].range_var
        if table.relname and not table.catalogname and not table.HasField("alias") and table.inh:
            return (table.schemaname, table.relname) if table.schemaname else (table.relname,)
    raise SqlError("table_invalid", f"{text!r} is not one table's name: write schema.table, quoted as in SQL", 0)


@lru_cache(maxsize=_REMEMBERED)
def parse_expression(text: str) -> UserSql:
    """Exactly one SQL expression. Raises SqlError with the offset in `text`; connects to nothing. A text that was
    taken is remembered: a job's own is asked for with every step."""
    tree = _parse(_EXPRESSION_PREFIX + text, len(_EXPRESSION_PREFIX))
    statement = _only_select(tree, text)
    extra = _more_than(statement, {"where_clause", "limit_option", "op"})
    if extra or statement.op != _SETOP_NONE or not statement.HasField("where_clause"):
        raise SqlError("expression_invalid", "this is not exactly one expression", None)
    written = _written_back(tree, len(_EXPRESSION_PREFIX))
    if not written.startswith(_EXPRESSION_PREFIX):
        raise SqlError("expression_invalid", "this expression can not be written back", None)
    return _checked(tree, written.removeprefix(_EXPRESSION_PREFIX), _EXPRESSION_PREFIX + text, len(_EXPRESSION_PREFIX))


@lru_cache(maxsize=_REMEMBERED)
def parse_query(text: str) -> UserSql:
    """Exactly one SELECT (or VALUES, TABLE, WITH … SELECT) that changes and locks nothing. Raises SqlError. A text
    that was taken is remembered."""
    tree = _parse(text, 0)
    _only_select(tree, text)
    return _checked(tree, _written_back(tree, 0), text, 0)


async def in_thread(parse: Callable[[str], UserSql], text: str) -> UserSql:
    """As `parse(text)`; a text that takes long leaves the event loop to the others meanwhile."""
    return parse(text) if len(text) <= _SHORT else await asyncio.to_thread(parse, text)


def refuse_long(text: str, prefix: int = 0) -> None:
    """SqlError for more than `LONGEST` characters; `prefix` of them are ours."""
    if len(text) - prefix > LONGEST:
        said = (
            f"this SQL has {len(text) - prefix:,} characters, at most {LONGEST:,} are taken; keep long lists in a table"
        )
        raise SqlError("sql_too_long", f"{said} or a view of the source")


def _parse(text: str, prefix: int) -> Any:
    refuse_long(text, prefix)
    if "\0" in text:
        raise SqlError("sql_invalid", "SQL can not hold NUL", max(0, text.index("\0") - prefix))
    try:
        return postgast.parse(text)
    except postgast.PgQueryError as error:
        offset = max(0, error.cursorpos - 1 - prefix) if error.cursorpos else None
        raise SqlError("sql_invalid", error.message, offset) from None
    except Exception as error:  # noqa: BLE001  # the bindings fail in ways of their own on trees they can not carry
        raise SqlError("sql_invalid", f"the text can not be parsed: {error}") from None


def _only_select(tree: Any, text: str) -> Any:
    if not tree.stmts:
        raise SqlError("sql_invalid", "there is no SQL in the text", 0)
    if len(tree.stmts) > 1:
        at = len(text.encode()[: tree.stmts[1].stmt_location].decode(errors="ignore"))
        raise SqlError("sql_not_one", "only one statement is taken", at)
    if tree.stmts[0].stmt.WhichOneof("node") != "select_stmt":
        raise SqlError("sql_not_select", "only a SELECT is taken", 0)
    return tree.stmts[0].stmt.select_stmt


def _more_than(statement: Any, allowed: set[str]) -> bool:
    return any(descriptor.name not in allowed for descriptor, _ in statement.ListFields())


def _written_back(tree: Any, prefix: int) -> str:
    """The tree's text, if parsing it gives the tree again."""
    try:
        written: str = postgast.deparse(tree)
        again = postgast.parse(written)
    except Exception as error:  # noqa: BLE001  # as in _parse
        raise SqlError("sql_not_reproducible", f"this SQL can not be written back: {error}") from None
    if _without_locations(tree) != _without_locations(again):
        raise SqlError("sql_not_reproducible", "this SQL does not come back the same from Postgres's grammar", prefix)
    return written


def _without_locations(tree: Any) -> bytes:
    copy = type(tree)()
    copy.CopyFrom(tree)
    for statement in copy.stmts:
        statement.stmt_location = 0
        statement.stmt_len = 0
    for node, fields in _nodes(copy):
        for descriptor, _value in fields:
            if descriptor.name.endswith(_POSITIONS):
                node.ClearField(descriptor.name)
    content: bytes = copy.SerializeToString(deterministic=True)
    return content


def _nodes(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every message of the tree with the fields that are set, a node before what is below it, in the order of the
    text. The bindings' own walk takes several times as long: it hands each node up through all that are above it."""
    pending = [tree]
    while pending:
        node = pending.pop()
        fields = node.ListFields()
        yield node, fields
        below: list[Any] = []
        for descriptor, value in fields:
            if descriptor.type == descriptor.TYPE_MESSAGE:
                if descriptor.is_repeated:
                    below.extend(value)
                else:
                    below.append(value)
        pending.extend(reversed(below))


def _checked(tree: Any, written: str, sent: str, prefix: int) -> UserSql:
    parts = _Parts(sent.encode(), prefix)
    for node, _fields in _nodes(tree):
        parts.take(node)
    return UserSql(
        written,
        frozenset(parts.functions),
        frozenset(parts.operators),
        frozenset(parts.attributes),
        tuple(dict.fromkeys(name for name in parts.relations if len(name) > 1 or name[0] not in parts.ctes)),
        parts.filters,
        parts.function_scan,
    )


class _Parts:
    """Collects names from the nodes of a tree, and refuses nodes that have no place in a read."""

    def __init__(self, sent: bytes, prefix: int) -> None:
        self._sent = sent
        self._prefix = prefix
        self.functions: set[Name] = set()
        self.operators: set[Name] = set()
        self.attributes: set[str] = set()
        self.relations: list[Name] = []
        self.ctes: set[str] = set()
        self.filters = False
        self.function_scan = False

    def take(self, node: Any) -> None:
        """One node of the tree. Raises SqlError."""
        kind = type(node).__name__
        if kind in _REFUSED_NODES:
            raise self._refused(f"{_REFUSED_NODES[kind]} is not taken", node)
        if kind.endswith("Stmt") and kind not in _STATEMENTS:
            raise self._refused(f"a part that is not a SELECT ({kind.removesuffix('Stmt')}) is not taken", node)
        if kind == "FuncCall":
            self._function(node)
        elif kind in _OPERATOR_FIELDS:
            if operator := _name(getattr(node, _OPERATOR_FIELDS[kind])):
                self.operators.add(operator)
        elif kind == "ColumnRef":
            self.attributes.update(_name(node.fields)[1:])
        elif kind == "A_Indirection":
            self.attributes.update(_name(node.indirection))
        elif kind == "RangeVar":
            self.relations.append((node.schemaname, node.relname) if node.schemaname else (node.relname,))
        elif kind == "CommonTableExpr":
            self.ctes.add(node.ctename)
        elif kind == "SelectStmt":
            self.filters = self.filters or node.HasField("where_clause")
        elif kind in {"RangeFunction", "RangeTableFunc", "JsonTable"}:
            self.function_scan = True

    def _function(self, node: Any) -> None:
        name = _name(node.funcname)
        if _DANGEROUS.match(name[-1]):
            raise self._refused(f"function {'.'.join(name)} is not taken", node, "function_refused")
        self.functions.add(name)

    def _refused(self, message: str, node: Any, code: str = "sql_refused") -> SqlError:
        location = getattr(node, "location", None)
        offset = None
        if location is not None:  # the tree counts bytes
            offset = max(0, len(self._sent[:location].decode(errors="ignore")) - self._prefix)
        return SqlError(code, message, offset)


def _name(nodes: Any) -> Name:
    return tuple(_strings(nodes))


def _strings(nodes: Any) -> Iterator[str]:
    for node in nodes:
        if node.WhichOneof("node") == "string":
            yield node.string.sval
