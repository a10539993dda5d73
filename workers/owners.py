"""Who writes, as a sink knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.domain.steps import StepKind
from sinks.base import Owner

if TYPE_CHECKING:
    from service.domain.steps import Step
    from sinks.base import Writer


def owner(
    step: Step, *, generation: int | None = None, split: int | str | None = None, epoch: int | None = None
) -> Owner:
    """The step's holder as the sink knows it, or the owner of another generation's split."""
    lease = step.lease
    return Owner(
        account=step.account,
        job_id=lease.job_id,
        job_name=step.job_name,
        run_id=lease.run_id or "",
        generation=lease.generation if generation is None else generation,
        split=str(lease.ordinal if split is None else split),
        epoch=lease.epoch if epoch is None else epoch,
    )


def origin(step: Step, *, generation: int | None = None) -> dict[str, object]:
    """What an envelope tells of the step that reads, beside each row."""
    lease = step.lease
    retries = lease.kind is StepKind.RETRY
    return {
        "job": step.job_name,
        "job_id": lease.job_id,
        "run": lease.run_id,
        "generation": lease.generation if generation is None else generation,
        "split": retry_split(lease.ordinal) if retries else lease.ordinal,
    }


def retry_split(number: int) -> str:
    """What a retry of dead letters is called where a split has its ordinal."""
    return f"retry-{number}"


async def drop_writer(writer: Writer) -> None:
    """The end of a pass: nothing that is not visible stays."""
    await writer.discard()
    await writer.close()
