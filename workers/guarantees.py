"""What a job says that it delivers, and why: the sink's promise, and what reading adds to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from service.domain.spec import JobSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sinks.base import Promise

FOLLOWING: Final = frozenset({"incremental", "continuous"})
"""Modes that come back for rows that are not there yet."""


def guaranteed(spec: Mapping[str, object], promise: Promise) -> tuple[str, str]:
    """The job's `guarantee` and `guarantee_note`."""
    return promise.guarantee.value, "; ".join(filter(None, (promise.note, _reading_note(spec))))


def _reading_note(spec: Mapping[str, object]) -> str:
    job = JobSpec.model_validate(spec)
    if job.mode not in FOLLOWING:
        return ""
    match job.options.safety.kind:
        case "none":
            return "safety none: rows that commit after a larger key was read are passed over"
        case "delay":
            return (
                f"safety delay: rows that commit more than {job.options.safety.delay_seconds:g} seconds after a larger "
                "key are passed over"
            )
        case _:
            return (
                "rows that match source.where only after their key became final are passed over"
                if job.source.where
                else ""
            )
