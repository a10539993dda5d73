"""One pipe for every log line: ours through structlog, everybody else's through the standard library, JSON or console.

Order: context (account, job, run, split, epoch, request id) -> time and level -> exceptions as text -> redaction ->
tap (the job log) -> rendering. Nothing reaches a tap or a stream before redaction.
"""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TextIO

import structlog
from structlog.contextvars import bind_contextvars, bound_contextvars, clear_contextvars

from config.redaction import REDACTOR, Redactor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping
    from contextvars import Token

    Tap = Callable[[Mapping[str, Any]], None]

__all__ = [
    "CONTEXT",
    "bind_contextvars",
    "bound_contextvars",
    "carry",
    "clear_contextvars",
    "configure",
    "get_logger",
    "is_heard",
    "put_down",
]

CONTEXT: Final = ("account", "job", "job_id", "run_id", "split", "epoch", "request_id")
"""The names bound to a line by `bound_contextvars`; `job` is its name."""

_CARRIED: Final[ContextVar[Mapping[str, Any]]] = ContextVar("rowferry_log_carried")

# Their informational lines are one a connection or a heartbeat.
_TALKATIVE: Final = ("aiokafka", "aiobotocore", "botocore", "asyncio", "urllib3")


def carry(fields: Mapping[str, Any]) -> Token[Mapping[str, Any]]:
    """As `bind_contextvars`, until `put_down`: for what happens thousands of times a second and is logged seldom. The
    mapping is looked at when a line is written; what is put into it meanwhile is in the line."""
    return _CARRIED.set(fields)


def put_down(token: Token[Mapping[str, Any]]) -> None:
    """The end of what `carry` began."""
    _CARRIED.reset(token)


def is_heard(name: str, level: int) -> bool:
    """Whether a line of this level of this logger would be written, for who can spare himself its making."""
    return _logger(name).isEnabledFor(level)


_logger = lru_cache(logging.getLogger)


def _merge_carried(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    carried = _CARRIED.get(None)
    return event if carried is None else {**carried, **event}


class _Redact:
    """Masks secrets in every field."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor

    def __call__(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        # What structlog itself put there (`_record`, `_from_structlog`) never reaches a line.
        return {
            key: value if key.startswith("_") else self._redactor.scrub_value(value, key)
            for key, value in event.items()
        }


class _Tap:
    """Hands a copy of each line to the job log."""

    def __init__(self, tap: Tap) -> None:
        self._tap = tap

    def __call__(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        self._tap({key: value for key, value in event.items() if not key.startswith("_")})
        return event


def configure(
    level: str = "info",
    log_format: str | None = None,
    *,
    stream: TextIO | None = None,
    tap: Tap | None = None,
    redactor: Redactor = REDACTOR,
) -> None:
    """Set up the process's logging; may be called again. `log_format` None: console on a terminal, else JSON. `tap`
    gets every line that passes `level`, redacted, with `timestamp`, `level`, `event` and its fields; it must not
    block, raise or log."""
    stream = sys.stderr if stream is None else stream
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        _merge_carried,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    last = _last(log_format, stream, tap, redactor)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last))
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old.formatter, structlog.stdlib.ProcessorFormatter):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *(one for one in shared if not isinstance(one, structlog.stdlib.ExtraAdder)),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _last(log_format: str | None, stream: TextIO, tap: Tap | None, redactor: Redactor) -> list[Any]:
    """What a line goes through after all of it is known: secrets out, the tap, then how it is written."""
    console = log_format == "console" or (log_format is None and stream.isatty())
    return [
        structlog.processors.format_exc_info,
        _Redact(redactor),
        *([] if tap is None else [_Tap(tap)]),
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.dev.ConsoleRenderer(colors=stream.isatty())
        if console
        else structlog.processors.JSONRenderer(serializer=_dump),
    ]


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of a module. The event of a line is one of `config.names.LogEvent`."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def _dump(value: Any, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=options.get("default", str))
