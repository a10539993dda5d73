"""How a job moves its rows: `options` of its definition."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator

from service.domain.limits import FASTEST, LONGEST_SECONDS
from service.domain.strict import Strict
from service.domain.window import MOST_LATE_KEYS


class ChunkOptions(Strict):
    """A chunk closes at whichever comes first."""

    rows: int = Field(default=50_000, ge=1, le=10_000_000)
    bytes: int = Field(default=16 * 1024 * 1024, ge=1024, le=1024**3)
    seconds: Annotated[float, Field(ge=0.05, le=600, strict=False)] = 5.0


class RateOptions(Strict):
    """Upper limits for the whole job; null is no limit. Can be changed while the job runs."""

    rows_per_second: Annotated[float | None, Field(gt=0, le=FASTEST, strict=False)] = None
    bytes_per_second: Annotated[float | None, Field(gt=0, le=FASTEST, strict=False)] = None


class EaseOptions(Strict):
    """Reading waits while the source's server has more than this to do for others. Can be changed while the job
    runs."""

    active_sessions: int = Field(ge=1, le=10_000, description="statements under way that are not this product's")


class SafetyOptions(Strict):
    """How rows whose keys commit out of order are kept from being passed over."""

    kind: Literal["commit", "delay", "none"] = "commit"
    delay_seconds: Annotated[float | None, Field(gt=0, le=86_400, strict=False)] = None

    @model_validator(mode="after")
    def _delay(self) -> SafetyOptions:
        if (self.kind == "delay") != (self.delay_seconds is not None):
            raise ValueError("delay_seconds belongs to kind delay, and kind delay needs it")
        return self


class DeadLetterOptions(Strict):
    """How many rows a run may set aside before it ends in error: both limits hold, and with 0 the first one is too
    many. Can be changed while the job runs."""

    max_rows: int = Field(default=0, ge=0, le=1_000_000)
    max_ratio: Annotated[
        float | None,
        Field(gt=0, le=1, strict=False, description="of the rows that the run has read, and of at least 1,000"),
    ] = None

    @model_validator(mode="after")
    def _both(self) -> DeadLetterOptions:
        if self.max_ratio is not None and self.max_rows == 0:
            raise ValueError(
                "max_ratio needs max_rows above 0: the most rows that may be set aside, whatever the ratio"
            )
        return self


class RetryOptions(Strict):
    """Retries go on in place until this long without progress."""

    max_without_progress_seconds: Annotated[float, Field(gt=0, le=LONGEST_SECONDS, strict=False)] = 900.0


def _splits(value: object) -> object:
    if value != "auto" and (type(value) is not int or not 1 <= value <= _MOST_SPLITS):
        raise ValueError(f'must be a valid integer greater than or equal to 1, at most {_MOST_SPLITS}, or "auto"')
    return value


_MOST_SPLITS = 64


SNAPSHOT_SECONDS = 3600.0
"""How old a snapshot may become where nobody says: what VACUUM can not remove meanwhile stays small."""


Splits = Annotated[
    int | Literal["auto"],
    PlainValidator(_splits),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer", "minimum": 1, "maximum": _MOST_SPLITS}, {"const": "auto", "type": "string"}],
            "description": "`auto`: as many as rows and bytes are worth, and cores, connections and sink can use",
        }
    ),
]


class Options(Strict):
    """How to move it."""

    splits: Splits = 1
    page_bytes: int = Field(default=4 * 1024 * 1024, ge=64 * 1024, le=64 * 1024 * 1024)
    chunk: ChunkOptions = ChunkOptions()
    rate: RateOptions = RateOptions()
    ease: EaseOptions | None = None
    safety: SafetyOptions = SafetyOptions()
    late_window: int | None = Field(
        default=None, ge=1, le=MOST_LATE_KEYS, description="this many rows behind the last are looked at again"
    )
    poll_seconds: Annotated[float, Field(ge=0.05, le=3600, strict=False)] = 1.0
    stop_timeout_seconds: Annotated[float, Field(ge=0.1, le=3600, strict=False)] = 30.0
    dead_letters: DeadLetterOptions = DeadLetterOptions()
    retry: RetryOptions = RetryOptions()
    timeout_seconds: Annotated[float | None, Field(gt=0, le=LONGEST_SECONDS, strict=False)] = None
    single_row_timeout_seconds: Annotated[float, Field(ge=1, le=3600, strict=False)] = 60.0
    max_row_bytes: int = Field(default=64 * 1024 * 1024, ge=1024, le=1024**3)
    allow_long_statements: bool = False
    key_is_monotonic: bool = Field(
        default=False, description="at your word: keys rise in the order in which writers take their locks"
    )
    barrier_sequences: list[str] = Field(
        default=[], max_length=16, description="`schema.sequence`: what numbers a key that is monotonic at your word"
    )
    barrier_timeout_seconds: Annotated[
        float | None, Field(gt=0, le=604_800, strict=False, description="the longest that rows wait for writers to end")
    ] = None
    schema_change: Literal["fail", "continue"] = Field(
        default="fail", description="when the source's columns change while it is read"
    )
    snapshot: bool = Field(default=False, description="read all splits as of one moment, in one exported snapshot")
    snapshot_max_age_seconds: Annotated[float, Field(ge=1, le=86_400, strict=False)] = Field(
        default=SNAPSHOT_SECONDS, description="how long that moment may be held open on the source"
    )
    row_security: bool = Field(
        default=False, description="read what the role's policies let it see, instead of failing"
    )
    key_is_unique: bool = Field(
        default=False, description="at your word; the reader looks at every row, and ends the run at a repeated key"
    )

    @model_validator(mode="after")
    def _at_your_word(self) -> Options:
        if self.barrier_sequences and not self.key_is_monotonic:
            raise ValueError("barrier_sequences needs key_is_monotonic: true, for it is at your word that they count")
        return self

    @model_validator(mode="after")
    def _of_a_snapshot(self) -> Options:
        if self.snapshot_max_age_seconds != SNAPSHOT_SECONDS and not self.snapshot:
            raise ValueError("snapshot_max_age_seconds needs snapshot: true")
        return self
