"""What every answer is made of: its base, moments and keys as the API writes them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema

if TYPE_CHECKING:
    from service.domain.records import Key

Identity = Annotated[str, Field(json_schema_extra={"format": "uuid"})]


def rfc3339(value: datetime) -> str:
    """UTC, always with microseconds."""
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


Moment = Annotated[datetime, PlainSerializer(rfc3339), WithJsonSchema({"type": "string", "format": "date-time"})]
KeyText = Annotated[str | list[str] | None, Field(description="text, or a list of texts for a composite key")]


def key_text(key: Key | None) -> str | list[str] | None:
    """A key as the API writes it."""
    return None if key is None else key[0] if len(key) == 1 else list(key)


class Answer(BaseModel):
    """Base of every answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)
