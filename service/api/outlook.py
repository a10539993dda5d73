"""What validation and preview answer, from what was found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from config.redaction import REDACTOR
from service.api.answers.base import key_text
from service.api.answers.outlook import (
    EstimateAnswer,
    FindingAnswer,
    JobValidationAnswer,
    PreviewAnswer,
    PreviewRowAnswer,
    ValidationAnswer,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.domain.inspection import Finding, Outlook, Preview


def findings(found: Sequence[Finding]) -> ValidationAnswer:
    """What validation has to say."""
    return ValidationAnswer(valid=_valid(found), findings=_findings(found))


def validation(seen: Outlook) -> JobValidationAnswer:
    """What is known of a job before its first row."""
    return JobValidationAnswer(valid=_valid(seen.findings), **_seen(seen))


def preview(seen: Preview, form: str) -> PreviewAnswer:
    """The first rows, and what is to be said about all of them."""
    rows = [PreviewRowAnswer(key=key_text(row.key), value=row.value) for row in seen.rows]
    return PreviewAnswer(rows=rows, format=form, **_seen(seen.outlook))


def _seen(seen: Outlook) -> dict[str, Any]:
    return {
        "findings": _findings(seen.findings),
        "guarantee": seen.guarantee,
        "guarantee_note": seen.guarantee_note,
        "key": list(seen.key),
        "index": seen.index,
        "estimate": EstimateAnswer(rows=seen.rows, bytes=seen.bytes),
    }


def _valid(found: Sequence[Finding]) -> bool:
    return all(one.severity != "error" for one in found)


def _findings(found: Sequence[Finding]) -> list[FindingAnswer]:
    return [
        FindingAnswer(
            pointer=one.pointer,
            severity=one.severity,
            code=one.code,
            message=REDACTOR.scrub(one.message),
            hint=REDACTOR.scrub(one.hint),
        )
        for one in found
    ]
