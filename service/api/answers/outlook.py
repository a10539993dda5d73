"""What is to be said of a definition before its first row."""

from __future__ import annotations

from pydantic import Field

from service.api.answers.base import Answer, KeyText


class FindingAnswer(Answer):
    """One thing that validation has to say."""

    pointer: str
    severity: str
    code: str
    message: str
    hint: str


class ValidationAnswer(Answer):
    """`valid` when no finding is an error."""

    valid: bool
    findings: list[FindingAnswer]


class EstimateAnswer(Answer):
    """How much the definition lets through from the beginning, as the source's planner and catalog see it."""

    rows: int | None
    bytes: int | None


class OutlookAnswer(Answer):
    """What is known before the first row; null and empty where something stands in the way."""

    findings: list[FindingAnswer]
    guarantee: str | None
    guarantee_note: str
    key: list[str] = Field(description="as given, or the primary key")
    index: str | None = Field(description="gives the rows in the key's order")
    estimate: EstimateAnswer


class JobValidationAnswer(OutlookAnswer):
    """`valid` when no finding is an error."""

    valid: bool


class PreviewRowAnswer(Answer):
    """One row as the sink would get it."""

    key: KeyText
    value: str


class PreviewAnswer(OutlookAnswer):
    """The first rows, and what is to be said about all of them."""

    rows: list[PreviewRowAnswer]
    format: str
