"""The position: shown, and moved by an operator who knows better."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.domain.errors import Conflict, Permanent
from service.domain.states import LIVE, verbs
from service.lifecycle.errors import Refused
from service.lifecycle.jobs import bounded, refuse_part

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.domain.inspection import Inspector
    from service.domain.ports import JobStore
    from service.domain.records import Actor, Job
    from service.domain.steps import OpenRange


class Checkpoints:
    """A PUT makes a new generation that begins where it says."""

    def __init__(self, store: JobStore, inspector: Inspector) -> None:
        self._store = store
        self._inspector = inspector

    async def put(
        self,
        account: str,
        actor: Actor,
        job: Job,
        *,
        seen_generation: int,
        ranges: Sequence[OpenRange],
        allow_repeats: bool,
    ) -> tuple[Job, Sequence[OpenRange]]:
        """The job afterwards, and the delivered ranges that will come again. Raises Conflict `job_running`,
        `generation_changed`, `replace_needs_all`, `would_repeat` (with the ranges) unless `allow_repeats`; Refused
        `key_invalid`."""
        _refuse_stale(job, seen_generation)
        refuse_part(job.spec, "a checkpoint", "start from the beginning, or use strategy incremental")
        secrets = await self._store.secrets(account, job.id)
        try:
            async with bounded():
                await self._inspector.check_ranges(account, job.spec, secrets, ranges)
        except Permanent as error:
            raise Refused.one(error.code, "/last_id", error.message, error.hint) from error
        delivered = await self._store.delivered_ranges(account, job.id)
        repeats: Sequence[OpenRange] = ()
        if delivered:
            async with bounded():
                repeats = await self._inspector.repeats(account, job.spec, secrets, delivered=delivered, ranges=ranges)
        if repeats and not allow_repeats:
            raise Conflict(
                "would_repeat",
                f"{len(repeats)} delivered range(s) would be delivered again",
                hint='say "allow_repeats": true, or give a later position',
                repeats=[{"lower": _text(one.lower), "upper": _text(one.upper)} for one in repeats],
            )
        after = await self._store.put_checkpoint(
            account, actor, job.id, seen_generation=seen_generation, ranges=ranges, reason="checkpoint"
        )
        return after, repeats


def _refuse_stale(job: Job, seen_generation: int) -> None:
    if job.state in LIVE:
        raise Conflict(
            "job_running",
            f"the checkpoint of job {job.name!r} can not be changed while it is {job.state}",
            hint="stop or abort it first",
            state=job.state.value,
            verbs=verbs(job.state),
        )
    if job.generation != seen_generation:
        raise Conflict(
            "generation_changed",
            f"generation {seen_generation} is not the present one, which is {job.generation}",
            hint="read the checkpoint again, then decide",
            generation=job.generation,
        )


def _text(key: tuple[str, ...] | None) -> str | list[str] | None:
    if key is None:
        return None
    return key[0] if len(key) == 1 else list(key)
