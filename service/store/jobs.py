"""Definitions of jobs: made, replaced, patched, read, listed."""

from __future__ import annotations

from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from service.domain.errors import Conflict
from service.domain.states import LIVE, State
from service.store import generations, pages
from service.store.clauses import compose
from service.store.filters import checked, pattern
from service.store.gathered import Gathered
from service.store.ids import uuid7
from service.store.kept_records import KeptRecords, weight
from service.store.part import SQL, Part, account_id, locked, read_job
from service.store.rows import is_id, job_of
from service.store.schedules import next_run
from service.store.transitions import record_event
from service.store.verbs import refuse_while_retrying, running

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from service.domain.records import Actor, Job
    from service.store.pool import Connection, Row

# Each has an index that serves both directions. `updated_at` is none of them: it moves under the reader's feet.
SORTS = ("created_at", "-created_at", "name", "-name", "state_changed_at", "-state_changed_at")
"""What a list of jobs may be sorted by; `-` is descending."""

_TEXTS = ("sink", "mode", "datasource")
_TIMES = ("created_from", "created_to")
_FILTERS = frozenset({"state", "label", "q", "stalled", "error_code", *_TEXTS, *_TIMES})
_TAGS = {"name": "name_up", "-name": "name_down"}
_KEPT_BYTES = 32 * 1024 * 1024
"""Of jobs as they were read last: 10,000 of ordinary size take about half of it."""


class Jobs(Part):
    """The part of `JobStore` that defines and reads jobs."""

    async def create(
        self,
        account: str,
        actor: Actor,
        spec: Mapping[str, object],
        secrets: Mapping[str, str],
        *,
        guarantee: str,
        guarantee_note: str,
    ) -> Job:
        """As `JobStore.create`. Raises Permanent `secret_key_required` for secrets without a key."""
        sealed, job_id, name = self._box.seal(secrets), uuid7(), str(spec["name"])
        definition = (name, actor.name, dict(spec), sealed, sorted(secrets), guarantee, guarantee_note)
        async with self._pool.transaction() as connection:
            owner = await account_id(connection, account)
            due = await next_run(connection, spec)
            row = await connection.fetchrow(SQL["insert_job"], job_id, owner, *definition, due)
            if row is None:
                raise Conflict("name_taken", f"there is a job {name!r} already", hint="choose another name, or PUT it")
            await record_event(connection, row, "create", actor, state_to=State.CREATED)
            return await read_job(connection, account, job_id)

    async def replace(
        self,
        account: str,
        actor: Actor,
        job_id: str,
        spec: Mapping[str, object],
        secrets: Mapping[str, str],
        *,
        guarantee: str,
        guarantee_note: str,
        if_revision: int | None,
        position: str | None,
        target_changed: bool,
    ) -> Job:
        """As `JobStore.replace`. Raises ValueError for a `position` other than keep, reset and None."""
        if position not in {None, "keep", "reset"}:
            raise ValueError(f"position {position!r}: give keep, reset, or leave it out")
        sealed = self._box.seal(secrets)
        async with self._pool.transaction() as connection:
            job = await locked(connection, account, job_id)
            _check_revision(job, if_revision)
            if State(job["state"]) in LIVE:
                raise running(job, "replacing the definition")
            await refuse_while_retrying(connection, job, "replacing the definition")
            here = await connection.fetchrow(SQL["position"], job_id)
            if target_changed and position is None and here is not None and here["present"]:
                raise _incompatible(job)
            due = await next_run(connection, spec, job)
            await connection.execute(
                SQL["replace_job"], job_id, dict(spec), sealed, sorted(secrets), guarantee, guarantee_note, due
            )
            await _follow(connection, job, here, position, target_changed=target_changed)
            details = {"spec_revision": job["spec_revision"] + 1, "position": position}
            await record_event(connection, job, "replace", actor, details=details)
            return await read_job(connection, account, job_id)

    async def patch(
        self,
        account: str,
        actor: Actor,
        job_id: str,
        spec: Mapping[str, object],
        *,
        if_revision: int | None = None,
        event: str = "patch",
    ) -> Job:
        """As `JobStore.patch`; whatever else `spec` says is not looked at."""
        async with self._pool.transaction() as connection:
            job = await locked(connection, account, job_id)
            _check_revision(job, if_revision)
            patched = _with_live_parts(job["spec"], spec)
            due = await next_run(connection, patched, job)
            await connection.execute(SQL["patch_job"], job_id, patched, due)
            await connection.execute(SQL["replace_generation"], job_id)
            await record_event(connection, job, event, actor, details={"spec_revision": job["spec_revision"] + 1})
            return await read_job(connection, account, job_id)

    async def get(self, account: str, ref: str) -> Job | None:
        """As `JobStore.get`."""
        if is_id(ref):
            return await self._by_id.get((account, ref.lower()))
        checked({"name": ref}, texts=("name",))
        return await self._by_name.get((account, ref))

    @cached_property
    def _by_id(self) -> Gathered[tuple[str, str], Job, Connection]:
        return Gathered(self._pool.connection, partial(self._read, "ids", "id"))

    @cached_property
    def _by_name(self) -> Gathered[tuple[str, str], Job, Connection]:
        return Gathered(self._pool.connection, partial(self._read, "names", "name"))

    @cached_property
    def _kept(self) -> KeptRecords[Job]:
        return KeptRecords(_KEPT_BYTES)

    async def _read(
        self, by: str, column: str, connection: Connection, refs: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], Job]:
        """Jobs by (account, id) or (account, name): the marks of all of them, and whole those that have changed since
        they were read last. Ids are of one account alone, and what is not of this one has no mark here."""
        found: dict[tuple[str, str], Job] = {}
        for account in {account for account, _ in refs}:
            asked = [ref for owner, ref in refs if owner == account]
            changed = []
            for row in await _selected(connection, account, {"mark"}, by, asked):
                job = self._kept.get(row["id"], row["mark"])
                if job is None:
                    changed.append(row["id"])
                else:
                    found[account, row[column]] = job
            for job in await self._read_whole(connection, account, changed):
                found[account, getattr(job, column)] = job
        return found

    async def _read_whole(self, connection: Connection, account: str, ids: Sequence[str]) -> Sequence[Job]:
        """Those of the ids that are there, kept from now on."""
        rows = await _selected(connection, account, {"mark", "whole"}, "ids", ids) if ids else ()
        jobs = [job_of(row) for row in rows]
        for row, job in zip(rows, jobs, strict=True):
            self._kept.keep(job.id, row["mark"], job, weight(job))
        return jobs

    async def secrets(self, account: str, job_id: str) -> Mapping[str, str]:
        """As `JobStore.secrets`. Raises Permanent `secret_key_wrong` or `secret_key_required`."""
        async with self._pool.connection() as connection:
            sealed = await connection.fetchval(SQL["secrets"], account, job_id) if is_id(job_id) else None
        return self._box.open(sealed)

    async def list(
        self, account: str, filters: Mapping[str, Any], *, sort: str, limit: int, after: str | None
    ) -> tuple[Sequence[Job], str | None]:
        """As `JobStore.list`, sorted by one of `SORTS`. Raises ValueError naming the parameter that is wrong."""
        query, arguments = page_query(account, filters, sort=sort, limit=limit, after=after)
        async with self._pool.connection() as connection:
            rows = await connection.fetch(query, *arguments)
        token = None
        if len(rows) > limit:
            last = rows[limit - 1]
            token = pages.encode(sort, last[sort.removeprefix("-")], last["id"])
        return [job_of(row) for row in rows[:limit]], token


