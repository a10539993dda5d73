"""Every metric name and every log event name, with what it means. Nothing is measured or logged under another name.

`python -m config.names` prints them as two Markdown tables: docs/metrics-and-log-events.md.
"""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric as Prometheus sees it."""

    name: str
    kind: str
    """`counter`, `gauge` or `histogram`."""
    help: str
    labels: tuple[str, ...] = ()


class LogEvent(StrEnum):
    """The `event` of a log line. The docstring behind each member says when it is written."""

    SERVICE_STARTED = "service_started"
    """The process serves; names addresses, engine and version."""
    SERVICE_STOPPING = "service_stopping"
    """SIGTERM or SIGINT: no more requests are taken, running splits are parked."""
    SERVICE_STOPPED = "service_stopped"
    """The last line of a process that ended by itself."""
    EMBEDDED_DATABASE_STARTED = "embedded_database_started"
    """A private Postgres was started, because no control database was given."""
    EMBEDDED_DATABASE_LOST = "embedded_database_lost"
    """The private Postgres ended, or could not be started again; it is started until it runs."""
    MIGRATED = "migrated"
    """A schema migration was applied."""
    HTTP_REQUEST = "http_request"
    """A request was answered: method, path, status, seconds, who."""
    HTTP_FAILED = "http_failed"
    """A request met a bug of ours and was answered 500; holds the exception."""
    HTTP_UNREADABLE = "http_unreadable"
    """What came over a connection was no HTTP request, or its body broke off; answered 400 where somebody was left."""
    STORE_UNREACHABLE = "store_unreachable"
    """The control database did not answer; whoever asked tries again."""
    STORE_BACK = "store_back"
    """The control database answers again."""
    NOTIFICATIONS_LOST = "notifications_lost"
    """The connection that brings changes of jobs at once was lost; they are looked for by asking until it is back."""
    STEP_LEASED = "step_leased"
    """This process works on a step now."""
    STEP_PARKED = "step_parked"
    """A step was given back with nothing unsettled."""
    STEP_RELEASED = "step_released"
    """A step was given back; a prepared chunk may remain."""
    STEP_FAILED = "step_failed"
    """A step met a permanent error; holds the cause chain."""
    STEP_DONE = "step_done"
    """A step is finished."""
    LEASE_LOST = "lease_lost"
    """Somebody else owns the step now; this process left it."""
    PLANNED = "planned"
    """Bound and splits of a generation are known."""
    SNAPSHOT_TAKEN = "snapshot_taken"
    """A generation is read as of this moment; names the backend that holds it, and until when it may."""
    SNAPSHOT_RELEASED = "snapshot_released"
    """The source's transaction that held a snapshot has ended; says why and after how many seconds."""
    CHUNK_OF_ANOTHER_MOMENT = "chunk_of_another_moment"
    """A prepared chunk of an older generation had to be written again after its snapshot was gone: its rows are as they
    are now. A new generation of the job begins, with a snapshot of its own."""
    DEAD_LETTERS_OF_NOW = "dead_letters_of_now"
    """Dead letters of a generation that was read as of one moment are sent from the source, whose rows are as they are
    now."""
    OLD_GENERATION_NOT_FENCED = "old_generation_not_fenced"
    """The target of a predecessor generation was away, so a late transaction of it may still stall readers."""
    OLD_TARGET_GONE = "old_target_gone"
    """What a predecessor generation delivered is gone with its target; its chunk without an answer was dropped."""
    NOT_REPEATABLE = "not_repeatable"
    """The source no longer gives the rows of a predecessor's chunk that nobody sees; where they come anew it was
    dropped."""
    SCHEMA_CHANGED = "schema_changed"
    """The columns of a table changed since it was last read, and the job goes on; says which."""
    PARTITION_DETACHED = "partition_detached"
    """A partition or child no longer belongs to a table that a job follows: what was not read of it yet never will be.
    Without a name it was dropped."""
    PARTITION_ATTACHED = "partition_attached"
    """A partition or child came to a table that a job follows; holds how many rows it has below the bound,
    which end the job (null: not known)."""
    CHUNK_SETTLED = "chunk_settled"
    """A chunk is visible and its position is stored."""
    CHUNK_RECOVERED = "chunk_recovered"
    """A new owner found a prepared chunk: settled, dropped, repeated as cut, or sent again; says which."""
    ROWS_SET_ASIDE = "rows_set_aside"
    """Rows of a settled chunk became dead letters; holds how many, and the code of the last."""
    ROWS_LATE = "rows_late"
    """A look back found rows behind the position, and their chunk is settled; holds how many."""
    DEAD_LETTERS_SENT = "dead_letters_sent"
    """Dead letters were sent again; says how many were and how many stay."""
    CHUNK_RESTAGED = "chunk_restaged"
    """The sink asked for the chunk once more in smaller batches; nothing was visible."""
    DAY_LISTED = "day_listed"
    """A day of a continuous job is over and its manifest written (where the sink writes any): its records may go."""
    DAY_NOT_LISTED = "day_not_listed"
    """The manifest of a day could not be written; rows go on, and it is tried again each minute."""
    STEP_CRASHED = "step_crashed"
    """A bug of ours ended a step; holds the exception, and the job's errors name it."""
    ENGINE_FAILED = "engine_failed"
    """A bug of ours ended one round of the engine; holds the exception, and the next round comes."""
    OUTCOME_NOT_STORED = "outcome_not_stored"
    """A step ended and the control database did not hear it; its lease runs out by itself."""
    CLOSE_FAILED = "close_failed"
    """A connection could not be closed in order; nothing depends on it."""
    RETRYING = "retrying"
    """A transient error; the step tries again in place."""
    VERIFIED = "verified"
    """A verification has compared everything; counts what it found, by kind."""
    SCHEDULE_STARTED = "schedule_started"
    """A job was started by its schedule."""
    SCHEDULE_SKIPPED = "schedule_skipped"
    """A job's schedule said that it starts, and it could not."""
    SCHEDULE_MISSED = "schedule_missed"
    """No service ran when a job's schedule said that it starts, and its policy is not to make up for it."""
    SCHEDULE_FAILED = "schedule_failed"
    """A bug of ours, or a time zone that this machine does not know; holds the exception, and is tried again."""
    JWT_KEYS_READ = "jwt_keys_read"
    """The keys of jwts were read again, because their file has changed."""
    JWT_KEYS_NOT_READ = "jwt_keys_not_read"
    """The file of the keys of jwts has changed and can not be used; those before it are still in force."""
    TLS_RELOADED = "tls_reloaded"
    """The certificate was read again, because its files have changed; connections from now on see it."""
    TLS_NOT_RELOADED = "tls_not_reloaded"
    """The files of the certificate have changed and can not be used; the one before is still in force."""
    RETENTION = "retention"
    """Old runs, log lines, events or chunk records were removed."""


