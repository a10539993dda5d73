"""The job log's lines and the events: written in batches, read by `seq`."""

from __future__ import annotations

import math
from datetime import datetime
from typing import TYPE_CHECKING, Any

from service.store.clauses import compose
from service.store.filters import checked, pattern
from service.store.part import Part
from service.store.rows import event_of, is_id, log_line_of
from service.store.sql import load

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from service.domain.history import EventRecord, LogLine

SQL = load("logs")

LEVELS = ("debug", "info", "warning", "error", "critical")
"""Of log lines, mildest first; a filter by level finds it and what is worse."""

_LINE_FILTERS = frozenset({"job_id", "run_id", "level", "since", "until", "q"})
_EVENT_FILTERS = frozenset({"job_id", "job", "run_id", "event", "actor", "since", "until"})
_TIMES = ("since", "until")
_LONGEST = 16_384


class Logs(Part):
    """`LogStore`, and the part of `JobStore` that reads the log and the events."""

    async def write(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """As `LogStore.write`. A line has `level`, `event`, and as far as they are known `at`, `message`, `account`,
        `job_id`, `run_id`, `split`, `epoch`, `request_id`, `fields`. What JSON or Postgres can not hold is written
        as text, so that no line is ever lost for its contents."""
        if not lines:
            return
        records = [_storable(place, line) for place, line in enumerate(lines)]
        async with self._pool.transaction() as connection:
            await connection.execute(SQL["lock_log"])
            await connection.execute(SQL["insert_lines"], records)

    async def log_lines(
        self, account: str, filters: Mapping[str, Any], *, limit: int, after: int | None
    ) -> tuple[Sequence[LogLine], int | None]:
        """As `JobStore.log_lines`; filters `job_id`, `run_id`, `level` (and worse), `since`, `until`, `q` (in message
        or event). Raises ValueError naming the one that is wrong."""
        given = checked(filters, known=_LINE_FILTERS, texts=("job_id", "run_id", "level", "q"), times=_TIMES)
        if "level" in given:
            given["level"] = _at_least(given["level"])
        if "q" in given:
            given["q"] = pattern(given["q"])
        rows, following = await self._page("select_lines", account, given, limit, after)
        return [log_line_of(row) for row in rows], following

    async def events(
        self, account: str, filters: Mapping[str, Any], *, limit: int, after: int | None
    ) -> tuple[Sequence[EventRecord], int | None]:
        """As `JobStore.events`; filters `job_id`, `job` (a name), `run_id`, `event` (one or a list), `actor`,
        `since`, `until`. Raises ValueError naming the one that is wrong."""
        given = checked(filters, known=_EVENT_FILTERS, texts=("job_id", "job", "run_id", "actor"), times=_TIMES)
        if "event" in given:
            given["event"] = [given["event"]] if isinstance(given["event"], str) else list(given["event"])
        rows, following = await self._page("select_events", account, given, limit, after)
        return [event_of(row) for row in rows], following

    async def last_seq(self) -> tuple[int, int]:
        """The `seq` of the newest log line and of the newest event of any account: where following from now on
        begins."""
        async with self._pool.connection() as connection:
            row = await connection.fetchrow(SQL["last_seq"])
        assert row is not None, "a SELECT without FROM has one row"
        return row["log"], row["events"]

    async def _page(
        self, query: str, account: str, given: Mapping[str, Any], limit: int, after: int | None
    ) -> tuple[Sequence[Any], int | None]:
        if any(name in given and not is_id(given[name]) for name in ("job_id", "run_id")):
            return [], None
        values: dict[str, Any] = {"account": account, "limit": limit + 1, **given}
        if after is not None:
            if not -(2**63) <= after < 2**63:
                raise ValueError(f"after {after}: give the seq of a line")
            values["after"] = after
        text, arguments = compose(SQL[query], frozenset(values), values)
        async with self._pool.connection() as connection:
            rows = await connection.fetch(text, *arguments)
        return rows[:limit], rows[limit - 1]["seq"] if len(rows) > limit else None


def _at_least(level: str) -> list[str]:
    if level not in LEVELS:
        raise ValueError(f"level {level!r}: give one of {', '.join(LEVELS)}")
    return list(LEVELS[LEVELS.index(level) :])


def _storable(place: int, line: Mapping[str, Any]) -> dict[str, Any]:
    event = _text(line.get("event") or "unnamed")
    return {
        "place": place,
        "at": _moment(line.get("at")),
        "level": _text(line.get("level") or "info"),
        "event": event,
        "message": _text(line.get("message") or event),
        "account": _optional(line.get("account")),
        "job_id": _identity(line.get("job_id")),
        "run_id": _identity(line.get("run_id")),
        "split": _whole(line.get("split"), 31),
        "epoch": _whole(line.get("epoch"), 63),
        "request_id": _optional(line.get("request_id")),
        "fields": plain(dict(line.get("fields") or {})),
    }


def plain(value: Any) -> Any:
    """`value` as what a jsonb column takes: texts without NUL and lone surrogates, finite numbers, and the text of
    whatever is no JSON."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**63 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {_text(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    return _text(value)


def _text(value: object) -> str:
    text = str(value).encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def _optional(value: object) -> str | None:
    return None if value is None else _text(value)


def _identity(value: object) -> str | None:
    return value if isinstance(value, str) and is_id(value) else None


def _whole(value: object, bits: int) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**bits
    return value if whole and isinstance(value, int) else None


def _moment(value: object) -> str | None:
    if isinstance(value, datetime):
        return value.isoformat()
    try:
        return datetime.fromisoformat(str(value)).isoformat()
    except ValueError:
        return None
