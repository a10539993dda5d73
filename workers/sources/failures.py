"""Postgres's errors as ours: what the runner must do about them, and what a person must mend.

Retried (`Transient`): the server is away, starting, full, or in conflict with its own recovery; a lock stands in the
way. Everything else is `Permanent` and says what to do. No message holds a password: asyncpg never puts one there.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import asyncpg

from service.domain.errors import Permanent, RowferryError, RowsRejected, Transient
from workers.sources.definition import TOO_LARGE
from workers.sources.drift import CHANGED, REWRITTEN

if TYPE_CHECKING:
    from service.domain.datasource import Datasource
    from workers.sources.base import Key

SCHEMA_CHANGED = "schema_changed"
OUT_OF_MEMORY = "source_out_of_memory"
PUT_BACK = "put the column or table back, or change the job's definition, and start it again"
GO_ON = f"{PUT_BACK}; options.schema_change: continue goes on with what is there"
STATEMENT_TOO_LONG = "57014"
"""SQLSTATE of a statement that a timeout, or we, cancelled."""
_TOO_LARGE = frozenset({"54000"})
_OUT_OF_MEMORY = "53200"
"""Of the server, which may have more in a moment; also of its table of locks. No row's fault."""
_AWAY = frozenset({"53300", "57P01", "57P02", "57P03", "57P05", "25P03", "58000", "58030", "53000", "53100"})
_CONFLICT = frozenset({"40001", "40P01"})
_AUTHENTICATION = frozenset({"28000", "28P01"})
_GONE = frozenset({"42P01", "42703", "3F000", "42704", "42883", "42804", "42846"})
"""Undefined table, column, schema, type, function; a type that does not fit, or can not be cast."""


def too_long(what: str, seconds: float) -> Permanent:
    """A statement that no index makes short."""
    return Permanent(
        "statement_too_long",
        f"{what}: a statement takes longer than {seconds:g} s, because no index gives the rows by key",
        hint="read a table (with source.where), give the query an index to walk by its key, or set "
        "options.allow_long_statements",
    )


_PERMANENT = {
    "42P01": ("table_unknown", "write schema.table; names without schema are looked up in public"),
    "3F000": ("table_unknown", "write schema.table; names without schema are looked up in public"),
    "42703": ("column_unknown", "check the column names of the job"),
    "42501": ("permission_denied", "GRANT SELECT on it to the datasource's role"),
    "42": ("sql_refused", "Postgres refuses the statement: check query and where"),
    "72": ("snapshot_lost", "old_snapshot_threshold of the server is shorter than the run: start with from=beginning"),
    "0A": ("sql_refused", "Postgres refuses the statement: check columns, query and where"),
    "22": ("expression_failed", "an expression failed on a row: check query and where"),
    "P0": ("expression_failed", "a function failed on a row: check query and where"),
}
"""By the beginning of the SQLSTATE, the longer first."""


def not_unique(what: str, key: Key) -> Permanent:
    """Two rows have this key."""
    return Permanent(
        "key_not_unique",
        f"{what}: more than one row has the key {', '.join(key)}",
        hint="name columns in source.key that tell every two rows apart",
    )


def row_too_large(what: str, key: Key, limit: int) -> RowsRejected:
    """The row with this key is over what the job takes."""
    return RowsRejected(
        "row_too_large",
        f"{what}: the row with key {', '.join(key)} is over max_row_bytes ({limit})",
        key=key,
        hint="raise options.max_row_bytes, or leave large columns out in source.columns",
    )


def sqlstate(error: BaseException | None) -> str | None:
    """The SQLSTATE of a server's error, else None."""
    return getattr(error, "sqlstate", None) if isinstance(error, asyncpg.PostgresError) else None


def is_too_large(error: BaseException | None) -> bool:
    """Postgres itself can not build the value: over 1 GB of text."""
    return sqlstate(error) in _TOO_LARGE


def is_rewritten(error: BaseException | None) -> bool:
    """Our own statement saw an empty table where another had just been written in its place: a repeat sees it."""
    return REWRITTEN in str(error)


def is_over_limit(error: BaseException | None) -> bool:
    """Our own statement refused to write a row over `max_row_bytes`."""
    return TOO_LARGE in str(error)


