"""What validation and preview answer, from what was found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from config.redaction import REDACTOR
from service.api import answers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.domain.inspection import Finding, Outlook, Preview


def findings(found: Sequence[Finding]) -> answers.ValidationAnswer:
    """What validation has to say."""
    return answers.ValidationAnswer(valid=_valid(found), findings=_findings(found))


def validation(seen: Outlook) -> answers.JobValidationAnswer:
    """What is known of a job before its first row."""
    return answers.JobValidationAnswer(valid=_valid(seen.findings), **_seen(seen))


def preview(seen: Preview, form: str) -> answers.PreviewAnswer:
    """The first rows, and what is to be said about all of them."""
    rows = [answers.PreviewRowAnswer(key=answers.key_text(row.key), value=row.value) for row in seen.rows]
    return answers.PreviewAnswer(rows=rows, format=form, **_seen(seen.outlook))


def _seen(seen: Outlook) -> dict[str, Any]:
    return {
        "findings": _findings(seen.findings),
        "guarantee": seen.guarantee,
        "guarantee_note": seen.guarantee_note,
        "key": list(seen.key),
        "index": seen.index,
        "estimate": answers.EstimateAnswer(rows=seen.rows, bytes=seen.bytes),
    }


def _valid(found: Sequence[Finding]) -> bool:
    return all(one.severity != "error" for one in found)


def _findings(found: Sequence[Finding]) -> list[answers.FindingAnswer]:
    return [
        answers.FindingAnswer(
            pointer=one.pointer,
            severity=one.severity,
            code=one.code,
            message=REDACTOR.scrub(one.message),
            hint=REDACTOR.scrub(one.hint),
        )
        for one in found
    ]
