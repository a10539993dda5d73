"""The service itself: whether it serves, what it needs, what it is."""

from __future__ import annotations

from service.api.answers.base import Answer, Moment


class HealthAnswer(Answer):
    """The process serves."""

    status: str


class CheckAnswer(Answer):
    """One dependency. `error` and `since` only with a token."""

    ok: bool
    error: str | None = None
    since: Moment | None = None


class ReadyAnswer(Answer):
    """Whether everything the service needs is there."""

    ready: bool
    checks: dict[str, CheckAnswer]


class InfoAnswer(Answer):
    """What this service is and has."""

    version: str
    engine: str
    sinks: list[str]
    formats: list[str]
    modes: list[str]