def fewer_after(error: Transient, rows: int) -> int:
    """How many rows to ask for instead of `rows`. A standby cancels who reads what it has to clean up: a shorter
    statement gets through sooner; and it needs less memory. Raises `error` where that does not help."""
    if error.code not in {"source_conflict", OUT_OF_MEMORY} or rows == 1:
        raise error
    return max(1, rows // 4)


def is_connection_loss(error: BaseException) -> bool:
    """The connection is gone: whatever was being done has to begin again on another."""
    state = sqlstate(error)
    if state is not None:
        return state in _AWAY or state.startswith("08")
    return isinstance(
        error, (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, asyncio.IncompleteReadError)
    )


def of_connecting(error: BaseException, datasource: Datasource) -> RowferryError:
    """What went wrong while connecting."""
    where = f"datasource {datasource.name!r} ({datasource.host}:{datasource.port}/{datasource.database})"
    state = sqlstate(error)
    if state in _AUTHENTICATION:
        return Permanent(
            "authentication_failed",
            f"{where}: Postgres refused user {datasource.user!r}: {error}",
            hint="check the user and password of the datasource, and the server's pg_hba.conf",
        )
    if state == "3D000":
        return Permanent(
            "database_unknown", f"{where}: {error}", hint="check `database` of the datasource; nothing was created"
        )
    if tls := _of_tls(error, where):
        return tls
    if state in {"53300", "53000"}:
        return Transient(
            "source_unreachable",
            f"{where}: the server takes no more connections: {error}",
            hint="lower max_connections of the datasource, or raise max_connections of the server",
        )
    if state in {"42501", "42704", "22023", "55P02"}:
        return Permanent(
            "datasource_properties",
            f"{where}: a session setting was refused: {error}",
            hint="check `properties` of the datasource",
        )
    detail = "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
    return Transient(
        "source_unreachable",
        f"{where} can not be reached: {detail}",
        hint="check that Postgres runs, and that host and port of the datasource are right",
    )


def _of_tls(error: BaseException, where: str) -> Permanent | None:
    if isinstance(error, ConnectionError) and "SSL upgrade" in str(error):
        hint = "turn ssl on there, or set tls.mode to disable"
        return Permanent("tls_failed", f"{where}: the server does not speak TLS", hint=hint)
    if isinstance(error, (ssl.SSLCertVerificationError, ssl.CertificateError)):
        return Permanent(
            "tls_failed",
            f"{where}: the server's certificate was not accepted: {error}",
            hint="give the authority that signed it in `tls.ca`, or check that the host is the one it names",
        )
    return None


def of_statement(error: BaseException, what: str, *, reading: bool = False) -> RowferryError:
    """What went wrong with a statement about `what`. `reading`: the catalog was looked at before, so a table or a
    column that is unknown now was dropped or renamed since."""
    state = sqlstate(error) or ""
    if state in _CONFLICT or REWRITTEN in str(error):
        return Transient("source_conflict", f"{what}: Postgres cancelled the statement: {error}")
    if state == "55P03":
        return Transient(
            "source_locked",
            f"{what} is locked by another session: {error}",
            hint="an ALTER TABLE, LOCK or VACUUM FULL is under way; reading goes on when it ends",
        )
    if state == _OUT_OF_MEMORY:
        return Transient(
            OUT_OF_MEMORY,
            f"{what}: the server has no memory left for the statement: {error}",
            hint="where it is shared memory, raise max_locks_per_transaction of the server (a statement locks each "
            "partition); reading goes on from its position when there is some",
        )
    if state == STATEMENT_TOO_LONG:
        return Transient("source_timeout", f"{what}: a statement was cancelled: {error}")
    if is_connection_loss(error) or isinstance(error, TimeoutError):
        return Transient(
            "source_unreachable",
            f"{what}: the connection to the source was lost: {error or type(error).__name__}",
            hint="reading goes on from its position as soon as Postgres answers",
        )
    return _permanent(error, state, what, reading=reading)


def _permanent(error: BaseException, state: str, what: str, *, reading: bool) -> Permanent:
    if (state in _GONE and reading) or CHANGED in str(error):
        return Permanent(
            SCHEMA_CHANGED,
            f"{what} has changed since the run began: {error}",
            hint=PUT_BACK,
        )
    if state == "42501" and "row-level security" in str(error):
        hint = (
            "a policy would leave rows out: read as a role with BYPASSRLS or one that the policies do not bind, or set "
            "options.row_security to read what they let through"
        )
        return Permanent("permission_denied", f"{what}: {error}", hint=hint)
    for beginning, (code, hint) in _PERMANENT.items():
        if state.startswith(beginning):
            return Permanent(code, f"{what}: {error}", hint=hint)
    return Permanent("source_failed", f"{what}: {type(error).__name__} {state}: {error}")
