"""Searches the job log: newest first, by pages, each of them from an index that is in that order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.store import pages
from service.store.clauses import compose
from service.store.filters import checked, pattern
from service.store.part import Part
from service.store.rows import is_id, run_of
from service.store.sql import load

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from service.domain.records import Run

SQL = load("run_search")

_TEXTS = ("job", "sink", "trigger", "mode", "error", "q")
_TIMES = ("started_from", "started_to")
_FILTERS = frozenset({"state", "label", "job_id", *_TEXTS, *_TIMES})
_TERMS = frozenset({"label", "error", "q"})
_OF_ONE_JOB = frozenset({"job", "job_id"})
_NEWEST_FIRST = "-started_at"
_LONGEST_TERM = 120  # as the migration's function cuts it


class RunSearch(Part):
    """The part of `JobStore` that finds runs."""

    async def runs(
        self, account: str, filters: Mapping[str, Any], *, limit: int, after: str | None
    ) -> tuple[Sequence[Run], str | None]:
        """As `JobStore.runs`. Raises ValueError naming the parameter that is wrong."""
        given = _given(filters)
        term = await self.driving_term(account, given)
        query, arguments = runs_query(account, given, limit=limit, after=after, term=term)
        async with self._pool.connection() as connection:
            rows = await connection.fetch(query, *arguments)
        token = None
        if len(rows) > limit:
            token = pages.encode(_NEWEST_FIRST, rows[limit - 1]["started_at"], rows[limit - 1]["id"])
        return [run_of(row) for row in rows[:limit]], token

    async def count_runs(self, account: str, filters: Mapping[str, Any]) -> int:
        """As `JobStore.count_runs`. Raises as `runs`."""
        given = _given(filters)
        term = await self.driving_term(account, given)
        values, tags = _values(account, given)
        template = _with_filters("count_by_columns" if term is None else "count_by_term")
        query, arguments = compose(template, frozenset(tags), {**values, "term": term})
        async with self._pool.connection() as connection:
            return int(await connection.fetchval(query, *arguments))

    async def driving_term(self, account: str, given: Mapping[str, Any]) -> str | None:
        """The rarest of the terms that these filters ask for, to begin with; None where another index is better. Raises
        ValueError for a `q` without a word."""
        if not _TERMS & given.keys() or _OF_ONE_JOB & given.keys():
            return None
        terms = [f"label:{key}:{value}"[:_LONGEST_TERM] for key, value in given.get("label", ())]
        terms += [f"code:{given['error']}"[:_LONGEST_TERM]] if "error" in given else []
        async with self._pool.connection() as connection:
            row = await connection.fetchrow(SQL["rarest_term"], account, terms, given.get("q", ""))
        if row is None:
            raise ValueError(f"q {given['q']!r} has no word in it: give a letter or a digit at least")
        term: str = row["term"]
        return term


def runs_query(
    account: str, given: Mapping[str, Any], *, limit: int, after: str | None, term: str | None = None
) -> tuple[str, Sequence[object]]:
    """The query of one page, one row longer than the page so that its end is known, and its arguments. `term` is that
    of `RunSearch.driving_term`."""
    values, tags = _values(account, given)
    values |= {"limit": limit + 1, "term": term}
    if after is not None:
        tags |= {"after"}
        values["after_value"], values["after_id"] = pages.decode(after, _NEWEST_FIRST, pages.moment, pages.identity)
    if term is not None:
        way = "by_term"
    elif "state" in given and not _OF_ONE_JOB & given.keys():
        way = "by_state"
        tags -= {"states"}
    else:
        way = "by_columns"
    return compose(_with_filters(way), frozenset(tags), values)


def _given(filters: Mapping[str, Any]) -> dict[str, Any]:
    given = checked(filters, known=_FILTERS, texts=(*_TEXTS, "job_id"), times=_TIMES)
    if "job_id" in given and not is_id(given["job_id"]):
        # No job has it. A nil UUID is nobody's either, and Postgres can read it.
        given["job_id"] = "00000000-0000-0000-0000-000000000000"
    if not given.get("label", True):
        del given["label"]
    return given


def _values(account: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], set[str]]:
    values: dict[str, Any] = {"account": account, **given}
    tags = set(given)
    if "state" in given:
        tags = tags - {"state"} | {"states"}
        values["state"] = list(dict.fromkeys(str(state) for state in given["state"]))
    if "label" in given:
        values["label"] = dict(given["label"])
        if len({*map(tuple, given["label"])}) > len(values["label"]):
            tags.add("nothing")  # one label can not have two values
    if "error" in given:
        values["error"] = [{"code": given["error"]}]
    if "q" in given:
        values["q"] = pattern(given["q"])
    return values, tags


def _with_filters(name: str) -> str:
    return SQL[name].replace("{filters}", SQL["filters"])
