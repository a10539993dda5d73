"""The certificate of the TLS listener, read again when it was renewed, without a restart."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from config import logs
from config.names import LogEvent
from service.domain.errors import Permanent

if TYPE_CHECKING:
    from pathlib import Path

    from config.settings import Settings

LOOK_SECONDS: Final = 60.0
log = logs.get_logger("rowferry.service")


class Certificate:
    """One context for the life of the process: what is loaded into it is what the next handshake shows."""

    def __init__(self, certificate: Path, key: Path | None) -> None:
        """Raises Permanent `tls_files_not_usable`."""
        self._certificate, self._key = certificate, key
        self._seen = self._version()
        self.context = self._loaded()

    @classmethod
    def of(cls, settings: Settings) -> Certificate | None:
        """By the settings; None where https is off."""
        if settings.tls_listen is None or settings.tls_cert is None:
            return None
        return cls(settings.tls_cert, settings.tls_key)

    async def keep_fresh(self, asked: asyncio.Event, *, look_seconds: float = LOOK_SECONDS) -> None:
        """Look once a minute, and at once when `asked` (SIGHUP), for ever."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(look_seconds):
                    await asked.wait()
            asked.clear()
            self.look()

    def look(self) -> None:
        """Load what is there now, if that is another. What can not be used changes nothing: connections go on with the
        one before, and the log says so, once for each state of the files."""
        version = self._version()
        if version == self._seen:
            return
        self._seen = version
        try:
            # Into another first: half of a pair must not come into the one in use.
            self._loaded()
            self.context.load_cert_chain(self._certificate, self._key)
        except (Permanent, OSError) as error:
            log.warning(LogEvent.TLS_NOT_RELOADED, cause=str(error))
        else:
            log.info(LogEvent.TLS_RELOADED, certificate=str(self._certificate))

    def _loaded(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            # A key with a passphrase would ask the terminal for it, and a service has none.
            context.load_cert_chain(self._certificate, self._key, password=lambda: "")
        except (OSError, ValueError) as error:
            raise Permanent(
                "tls_files_not_usable",
                f"ROWFERRY_TLS_CERT {str(self._certificate)!r} and ROWFERRY_TLS_KEY do not give a certificate: {error}",
                hint="give a certificate with its chain and its key as PEM, the key without a passphrase",
            ) from error
        return context

    def _version(self) -> tuple[tuple[int, int, int], ...] | None:
        try:
            found = [file.stat() for file in (self._certificate, self._key) if file is not None]
        except OSError:
            return None
        return tuple((one.st_ino, one.st_size, one.st_mtime_ns) for one in found)
