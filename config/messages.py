"""What a line of the job log says to a reader, in a sentence, beside its event and fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from config.names import LogEvent

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNSAID: Final = "-"
SENTENCES: Final[Mapping[LogEvent, str]] = {
    LogEvent.HTTP_REQUEST: "{method} {path}: {status} in {seconds} s",
    LogEvent.HTTP_FAILED: "{method} {path} met a bug of the service",
    LogEvent.STEP_LEASED: "{where}: taken up, epoch {epoch}",
    LogEvent.STEP_DONE: "{where}: finished",
    LogEvent.STEP_PARKED: "{where}: given back with nothing open: {reason}",
    LogEvent.STEP_RELEASED: "{where}: given back, a chunk may still become visible: {reason}",
    LogEvent.STEP_FAILED: "{where}: ended with {code}: {cause}",
    LogEvent.STEP_CRASHED: "{where}: ended by a bug of the service",
    LogEvent.LEASE_LOST: "{where}: somebody else owns it now",
    LogEvent.OUTCOME_NOT_STORED: "{where}: ended, and the control database did not hear it: {cause}",
    LogEvent.PLANNED: "planned: splits: {splits}, up to {bound}, about {estimated_rows} rows",
    LogEvent.OLD_GENERATION_NOT_FENCED: "the target of generation {generation} could not be fenced: {cause}",
    LogEvent.OLD_TARGET_GONE: "the target of generation {generation} is gone: {cause}",
    LogEvent.NOT_REPEATABLE: "a chunk of generation {generation} that nobody sees can not be repeated: {cause}",
    LogEvent.SCHEMA_CHANGED: "{table} has changed, and the job goes on: {cause}",
    LogEvent.PARTITION_DETACHED: "a partition was detached, or dropped: {table}",
    LogEvent.PARTITION_ATTACHED: "{table} was attached; rows below what was read: {rows_below}",
    LogEvent.CHUNK_SETTLED: "{where}: chunk {sequence} is visible in {target}; rows: {rows}",
    LogEvent.CHUNK_RECOVERED: "{where}: chunk {sequence} of an earlier owner: {action}",
    LogEvent.CHUNK_RESTAGED: "{where}: written again in smaller batches: {reason}",
    LogEvent.ROWS_SET_ASIDE: "{where}: rows of chunk {sequence} that became dead letters: {rows} ({code})",
    LogEvent.ROWS_LATE: "{where}: rows found behind the position, and delivered with chunk {sequence}: {rows}",
    LogEvent.DEAD_LETTERS_SENT: "dead letters sent again: {rows}; that stay: {stays}",
    LogEvent.SNAPSHOT_TAKEN: "the moment {taken_at} is read, held by backend {pid} until {until} at the latest",
    LogEvent.SNAPSHOT_RELEASED: "the moment that is read was given back after {seconds} s: {outcome}",
    LogEvent.DEAD_LETTERS_OF_NOW: "rows of generation {generation}, read as of {taken_at}, are sent as they are now",
    LogEvent.CHUNK_OF_ANOTHER_MOMENT: "a chunk of generation {generation} is written again from rows as they are now",
    LogEvent.DAY_LISTED: "the manifest of {day} is written",
    LogEvent.DAY_NOT_LISTED: "the manifest of a day could not be written yet: {cause}",
    LogEvent.CLOSE_FAILED: "{what} could not be closed in order: {cause}",
    LogEvent.RETRYING: "{where}: try {attempt} failed, the next comes in {delay_seconds} s: {cause}",
    LogEvent.VERIFIED: "everything was compared; chunks: {chunks}",
    LogEvent.SCHEDULE_STARTED: "started by its schedule, due {due_at}",
    LogEvent.SCHEDULE_SKIPPED: "not started by its schedule, due {due_at}: it could not start",
    LogEvent.SCHEDULE_MISSED: "its schedule was due {due_at}, and no service ran",
    LogEvent.SCHEDULE_FAILED: "its schedule could not be looked after; it is tried again",
}
"""By event; a name in braces is a field of the line, `where` its split or else its step."""


class _Fields(dict[str, Any]):
    """The fields of one line; what it does not have is left to the fields to say."""

    def __missing__(self, name: str) -> str:
        return _UNSAID


def sentence(line: Mapping[str, Any]) -> str:
    """What `line` (with its `event` and fields) says; the event's name in words where there is no sentence for it."""
    event = str(line.get("event") or "unnamed")
    if event not in SENTENCES:
        return event.replace("_", " ")
    template = SENTENCES[LogEvent(event)]
    split = line.get("split")
    where = f"split {split}" if split is not None else f"step {line.get('step', _UNSAID)}"
    fields = _Fields({name: value for name, value in line.items() if value is not None}, where=where)
    return template.format_map(fields).removesuffix(f": {_UNSAID}")
