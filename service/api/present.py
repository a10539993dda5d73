"""From the store's records to answers: what is computed for the eye alone, and what a role may see."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from config.redaction import MASK, REDACTOR
from service import secret_fields
from service.api.answers.base import key_text
from service.api.answers.history import EventAnswer, LogLineAnswer, OutputAnswer, PartitionSpanAnswer
from service.api.answers.jobs import (
    CauseAnswer,
    JobAnswer,
    PositionAnswer,
    RunAnswer,
    SnapshotAnswer,
    SplitAnswer,
    TotalsAnswer,
)
from service.api.answers.named import (
    ColumnAnswer,
    CredentialAnswer,
    DatasourceAnswer,
    KeyAnswer,
    PublicTableAnswer,
    TableAnswer,
    TlsAnswer,
    TokenAnswer,
)
from service.api.routes import Role
from service.domain.states import State, may_start, verbs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from service.domain.errors import Cause
    from service.domain.history import EventRecord, LogLine, Output
    from service.domain.inspection import TableInfo
    from service.domain.named import PublicTable, SigningKey, StoredCredential, StoredDatasource, Token
    from service.domain.records import Job, Run, SplitPosition


def job(record: Job, role: Role, now: datetime | None = None) -> JobAnswer:
    """A job as answered to a role."""
    mode = str(record.spec.get("mode", "once"))
    startable = may_start(record.state, mode, generation_unrun=record.generation_unrun)
    return JobAnswer(
        id=record.id,
        name=record.name,
        account=record.account,
        owner=record.owner,
        spec=secret_fields.mask(record.spec, record.secret_pointers),
        generation=record.generation,
        state=record.state.value,
        desired=record.desired.value if record.desired is not None else None,
        verbs=verbs(record.state, may_start=startable),
        reason=record.reason,
        guarantee=record.guarantee,
        guarantee_note=record.guarantee_note,
        run=run(record.run, now) if record.run is not None else None,
        totals=TotalsAnswer(
            rows_read=record.totals.rows_read,
            rows_sent=record.totals.rows_sent,
            rows_dead=record.totals.rows_dead,
            rows_late=record.totals.rows_late,
            bytes_sent=record.totals.bytes_sent,
            runs=record.totals.runs,
        ),
        last_id=key_text(record.last_id),
        position=PositionAnswer(generation=record.generation, splits=splits(record.splits)),
        horizon=_horizon(record.condition.horizon, role),
        snapshot=_snapshot(record.snapshot),
        lag=dict(record.condition.lag) if record.condition.lag is not None else None,
        stalled=record.stalled,
        waiting_for=record.condition.waiting_for,
        retrying=scrubbed(record.condition.retrying),
        last_progress_at=record.last_progress_at,
        errors=causes(record.errors),
        created_at=record.created_at,
        updated_at=record.updated_at,
        state_changed_at=record.state_changed_at,
        next_run_at=record.next_run_at,
    )


def stands_still(record: Job) -> bool:
    """Whether `job` says the same of this record at any time: the rate of a run that has not ended depends on when it
    is asked for."""
    return record.run is None or record.run.ended_at is not None


def run(record: Run, now: datetime | None = None) -> RunAnswer:
    """A run, with its rate, progress and what is left. The rate is over the whole run."""
    end = record.ended_at or now or datetime.now(UTC)
    seconds = (end - record.started_at).total_seconds()
    rate = record.rows_read / seconds if seconds > 0 else None
    progress, eta = _progress(record, rate)
    return RunAnswer(
        id=record.id,
        number=record.number,
        job_id=record.job_id,
        job_name=record.job_name,
        generation=record.generation,
        trigger=record.trigger,
        state=record.state.value,
        sink=record.sink,
        started_at=record.started_at,
        ended_at=record.ended_at,
        rows_read=record.rows_read,
        rows_sent=record.rows_sent,
        rows_dead=record.rows_dead,
        rows_maybe_doubled=record.rows_maybe_doubled,
        rows_late=record.rows_late,
        bytes_sent=record.bytes_sent,
        last_id=key_text(record.last_id),
        rows_per_second=round(rate, 1) if rate is not None else None,
        splits_done=record.splits_done,
        splits_total=record.splits_total,
        progress=progress,
        eta_seconds=eta,
        labels=dict(record.labels),
        errors=causes(record.errors),
    )


def _progress(record: Run, rate: float | None) -> tuple[float | None, float | None]:
    if record.state is State.SUCCESSFUL:
        return 1.0, None
    if not record.estimated_rows:
        return None, None
    # An estimate: never say done before it is.
    progress = min(record.rows_read / record.estimated_rows, 0.999)
    left = max(record.estimated_rows - record.rows_read, 0)
    eta = round(left / rate, 1) if rate and record.ended_at is None else None
    return round(progress, 4), eta


def causes(errors: Iterable[Cause]) -> list[CauseAnswer]:
    """A cause chain, outermost first."""
    return [
        CauseAnswer(code=cause.code, message=REDACTOR.scrub(cause.message), at=cause.at, retryable=cause.retryable)
        for cause in errors
    ]


def splits(positions: Sequence[SplitPosition]) -> list[SplitAnswer]:
    """Where each split stands."""
    return [
        SplitAnswer(
            ordinal=one.ordinal,
            lower=key_text(one.lower),
            upper=key_text(one.upper),
            last_id=key_text(one.last_id),
            done=one.done,
        )
        for one in positions
    ]


def output(record: Output) -> OutputAnswer:
    """One visible chunk."""
    spans = [PartitionSpanAnswer.model_validate(one, from_attributes=True) for one in record.partitions or ()]
    return OutputAnswer(
        run_id=record.run_id,
        generation=record.generation,
        split=record.split,
        sequence=record.sequence,
        target=record.target,
        partition=record.partition,
        first_offset=record.first_offset,
        last_offset=record.last_offset,
        partitions=spans or None,
        rows=record.rows,
        bytes=record.bytes,
        etag=record.etag,
        checksum=record.checksum,
        first_id=key_text(record.first_id),
        last_id=key_text(record.last_id),
        committed_at=record.committed_at,
    )


def log_line(record: LogLine) -> LogLineAnswer:
    """One line of the log; it was scrubbed when it was written."""
    return LogLineAnswer(
        seq=record.seq,
        at=record.at,
        level=record.level,
        event=record.event,
        message=record.message,
        job_id=record.job_id,
        run_id=record.run_id,
        split=record.split,
        epoch=record.epoch,
        request_id=record.request_id,
        fields=dict(record.fields),
    )


def event(record: EventRecord) -> EventAnswer:
    """One event."""
    return EventAnswer(
        seq=record.seq,
        at=record.at,
        event=record.event,
        job_id=record.job_id,
        job_name=record.job_name,
        run_id=record.run_id,
        actor=record.actor,
        origin=record.origin,
        state_from=record.state_from,
        state_to=record.state_to,
        details=scrubbed(record.details) or {},
    )


def datasource(record: StoredDatasource) -> DatasourceAnswer:
    """A datasource without its password."""
    definition: Any = record.definition
    tls = definition.get("tls") or {}
    return DatasourceAnswer(
        name=record.name,
        host=definition["host"],
        port=definition["port"],
        database=definition["database"],
        user=definition["user"],
        password=MASK if record.password is not None else None,
        tls=TlsAnswer(mode=tls.get("mode", "prefer"), ca=tls.get("ca")),
        time_zone=definition.get("time_zone"),
        properties=dict(definition.get("properties") or {}),
        max_connections=definition.get("max_connections"),
        barrier=definition.get("barrier"),
        created_at=record.created_at,
        updated_at=record.updated_at,
    )


def table(info: TableInfo) -> TableAnswer:
    """A table of a datasource."""
    return TableAnswer(
        name=info.name,
        kind=info.kind,
        columns=[ColumnAnswer(name=one.name, type=one.type, nullable=one.nullable) for one in info.columns],
        keys=[list(one) for one in info.keys],
        estimated_rows=info.estimated_rows,
    )


def credential(record: StoredCredential) -> CredentialAnswer:
    """A credential without its values."""
    return CredentialAnswer(
        name=record.name,
        secrets=dict.fromkeys(sorted(record.secrets), MASK),
        created_at=record.created_at,
        updated_at=record.updated_at,
    )


def public_table(record: PublicTable) -> PublicTableAnswer:
    """A table under its public name."""
    return PublicTableAnswer(
        name=record.name,
        datasource=record.datasource,
        table=record.table,
        time_column=record.time_column,
        key=list(record.key) if record.key is not None else None,
        columns=list(record.columns),
        key_is_monotonic=record.key_is_monotonic,
        created_at=record.created_at,
        updated_at=record.updated_at,
    )


def key(record: SigningKey) -> KeyAnswer:
    """A key without its secret."""
    return KeyAnswer(
        key=record.key, name=record.name, role=record.role, account=record.account, created_at=record.created_at
    )


def token(record: Token) -> TokenAnswer:
    """A token without what it opens."""
    return TokenAnswer(
        id=record.id,
        name=record.name,
        role=record.role,
        account=record.account,
        created_at=record.created_at,
        expires_at=record.expires_at,
    )


def _snapshot(kept: Any) -> SnapshotAnswer | None:
    if kept is None:
        return None
    taken_at, until = (datetime.fromisoformat(kept[name]) for name in ("taken_at", "until"))
    return SnapshotAnswer(taken_at=taken_at, until=until, pid=kept["pid"], held=kept["held"])


def _horizon(horizon: Any, role: Role) -> dict[str, Any] | None:
    """Other people's queries are row data: operators and admins see them."""
    if horizon is None:
        return None
    held_by = [
        {
            "pid": one.get("pid"),
            "age_seconds": one.get("age_seconds"),
            "query": one.get("query") if role >= Role.OPERATOR else None,
        }
        for one in horizon.get("held_by") or ()
    ]
    bound = horizon.get("bound")
    shown = key_text(tuple(bound)) if isinstance(bound, list | tuple) else bound
    return {**horizon, "bound": shown, "held_by": held_by}


def scrubbed(value: Any) -> dict[str, Any] | None:
    """JSON with every secret masked that is known here."""
    return REDACTOR.scrub_value(dict(value)) if value is not None else None
