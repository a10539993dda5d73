"""What comes over a connection and is no request: scanners, TLS spoken to a plain port, bodies that break off.

The HTTP server answers 400 by itself and calls it an error of ours, with a traceback each time; anybody who reaches the
port could fill the log with that.
"""

from __future__ import annotations

import logging
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from config.names import LogEvent

_SERVER: Final = "aiohttp.server"
_THEIRS: Final = (HttpProcessingError, web.RequestPayloadError, ConnectionError)
_SHOWN: Final = 200


class _Unreadable(logging.Filter):
    """Makes one line without a traceback of each, at level info; what else the server says stays as it is."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, _THEIRS):
            return True
        record.cause = " ".join(str(error).split())[:_SHOWN]
        record.remote = str(record.args[0]) if isinstance(record.args, tuple) and record.args else None
        record.msg, record.args, record.exc_info, record.exc_text = str(LogEvent.HTTP_UNREADABLE), (), None, None
        record.levelno, record.levelname = logging.INFO, "INFO"
        return logging.getLogger().isEnabledFor(logging.INFO)


def quieten() -> None:
    """Once a process; further calls change nothing."""
    server = logging.getLogger(_SERVER)
    if not any(isinstance(one, _Unreadable) for one in server.filters):
        server.addFilter(_Unreadable())
