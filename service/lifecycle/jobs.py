"""Definitions of jobs: create, replace, patch, clone, validate, preview."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from service import secret_fields
from service.domain.errors import Conflict, NotFound, Permanent, Transient
from service.domain.inspection import Finding, Outlook
from service.domain.steps import OpenRange
from service.lifecycle import schedules
from service.lifecycle.errors import Refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from service.domain.inspection import Inspector, Preview
    from service.domain.named import Registry
    from service.domain.ports import JobStore
    from service.domain.records import Actor, Job
    from service.domain.spec import JobSpec

    Define = Callable[[Mapping[str, Any]], JobSpec]

LOOK_SECONDS: Final = 20.0
"""Beyond what an inspector promises: a bound for one that does not keep its promise."""

PATCHABLE: Final = ("labels", "options", "schedule")
PATCHABLE_OPTIONS: Final = ("rate", "ease", "retry", "dead_letters")

# A change of one of these makes a position doubtful. Of the sink: what tells one target from another.
_SOURCE_TARGET: Final = ("datasource", "table", "query", "template", "key", "where", "time")
_SINK_TARGET: Final = (
    *("kind", "bootstrap_servers", "topic", "path", "transactional_id_prefix", "group_prefix"),
    *("url", "index", "strategy", "staging_prefix", "bucket", "prefix", "endpoint_url", "name", "id"),
)
# Of the format: what a row is written as, so that the files of one generation are of one make.
_FORMAT_TARGET: Final = ("kind", "delimiter", "null")
_ROUNDS: Final = 5


@dataclass(frozen=True, slots=True)
class _Parts:
    """A definition taken apart."""

    spec: dict[str, Any]
    secrets: dict[str, str]


class Jobs:
    """Everything about definitions. `define` turns JSON values into a validated definition, or raises."""

    def __init__(
        self, store: JobStore, registry: Registry, inspector: Inspector, define: Define, secret_names: frozenset[str]
    ) -> None:
        self._store = store
        self._registry = registry
        self._inspector = inspector
        self._define = define
        self._secret_names = secret_names

    async def find(self, account: str, ref: str) -> Job:
        """By id or name. Raises NotFound."""
        job = await self._store.get(account, ref)
        if job is None:
            raise NotFound("job", ref)
        return job

    async def create(self, account: str, actor: Actor, given: Mapping[str, Any]) -> Job:
        """Raises Refused, SecretRefused, Conflict `name_taken`; nothing is stored then."""
        parts = self._take_apart(given)
        schedules.refuse_spent(parts.spec)
        return await self._store_new(account, actor, parts)

    async def replace(
        self,
        account: str,
        actor: Actor,
        job: Job,
        given: Mapping[str, Any],
        *,
        if_revision: int | None,
        position: str | None,
    ) -> Job:
        """A new definition for a job that is there. Raises as `create`, and Conflict `job_running`,
        `revision_changed`, `position_incompatible`, `replace_needs_all`."""
        for _ in range(_ROUNDS):
            try:
                return await self._replace(account, actor, job, given, if_revision=if_revision, position=position)
            except Conflict as error:
                # What was compared with is another definition by now: look again, unless the caller forbade that.
                if error.code != "revision_changed" or if_revision is not None:
                    raise
                job = await self.find(account, job.id)
        raise Conflict("revision_changed", f"job {job.name!r} changes faster than it can be replaced; try again")

    async def _replace(
        self,
        account: str,
        actor: Actor,
        job: Job,
        given: Mapping[str, Any],
        *,
        if_revision: int | None,
        position: str | None,
    ) -> Job:
        parts = self._take_apart(given, job, await self._store.secrets(account, job.id))
        await self._refuse_errors(account, parts.spec)
        schedules.refuse_spent(parts.spec, job.spec)
        changed = target_changed(job.spec, parts.spec)
        if position == "keep" and changed and job.last_id is not None:
            refuse_part(parts.spec, "?position=keep", "use ?position=reset")
            await self._check_key_types(account, parts, job)
        guarantee, note = self._inspector.promise(parts.spec)
        return await self._store.replace(
            account,
            actor,
            job.id,
            parts.spec,
            parts.secrets,
            guarantee=guarantee,
            guarantee_note=note,
            if_revision=job.spec_revision if if_revision is None else if_revision,
            position=position,
            target_changed=changed,
        )

    async def patch(
        self,
        account: str,
        actor: Actor,
        ref: str,
        patch: Mapping[str, Any],
        *,
        condition: Callable[[Job], int | None],
        event: str = "patch",
    ) -> Job:
        """A merge patch (RFC 7396) of labels, schedule and live options, at once in force. `condition` is asked with
        the job as it is: the revision the caller insists on, or None. `event` is what is told of it. Raises Refused
        `not_patchable`, `schedule_never_fires`."""
        refuse_unpatchable(patch)
        for _ in range(_ROUNDS):
            job = await self.find(account, ref)
            insisted = condition(job)
            merged = merge_patch(job.spec, patch)
            secrets = await self._store.secrets(account, job.id)
            spec, _unchanged = secret_fields.split(self._define(secret_fields.merge(merged, secrets)))
            schedules.refuse_spent(spec, job.spec)
            try:
                return await self._store.patch(account, actor, job.id, spec, if_revision=job.spec_revision, event=event)
            except Conflict as error:
                # Somebody else's patch came between: merge into what it left, unless the caller forbade that.
                if error.code != "revision_changed" or insisted is not None:
                    raise
        raise Conflict("revision_changed", "the definition changes too often to be patched; try again")

    async def clone(self, account: str, actor: Actor, ref: str, name: str) -> Job:
        """A new job with definition and secrets of another, without its position."""
        job = await self.find(account, ref)
        secrets = await self._store.secrets(account, job.id)
        spec = {**job.spec, "name": name}
        return await self._store_new(account, actor, self._take_apart(secret_fields.merge(spec, secrets)))

    async def validate(self, account: str, given: Mapping[str, Any]) -> Outlook:
        """What is to be said about a definition. Connects, changes nothing. `***` stands for the secrets of the job
        of that name."""
        parts = await self._as_given(account, given)
        fires = schedules.findings(parts.spec)
        unknown = await self._unknown_names(account, parts.spec)
        if unknown:
            return Outlook([*unknown, *await asyncio.to_thread(self._inspector.check, parts.spec), *fires])
        async with bounded():
            outlook = await self._inspector.validate(account, parts.spec, parts.secrets)
        return replace(outlook, findings=[*outlook.findings, *fires])

    async def preview(self, account: str, given: Mapping[str, Any], limit: int) -> Preview:
        """The first rows as the sink would get them, and what the source has to say."""
        parts = await self._as_given(account, given)
        await self._refuse_errors(account, parts.spec)
        async with bounded():
            return await self._inspector.preview(account, parts.spec, parts.secrets, limit=limit)

    async def _as_given(self, account: str, given: Mapping[str, Any]) -> _Parts:
        name = given.get("name")
        job = await self._store.get(account, name) if isinstance(name, str) and is_ref(name) else None
        secrets = await self._store.secrets(account, job.id) if job is not None else {}
        return self._take_apart(given, job, secrets)

    def _take_apart(
        self, given: Mapping[str, Any], job: Job | None = None, secrets: Mapping[str, str] | None = None
    ) -> _Parts:
        stored = job.spec if job is not None else {}
        merged, kept = secret_fields.keep(given, self._secret_names, stored=stored, secrets=secrets)
        spec, found = secret_fields.split(self._define(merged))
        secret_fields.check_kept(spec, stored, kept)
        secret_fields.refuse_references(found)
        return _Parts(spec, found)

    async def _store_new(self, account: str, actor: Actor, parts: _Parts) -> Job:
        await self._refuse_errors(account, parts.spec)
        guarantee, note = self._inspector.promise(parts.spec)
        return await self._store.create(
            account, actor, parts.spec, parts.secrets, guarantee=guarantee, guarantee_note=note
        )

    async def _refuse_errors(self, account: str, spec: Mapping[str, Any]) -> None:
        findings = [*await self._unknown_names(account, spec), *await asyncio.to_thread(self._inspector.check, spec)]
        errors = [finding for finding in findings if finding.severity == "error"]
        if errors:
            raise Refused(errors)

    async def _unknown_names(self, account: str, spec: Mapping[str, Any]) -> list[Finding]:
        found = []
        datasource = spec["source"]["datasource"]
        if not is_ref(datasource) or await self._registry.datasource(account, datasource) is None:
            message = f"source.datasource {datasource!r} does not exist in this account"
            hint = f"PUT /v1/datasources/{datasource} first, or name one that GET /v1/datasources lists"
            found.append(Finding("/source/datasource", "error", "datasource_unknown", message, hint))
        credential = spec["sink"].get("credential")
        if credential is not None and (
            not is_ref(credential) or await self._registry.credential(account, credential) is None
        ):
            message = f"sink.credential {credential!r} does not exist in this account"
            hint = f"PUT /v1/credentials/{credential} first, or name one that GET /v1/credentials lists"
            found.append(Finding("/sink/credential", "error", "credential_unknown", message, hint))
        return found

    async def _check_key_types(self, account: str, parts: _Parts, job: Job) -> None:
        try:
            async with bounded():
                await self._inspector.check_ranges(account, parts.spec, parts.secrets, [OpenRange(job.last_id, None)])
        except Permanent as error:
            raise Conflict(
                "position_incompatible",
                f"the position {list(job.last_id or ())} can not be kept: {error.message}",
                hint="use ?position=reset",
            ) from error


def refuse_part(spec: Mapping[str, Any], asked: str, hint: str) -> None:
    """Where readers see one generation alone, a generation of a part would hide the rest. Raises Conflict
    `replace_needs_all`."""
    if spec["sink"].get("strategy") == "replace":
        raise Conflict(
            "replace_needs_all",
            f"{asked} makes a generation of a part of the rows, and sink.strategy 'replace' would show readers that "
            "part alone",
            hint=hint,
        )


def target_changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether a position of the old definition may mean something else in the new one."""
    if old.get("mode") != new.get("mode"):
        return True
    parts = (("source", _SOURCE_TARGET), ("sink", _SINK_TARGET), ("format", _FORMAT_TARGET))
    return any(
        (old.get(part) or {}).get(name) != (new.get(part) or {}).get(name) for part, names in parts for name in names
    )


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396: null removes, objects merge, everything else replaces."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) or hasattr(target, "items") else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def refuse_unpatchable(patch: Mapping[str, Any]) -> None:
    """Raises Refused `not_patchable` naming everything that only PUT may change."""
    options = patch.get("options")
    wrong = [f"/{name}" for name in patch if name not in PATCHABLE]
    if isinstance(options, dict):
        wrong += [f"/options/{name}" for name in options if name not in PATCHABLE_OPTIONS]
    elif "options" in patch:
        wrong.append("/options")
    if wrong:
        allowed = ", ".join(["labels", "schedule", *(f"options.{name}" for name in PATCHABLE_OPTIONS)])
        raise Refused(
            [
                Finding(
                    pointer,
                    "error",
                    "not_patchable",
                    f"{pointer[1:].replace('/', '.')} can not be patched; a patch may hold {allowed}",
                    "PUT the whole definition while the job does not run",
                )
                for pointer in wrong
            ]
        )


def is_ref(text: str) -> bool:
    """Whether the control database can be asked for this id or name at all."""
    return 0 < len(text) <= 128 and text.isascii() and text.isprintable()


@asynccontextmanager
async def bounded() -> AsyncIterator[None]:
    """A time limit that reads as a transient error of the source or the sink."""
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            yield
    except TimeoutError as late:
        raise Transient("inspection_timeout", f"source or sink did not answer within {LOOK_SECONDS:g} s") from late
