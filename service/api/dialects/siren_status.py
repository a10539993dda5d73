"""The status of a run in Siren's words: which keys, in which order, and when they are there.

Clients read the sentence of `infos` as well as `state`; the samples of Siren's pages are golden files of the tests.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from service.api.dialects.siren_request import INGESTION
from service.domain.states import FINAL, State

if TYPE_CHECKING:
    from service.domain.records import Key, Run

VERSION: Final = 1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_GREGORIAN: Final = datetime(1582, 10, 15, tzinfo=UTC)
"""Where the time of a UUID of version 1 begins; its ticks are of 100 ns."""
_TICKS_A_MICROSECOND: Final = 10
_LOCALLY_GIVEN: Final = 0x02
_NO_CARD: Final = 0x01


@dataclass(frozen=True, slots=True)
class _Shown:
    state: str
    infos: str
    aborting: bool = False


_RUNNING: Final = _Shown("running", "The job is running.")
_ABORTED: Final = _Shown("aborted", "The job has been aborted.", aborting=True)
SHOWN: Final = {
    State.QUEUED: _RUNNING,
    State.RUNNING: _RUNNING,
    State.STOPPING: _RUNNING,
    State.FAILING: _RUNNING,
    State.ABORTING: _Shown("aborting", "The job is aborting.", aborting=True),
    State.ABORTED: _ABORTED,
    # Siren knows no stop: the run ended on request, and the next one goes on from there.
    State.STOPPED: _ABORTED,
    State.ERROR: _Shown("error", "The job has failed."),
    State.SUCCESSFUL: _Shown("successful", "The job is done."),
}
_OF_SOURCE: Final = (
    *("source_", "datasource_", "database_", "table_", "column_", "schema_"),
    *("statement_", "key_", "sql_", "expression_", "function_"),
)
"""How the codes begin of what goes wrong on that side (docs/errors.md)."""
STATES: Final = tuple(dict.fromkeys(one.state for one in SHOWN.values()))
"""Siren's words for states."""


def states_of(word: str) -> list[State]:
    """The final states that a word of Siren's stands for; none for those of a run that has not ended."""
    return [state for state, shown in SHOWN.items() if shown.state == word and state in FINAL]


def status(run: Run) -> dict[str, Any]:
    """What is told of a run."""
    shown = SHOWN[run.state]
    found: dict[str, Any] = {"version": VERSION, "id": run.job_name, "is_running": run.state not in FINAL}
    if shown.aborting:
        found["is_aborting"] = True
    found["start_time"] = milliseconds(run.started_at)
    if run.ended_at is not None:
        found["end_time"] = milliseconds(run.ended_at)
    found["infos"] = shown.infos
    if run.state is State.ERROR:
        found["error"] = _chain(run)
    found["state"] = shown.state
    found["count"] = run.rows_sent + run.rows_dead
    if run.last_id is not None:
        found["last_id"] = key_text(run.last_id)
    return found


def envelope(name: str, run: Run | None) -> dict[str, Any]:
    """A job and what its run does; without one it has never run."""
    found: dict[str, Any] = {"_id": name, "type": INGESTION, "found": True}
    return found if run is None else {**found, "status": status(run)}


def hit(run: Run, document: str) -> dict[str, Any]:
    """A run in a list, under the type's name."""
    return {"_id": document, "_source": {INGESTION: status(run)}}


def document_id(run: Run) -> str:
    """What an ended run is called in the log: the job's name and a UUID of version 1 whose time is the run's end. Both
    are made of what never changes again, so it is the same at every read and in every service."""
    assert run.ended_at is not None, "it is in the log of ended runs"
    ticks = (run.ended_at - _GREGORIAN) // timedelta(microseconds=1) * _TICKS_A_MICROSECOND
    drawn = hashlib.sha256(run.id.encode()).digest()
    # A node that no network card has (RFC 9562, 6.10), and the clock's sequence: both of the run's own id.
    node = bytes([drawn[0] | _NO_CARD | _LOCALLY_GIVEN]) + drawn[1:6]
    fields = (ticks & 0xFFFFFFFF, ticks >> 32 & 0xFFFF, ticks >> 48 & 0x0FFF | 0x1000, drawn[6] & 0x3F | 0x80, drawn[7])
    return f"{run.job_name}{uuid.UUID(fields=(*fields, int.from_bytes(node)))}"


def milliseconds(moment: datetime) -> int:
    """A time as Siren writes it."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def moment(value: int) -> datetime:
    """The time of milliseconds since 1970. Raises OverflowError."""
    return _EPOCH + timedelta(milliseconds=value)


def key_text(key: Key) -> str:
    """A key as one text: a composite key is a JSON list of its texts."""
    return key[0] if len(key) == 1 else json.dumps(list(key), ensure_ascii=False, separators=(",", ":"))


def _chain(run: Run) -> list[str]:
    """The causes outermost first, before them the job's own sentence, which names the datasource where it is the source
    that failed."""
    causes = [cause.message for cause in run.errors]
    if not any(cause.code.startswith(_OF_SOURCE) or cause.message.startswith("datasource ") for cause in run.errors):
        return causes
    return [f"Could not execute datasource query [{run.datasource}].", *causes]
