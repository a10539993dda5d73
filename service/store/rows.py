"""Table rows as the domain's records."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

from service.domain.errors import Cause
from service.domain.history import EventRecord, LogLine, Output, PartitionSpan
from service.domain.records import Job, Run, SplitPosition, Totals
from service.domain.states import Desired, State
from service.domain.steps import Condition, OpenRange

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from service.domain.records import Key
    from service.store.pool import Row

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def is_id(text: str) -> bool:
    """Whether `text` has the form of an id; Postgres would refuse anything else as one."""
    return _UUID.fullmatch(text) is not None


def key_of(value: Iterable[str] | None) -> Key | None:
    """A key as stored."""
    return None if value is None else tuple(value)


def causes_of(value: Iterable[Mapping[str, Any]]) -> list[Cause]:
    """A cause chain as stored."""
    return [Cause(c["code"], c["message"], datetime.fromisoformat(c["at"]), bool(c["retryable"])) for c in value]


def ranges_to_json(ranges: Iterable[OpenRange]) -> list[list[list[str] | None]]:
    """Key ranges for a jsonb column."""
    return [[None if r.lower is None else list(r.lower), None if r.upper is None else list(r.upper)] for r in ranges]


def run_of(row: Row, prefix: str = "") -> Run:
    """A run out of its columns, each named with `prefix`."""

    def column(name: str) -> Any:
        return row[prefix + name]

    return Run(
        id=column("id"),
        number=column("number"),
        job_id=column("job_id"),
        job_name=column("job_name"),
        generation=column("generation"),
        trigger=column("trigger"),
        state=State(column("state")),
        sink=column("sink"),
        datasource=column("datasource"),
        started_at=column("started_at"),
        ended_at=column("ended_at"),
        rows_read=column("rows_read"),
        rows_sent=column("rows_sent"),
        rows_dead=column("rows_dead"),
        rows_maybe_doubled=column("rows_maybe_doubled"),
        rows_late=column("rows_late"),
        bytes_sent=column("bytes_sent"),
        last_id=key_of(column("last_id")),
        splits_done=column("splits_done"),
        splits_total=column("splits_total"),
        estimated_rows=column("estimated_rows"),
        errors=causes_of(column("errors")),
        labels=column("labels"),
    )


def job_of(row: Row) -> Job:
    """A job out of a whole row of `select_jobs`."""
    return Job(
        id=row["id"],
        account=row["account"],
        name=row["name"],
        owner=row["owner"],
        spec=row["spec"],
        secret_pointers=row["secret_pointers"],
        spec_revision=row["spec_revision"],
        status_revision=row["status_revision"],
        state=State(row["state"]),
        desired=None if row["desired"] is None else Desired(row["desired"]),
        reason=row["reason"],
        generation=row["generation"],
        generation_unrun=row["generation_unrun"],
        guarantee=row["guarantee"],
        guarantee_note=row["guarantee_note"],
        run=None if row["r_id"] is None else run_of(row, "r_"),
        totals=Totals(
            row["totals_rows_read"],
            row["totals_rows_sent"],
            row["totals_rows_dead"],
            row["totals_rows_late"],
            row["totals_bytes_sent"],
            row["totals_runs"],
        ),
        last_id=key_of(row["last_id"]),
        splits=[
            SplitPosition(ordinal, key_of(lower), key_of(upper), key_of(position), done)
            for ordinal, lower, upper, position, done in row["splits"] or ()
        ],
        condition=Condition(row["waiting_for"], row["retrying"], row["horizon"], row["lag"]),
        stalled=row["stalled"],
        last_progress_at=row["last_progress_at"],
        errors=causes_of(row["errors"]),
        labels=row["labels"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        state_changed_at=row["state_changed_at"],
        next_run_at=row["next_run_at"],
        snapshot=row["snapshot"],
        parked=row["parked"],
    )


def output_of(row: Row) -> Output:
    """A visible chunk out of its row."""
    return Output(
        run_id=row["run_id"],
        generation=row["generation"],
        split=row["ordinal"],
        sequence=row["sequence"],
        target=row["target"],
        partition=row["partition"],
        first_offset=row["first_offset"],
        last_offset=row["last_offset"],
        partitions=_spans(row["offsets"]),
        rows=row["rows"],
        bytes=row["bytes"],
        etag=row["etag"],
        checksum=row["checksum"],
        first_id=key_of(row["first_key"]),
        last_id=key_of(row["last_key"]),
        committed_at=row["settled_at"],
    )


def _spans(offsets: dict[str, list[int]] | None) -> list[PartitionSpan] | None:
    """First and last offset by partition, as a chunk's details have them."""
    if offsets is None:
        return None
    return [PartitionSpan(int(number), *span) for number, span in sorted(offsets.items(), key=lambda one: int(one[0]))]


def log_line_of(row: Row) -> LogLine:
    """A line of the job log."""
    return LogLine(
        seq=row["seq"],
        at=row["at"],
        level=row["level"],
        event=row["event"],
        message=row["message"],
        account=row["account"],
        job_id=row["job_id"],
        run_id=row["run_id"],
        split=row["split"],
        epoch=row["epoch"],
        request_id=row["request_id"],
        fields=row["fields"],
    )


def event_of(row: Row) -> EventRecord:
    """An event."""
    return EventRecord(
        seq=row["seq"],
        at=row["at"],
        event=row["event"],
        job_id=row["job_id"],
        job_name=row["job_name"],
        run_id=row["run_id"],
        actor=row["actor"],
        origin=row["origin"],
        state_from=row["state_from"],
        state_to=row["state_to"],
        details=row["details"],
    )