async def _selected(
    connection: Connection, account: str, what: set[str], by: str, refs: Sequence[str]
) -> Sequence[Row]:
    query, arguments = compose(SQL["select_jobs"], frozenset({*what, "present", by}), {"account": account, by: refs})
    return await connection.fetch(query, *arguments)


def page_query(
    account: str, filters: Mapping[str, Any], *, sort: str, limit: int, after: str | None
) -> tuple[str, Sequence[object]]:
    """The query of one page, one row longer than the page so that its end is known, and its arguments."""
    if sort not in SORTS:
        raise ValueError(f"sort {sort!r}: give one of {', '.join(SORTS)}")
    given = checked(filters, known=_FILTERS, texts=(*_TEXTS, "q", "error_code"), times=_TIMES)
    values: dict[str, Any] = {"account": account, "limit": limit + 1, **given}
    tags = {"whole", "present", "page", _TAGS.get(sort, sort), *given}
    if "state" in given:
        values["state"] = [str(state) for state in given["state"]]
    if "label" in given:
        values["label"] = dict(given["label"])
        if len({*map(tuple, given["label"])}) > len(values["label"]):
            tags.add("nothing")  # one label can not have two values
    if "q" in given:
        values["q"] = pattern(given["q"])
    if "error_code" in given:
        values["error_code"] = [{"code": given["error_code"]}]
    if after is not None:
        tags.add("after")
        reader = pages.text if sort.endswith("name") else pages.moment
        values["after_value"], values["after_id"] = pages.decode(after, sort, reader, pages.identity)
    return compose(SQL["select_jobs"], frozenset(tags), values)


def _check_revision(job: Row, if_revision: int | None) -> None:
    if if_revision is not None and if_revision != job["spec_revision"]:
        raise Conflict(
            "revision_changed",
            f"job {job['name']!r} is at revision {job['spec_revision']}, not {if_revision}",
            hint="read it again, then decide",
            revision=job["spec_revision"],
        )


def _incompatible(job: Row) -> Conflict:
    return Conflict(
        "position_incompatible",
        f"job {job['name']!r} has a position, and the change makes it doubtful",
        hint="say ?position=keep (the key means the same) or ?position=reset (deliver everything again)",
        state=job["state"],
        generation=job["generation"],
    )


async def _follow(
    connection: Connection, job: Row, here: Row | None, position: str | None, *, target_changed: bool
) -> None:
    """What becomes of the generation after its job was replaced; a job that never started has none."""
    if here is None:
        return
    if position is not None:
        await generations.begin(connection, job, "keep" if position == "keep" else "beginning", unrun=True)
    elif target_changed and here["planned"]:
        # Nothing is settled, yet the old target may have been opened: a successor closes it.
        await generations.begin(connection, job, "beginning", unrun=True)
    else:
        await connection.execute(SQL["replace_generation"], job["id"])


def _with_live_parts(stored: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    options = {**stored.get("options", {})}
    for part in ("rate", "ease", "retry", "dead_letters"):
        if part in given.get("options", {}):
            options[part] = given["options"][part]
    parts = {part: given[part] for part in ("labels", "schedule") if part in given}
    return {**stored, "options": options, **parts}