HTTP_REQUESTS: Final = Metric(
    "rowferry_http_requests_total", "counter", "Answered requests", ("method", "route", "status")
)
HTTP_SECONDS: Final = Metric(
    "rowferry_http_request_duration_seconds", "histogram", "Time to answer, streams left out", ("method", "route")
)
HTTP_STREAMS: Final = Metric("rowferry_http_streams", "gauge", "Open event streams")
JOB_LOG_DROPPED: Final = Metric("rowferry_job_log_dropped_total", "counter", "Lines of the job log that were dropped")
STEPS_RUNNING: Final = Metric("rowferry_steps_running", "gauge", "Steps leased by this process", ("kind",))
STEPS_ENDED: Final = Metric(
    "rowferry_steps_ended_total", "counter", "Steps that ended here: done, parked, released, failed, lost",
    ("kind", "outcome"),
)  # fmt: skip
ROWS_READ: Final = Metric("rowferry_rows_read_total", "counter", "Rows read from sources", ("sink",))
ROWS_SENT: Final = Metric("rowferry_rows_sent_total", "counter", "Rows in settled chunks", ("sink",))
ROWS_DEAD: Final = Metric("rowferry_rows_dead_total", "counter", "Rows that became dead letters", ("sink",))
ROWS_LATE: Final = Metric(
    "rowferry_rows_late_total", "counter", "Rows found behind the position, by a look back (late_window)", ("sink",)
)
DEAD_LETTERS_RETRIED: Final = Metric(
    "rowferry_dead_letters_retried_total", "counter", "Dead letters of ended retries: sent, stays", ("sink", "outcome")
)
BYTES_SENT: Final = Metric("rowferry_bytes_sent_total", "counter", "Bytes in settled chunks, as written", ("sink",))
CHUNKS_SETTLED: Final = Metric("rowferry_chunks_settled_total", "counter", "Settled chunks", ("sink",))
CHUNK_SECONDS: Final = Metric(
    "rowferry_chunk_duration_seconds", "histogram", "Time of each step of a chunk: prepare, make_visible, settle",
    ("sink", "step"),
)  # fmt: skip
RETRIES: Final = Metric("rowferry_retries_total", "counter", "Retries in place", ("code",))
PAGE_SECONDS: Final = Metric("rowferry_source_page_duration_seconds", "histogram", "Time of one source query")
VERIFIED_ROWS: Final = Metric("rowferry_verified_rows_total", "counter", "Delivered rows that were compared", ("sink",))
VERIFY_DIFFERENCES: Final = Metric(
    "rowferry_verify_differences_total", "counter", "Differences that verifications found", ("kind",)
)
SNAPSHOTS_HELD: Final = Metric("rowferry_snapshots_held", "gauge", "Snapshots of sources held open by this process")
SNAPSHOTS_ENDED: Final = Metric(
    "rowferry_snapshots_ended_total",
    "counter",
    "Snapshots of sources that were held here: released, lost, expired",
    ("outcome",),
)
MEMORY_HELD: Final = Metric("rowferry_memory_held_bytes", "gauge", "Pages and chunks in flight")

METRICS: Final[tuple[Metric, ...]] = tuple(value for value in dict(globals()).values() if isinstance(value, Metric))


def documented() -> dict[LogEvent, str]:
    """What stands behind each log event in this file."""
    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == LogEvent.__name__)
    found = {}
    for one, after in pairwise(body):
        if isinstance(one, ast.Assign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            target = one.targets[0]
            assert isinstance(target, ast.Name)
            found[LogEvent[target.id]] = " ".join(str(after.value.value).split())
    return found


def as_markdown() -> str:
    """The page."""
    lines = ["# Metrics and log events", "", "Made by `python -m config.names`; a test compares it.", ""]
    lines += ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    lines += [f"| `{one.name}` | {one.kind} | {', '.join(one.labels)} | {one.help} |" for one in METRICS]
    lines += ["", "| log event | written when |", "|---|---|"]
    lines += [f"| `{event}` | {text} |" for event, text in documented().items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(as_markdown())
