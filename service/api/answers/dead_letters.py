"""Rows that were set aside, and what became of them."""

from __future__ import annotations

from pydantic import Field

from service.api.answers.base import Answer, Identity, KeyText, Moment


class ReasonAnswer(Answer):
    """Why a row is a dead letter."""

    code: str
    message: str


class DeadLetterAnswer(Answer):
    """A row that could not be delivered."""

    id: Identity
    run_id: Identity
    generation: int
    split: int
    key: KeyText
    reason: ReasonAnswer
    payload: str | None = Field(description="the record as sent, its beginning where it is long; null: never read")
    payload_bytes: int | None = Field(description="of the whole record; more than the payload's: it was cut")
    at: Moment
    retries: int
    note: str | None = Field(description="what came of the last retry, beside the reason")
    retrying: bool = Field(description="a retry has it in hand")


class DeadLettersAnswer(Answer):
    """A page of dead letters, in the order in which they became final."""

    dead_letters: list[DeadLetterAnswer]
    next: str | None


class DeadLettersRetryAnswer(Answer):
    """What is being sent again; the event `dead_letters_retried` tells of the end."""

    from_: str = Field(serialization_alias="from", validation_alias="from")
    dead_letters: int
    notes: list[str]
    """What a person should know of these rows."""


class DeadLettersDeletedAnswer(Answer):
    """How many went."""

    deleted: int
