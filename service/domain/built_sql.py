"""SQL that is built as a tree of PostgreSQL's own grammar, and written down by it.

For languages that are translated to SQL: names and values become nodes, never text beside text, so that nothing in them
can end what stands around them. What comes out is user SQL like any other and goes through the same checks.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import postgast

if TYPE_CHECKING:
    from collections.abc import Sequence

pb = postgast.pg_query_pb2

Value = str | int | Decimal | bool
Node = Any
"""A node of the grammar: the bindings have no types."""

_LONGEST_NAME: Final = 63
_PREFIX: Final = "SELECT WHERE "
_SMALLEST, _LARGEST = -(2**31), 2**31 - 1


class BuildError(ValueError):
    """What can not be a name or a value of Postgres, or has no place in the tree."""


def column(*path: str) -> Node:
    """A column, its table's alias in front where there is one."""
    return pb.Node(column_ref=pb.ColumnRef(fields=[_string(_name(part)) for part in path]))


def constant(value: Value) -> Node:
    """A literal. Texts have no type of their own: what they are compared with gives it."""
    if isinstance(value, bool):
        return pb.Node(a_const=pb.A_Const(boolval=pb.Boolean(boolval=value)))
    if isinstance(value, int) and _SMALLEST <= value <= _LARGEST:
        return pb.Node(a_const=pb.A_Const(ival=pb.Integer(ival=value)))
    if isinstance(value, int | Decimal):
        return pb.Node(a_const=pb.A_Const(fval=pb.Float(fval=str(value))))
    return pb.Node(a_const=pb.A_Const(sval=pb.String(sval=_checked(value))))


def operator(name: str, left: Node, right: Node) -> Node:
    """`left name right`."""
    kind = pb.AEXPR_OP
    return pb.Node(a_expr=pb.A_Expr(kind=kind, name=[_string(name)], lexpr=left, rexpr=right))


def among(item: Node, options: Sequence[Node]) -> Node:
    """`item IN (…)`."""
    items = pb.Node(list=pb.List(items=list(options)))
    return pb.Node(a_expr=pb.A_Expr(kind=pb.AEXPR_IN, name=[_string("=")], lexpr=item, rexpr=items))


def all_of(items: Sequence[Node]) -> Node:
    """Conditions joined by AND."""
    return _joined(pb.AND_EXPR, items)


def any_of(items: Sequence[Node]) -> Node:
    """Conditions joined by OR."""
    return _joined(pb.OR_EXPR, items)


def negated(item: Node) -> Node:
    """NOT."""
    return pb.Node(bool_expr=pb.BoolExpr(boolop=pb.NOT_EXPR, args=[item]))


def is_null(item: Node, *, negated: bool = False) -> Node:
    """`IS NULL`, or `IS NOT NULL`."""
    kind = pb.IS_NOT_NULL if negated else pb.IS_NULL
    return pb.Node(null_test=pb.NullTest(arg=item, nulltesttype=kind))


def call(name: str, *arguments: Node) -> Node:
    """A function of Postgres's own schema, whatever functions of that name a user may have made."""
    path = [_string("pg_catalog"), _string(name)]
    function = pb.FuncCall(funcname=path, args=list(arguments), funcformat=pb.COERCE_EXPLICIT_CALL)
    return pb.Node(func_call=function)


def cast(item: Node, type_name: str) -> Node:
    """`item` as a type of Postgres's own schema."""
    named = pb.TypeName(names=[_string("pg_catalog"), _string(type_name)], typemod=-1)
    return pb.Node(type_cast=pb.TypeCast(arg=item, type_name=named))


def expression(node: Node) -> str:
    """An expression as text. Raises BuildError."""
    text = _written(pb.SelectStmt(where_clause=node))
    if not text.startswith(_PREFIX):
        raise BuildError("Postgres's grammar does not write this expression")
    return text.removeprefix(_PREFIX)


def select(targets: Sequence[tuple[str, Node]], table: Sequence[str], where: Node | None = None) -> str:
    """`SELECT node AS name, … FROM table [WHERE …]`; `table` is its name, the schema in front. Raises BuildError."""
    chosen = [pb.Node(res_target=pb.ResTarget(name=_name(name), val=node)) for name, node in targets]
    schema, name = ("", table[0]) if len(table) == 1 else (table[0], table[1])
    relation = pb.RangeVar(schemaname=schema, relname=_name(name), inh=True, relpersistence="p")
    statement = pb.SelectStmt(target_list=chosen, from_clause=[pb.Node(range_var=relation)])
    if where is not None:
        statement.where_clause.CopyFrom(where)
    return _written(statement)


def table_name(text: str) -> tuple[str, ...]:
    """The parts of a table's name, quoted as in SQL where needed. Raises BuildError."""
    try:
        tree = postgast.parse(f"TABLE {text}")
    except postgast.PgQueryError as error:
        raise BuildError(f"{text!r} is not a table's name") from error
    found = tree.stmts[0].stmt.select_stmt.from_clause if len(tree.stmts) == 1 else []
    if len(found) != 1 or not found[0].range_var.relname or found[0].range_var.catalogname:
        raise BuildError(f"{text!r} is not one table's name")
    table = found[0].range_var
    return (table.schemaname, table.relname) if table.schemaname else (table.relname,)


def _joined(kind: Any, items: Sequence[Node]) -> Node:
    if len(items) == 1:
        return items[0]
    return pb.Node(bool_expr=pb.BoolExpr(boolop=kind, args=list(items)))


def _written(statement: Any) -> str:
    statement.limit_option = pb.LIMIT_OPTION_DEFAULT
    statement.op = pb.SETOP_NONE
    tree = pb.ParseResult(version=_VERSION, stmts=[pb.RawStmt(stmt=pb.Node(select_stmt=statement))])
    try:
        text: str = postgast.deparse(tree)
    except postgast.PgQueryError as error:
        raise BuildError(str(error)) from error
    return text


def _string(text: str) -> Node:
    return pb.Node(string=pb.String(sval=_checked(text)))


def _name(text: str) -> str:
    """A longer one would be cut off where it is parsed, and mean another."""
    if not text or len(_checked(text).encode()) > _LONGEST_NAME:
        raise BuildError(f"the name {text[:40]!r} has {len(text)} characters; Postgres takes 1 to 63 bytes")
    return text


def _checked(text: str) -> str:
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise BuildError("Postgres takes no NUL and no half of a surrogate pair")
    return text


_VERSION: Final = postgast.parse("SELECT").version
