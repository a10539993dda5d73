"""What a job says that it delivers, and why: the sink's promise, and what reading adds to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from service.domain.spec import JobSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sinks.base import Promise

FOLLOWING: Final = frozenset({"incremental", "continuous"})
"""Modes that come back for rows that are not there yet."""
KEY_AT_WORD: Final = (
    "key_is_unique: no index keeps the key unique; the run ends with key_not_unique where two rows with one key are "
    "read, and one that comes after its key was read is passed over"
)


def guaranteed(spec: Mapping[str, object], promise: Promise) -> tuple[str, str]:
    """The job's `guarantee` and `guarantee_note`."""
    job = JobSpec.model_validate(spec)
    at_word = KEY_AT_WORD if job.options.key_is_unique else ""
    return promise.guarantee.value, "; ".join(filter(None, (promise.note, _reading_note(job), at_word)))


def _reading_note(job: JobSpec) -> str:
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
