"""What a job says that it delivers, and why: the sink's promise, and what reading adds to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from service.domain.spec import JobSpec
from workers.sources import template
from workers.sources.base import Facts
from workers.sources.sql import SqlError, parse_query

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from service.domain.spec import SourceSpec
    from sinks.base import Promise

FOLLOWING: Final = frozenset({"incremental", "continuous"})
"""Modes that come back for rows that are not there yet."""
KEY_AT_WORD: Final = (
    "key_is_unique: no index keeps the key unique; the run ends with key_not_unique where two rows with one key are "
    "read, and one that comes after its key was read is passed over"
)
SNAPSHOT: Final = (
    "snapshot: the rows are those of one moment, and transactions that were open then do not count; one stays open on "
    "the source meanwhile, for at most {:g} seconds; a run that loses the moment ends in error, not in another one; "
    "dead letters that are sent again from the source are as they are by then"
)


def guaranteed(spec: Mapping[str, object], promise: Promise, facts: Facts | None = None) -> tuple[str, str]:
    """The job's `guarantee` and `guarantee_note`. `facts` of its source make exact what the definition alone can only
    say of both cases."""
    job = JobSpec.model_validate(spec)
    facts = facts or Facts()
    notes = _following_notes(job, facts) if job.mode in FOLLOWING else _bounded_notes(job, facts)
    at_word = KEY_AT_WORD if job.options.key_is_unique else ""
    moment = SNAPSHOT.format(job.options.snapshot_max_age_seconds) if job.options.snapshot else ""
    return promise.guarantee.value, "; ".join(filter(None, (promise.note, *notes, at_word, moment)))


def _bounded_notes(job: JobSpec, facts: Facts) -> Iterator[str]:
    if job.options.snapshot:
        return
    missing = "rows whose transactions were open when the run began may be missing"
    if job.options.safety.kind != "commit":
        yield f"safety {job.options.safety.kind}: {missing}"
    elif facts.standby:
        yield f"the source is a standby: {missing}"


def _following_notes(job: JobSpec, facts: Facts) -> Iterator[str]:
    safety, options = job.options.safety, job.options
    window = options.late_window
    match safety.kind:
        case "none" if window is not None:
            yield f"safety none, late_window {window}: {_beyond(window)} are passed over"
        case "delay" if window is not None:
            yield (
                f"safety delay, late_window {window}: {_beyond(window)}, and more than {safety.delay_seconds:g} "
                "seconds after them, are passed over"
            )
        case "commit" if window is not None and facts.barrier:
            yield f"safety commit, late_window {window}: a barrier is kept for the key, and no row is passed over"
        case "commit" if window is not None and facts.barrier is False:
            yield (
                f"safety commit, late_window {window}: no barrier can be kept for the key, and {_beyond(window)} are "
                "passed over"
            )
        case "commit" if window is not None:
            yield (
                f"safety commit, late_window {window}: where no barrier can be kept for the key, {_beyond(window)} are "
                "passed over"
            )
        case "none":
            yield "safety none: rows that commit after a larger key was read are passed over"
        case "delay":
            yield (
                f"safety delay: rows that commit more than {safety.delay_seconds:g} seconds after a larger key are "
                "passed over"
            )
        case _ if options.key_is_monotonic:
            yield "safety commit at your word: no row is passed over if keys rise in the order of commits"
    if conditions := _conditions(job.source, facts, row_security=options.row_security):
        beyond = "" if window is None else ", beyond late_window"
        yield f"rows that match {conditions} only after their key became final are passed over{beyond}"


def _beyond(window: int) -> str:
    return f"rows that commit after more than {window} larger keys were read"


def _conditions(source: SourceSpec, facts: Facts, *, row_security: bool) -> str:
    """What a row has to match beside its key."""
    found = ["source.where"] if source.where else []
    if facts.view:
        found.append("the view's joins and conditions")
    if source.query is not None or source.template is not None:
        try:
            text = source.query if source.template is None else template.check(source.template)[0].query
            query = parse_query(text or "")
        except SqlError:  # said by whoever checks the definition
            return ""
        if query.filters or len(query.relations) > 1:
            found.append("the query's joins and conditions")
    if row_security:
        found.append("the role's policies")
    return " and ".join(found)
