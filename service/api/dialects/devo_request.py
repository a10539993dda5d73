"""The body of `POST /query`, read: what is asked for, of which table, for which time, in which mode.

Keys that Devo does not have are ignored, as its own service does; values of keys it has are checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from service.api import bodies
from service.api.dialects import devo_language, devo_times
from service.api.dialects.devo_answers import invalid, query_refused
from service.api.dialects.devo_tree import LanguageError

if TYPE_CHECKING:
    from datetime import tzinfo

    from service.api.dialects.devo_times import Range
    from service.api.dialects.devo_tree import Query

MODES: Final = ("json", "json/compact", "json/simple", "json/simple/compact", "msgpack", "csv", "tsv", "xls")
DEFAULT_DATE_FORMAT: Final = "YYYY-MM-DD HH:mm:ss.SSS"
_LARGEST: Final = 2**53


@dataclass(frozen=True, slots=True)
class QueryRequest:
    """One request for rows, or for a job that delivers them."""

    text: str
    query: Query
    span: Range
    zone: tzinfo
    mode: str
    limit: int | None
    skip: int
    destination: object | None
    date_format: str
    ip_as_string: bool
    progress: bool
    keep_alive: str | None
    """What fills an idle stream of csv or tsv: a token; empty: separators; None: nothing was said."""

    @property
    def continuous(self) -> bool:
        """It has no end, or one that is still to come."""
        return self.span.end is None or self.span.end > datetime.now(UTC)


def read(body: bytes, now: datetime) -> QueryRequest:
    """The request of a body as it came. Raises Failure, or Problem 400 for what is no JSON."""
    given = bodies.parse(body) if body else None
    if not isinstance(given, dict):
        raise invalid("the body is no JSON object")
    text = given.get("query")
    if text is None and given.get("queryId") is not None:
        raise query_refused("queryId: stored queries do not exist here; send the query itself in query")
    if not isinstance(text, str):
        raise invalid("query is missing; give the query as a text")
    try:
        zone = devo_times.zone_of(given.get("timeZone"))
        span = devo_times.range_of(given.get("from"), given.get("to"), zone, now)
    except devo_times.TimeError as error:
        raise invalid(str(error)) from error
    skip = _count(given, "skip") if given.get("skip") is not None else _count(given, "offset")
    return QueryRequest(
        text=text,
        query=_parsed(text),
        span=span,
        zone=zone,
        mode=_mode(given.get("mode")),
        limit=_count(given, "limit"),
        skip=skip or 0,
        destination=given.get("destination"),
        date_format=_text(given, "dateFormat") or DEFAULT_DATE_FORMAT,
        ip_as_string=_flag(given, "ipAsString"),
        progress=_flag(given, "progressInfo"),
        keep_alive=_keep_alive(given.get("keepAlive")),
    )


def _parsed(text: str) -> Query:
    try:
        return devo_language.parse(text)
    except LanguageError as error:
        raise query_refused(str(error)) from error


def _mode(given: object) -> str:
    if given is None:
        return "json"
    mode = given.get("type", "json") if isinstance(given, dict) else given
    if not isinstance(mode, str) or mode not in MODES:
        raise invalid(f"mode.type {mode!r:.60} is not supported; the modes are {', '.join(MODES)}")
    return mode


def _count(given: dict[str, Any], name: str) -> int | None:
    value = given.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _LARGEST:
        raise invalid(f"{name} {value!r:.60} is no whole number of rows")
    return value


def _text(given: dict[str, Any], name: str) -> str | None:
    value = given.get(name)
    if value is None or (isinstance(value, str) and 0 < len(value) <= 100):
        return value
    raise invalid(f"{name} {value!r:.60} is no text of 1 to 100 characters")


def _flag(given: dict[str, Any], name: str) -> bool:
    """Clients send true and false, and leave it out; progressInfo is an object with some of them."""
    value = given.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, dict) and name == "progressInfo":
        return True
    raise invalid(f"{name} {value!r:.60} is neither true nor false")


def _keep_alive(given: object) -> str | None:
    if given is None:
        return None
    if isinstance(given, dict) and given.get("type") in {"empty", "token"}:
        if given["type"] == "empty":
            return ""
        token = given.get("token", "\n")
        if isinstance(token, str) and 0 < len(token) <= 100:
            return token
    raise invalid('keepAlive is {"type": "empty"}, or {"type": "token", "token": a text of 1 to 100 characters}')
