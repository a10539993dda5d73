"""What every model of the API takes: what it knows, as it is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Base of every model of the API: unknown fields are errors and nothing is coerced."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
