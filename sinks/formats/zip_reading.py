"""ZIP archives of one entry back into their bytes. What is in one stands at its end, so it is spooled first."""

from __future__ import annotations

import tempfile
import zlib
from typing import TYPE_CHECKING, Final

import pyzipper

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK: Final = 64 * 1024


class Spooled:
    """One archive: its bytes, then those of its entry. Raises ValueError for what is none, is encrypted with another
    password, or was changed: plain entries carry a CRC, encrypted ones an authentication code."""

    def __init__(self, password: str | None) -> None:
        self._password = password
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `read`, or with the process

    def write(self, data: bytes) -> None:
        """Keep it."""
        self._file.write(data)

    def read(self) -> Iterator[bytes]:
        """The entry in blocks, then it is gone."""
        with self._file:
            self._file.flush()
            try:
                with pyzipper.AESZipFile(self._file) as archive:
                    entries = archive.infolist()
                    if len(entries) != 1:
                        raise ValueError(f"the archive has {len(entries)} entries instead of one")
                    password = None if self._password is None else self._password.encode()
                    with archive.open(entries[0], pwd=password) as entry:
                        while block := entry.read(_BLOCK):
                            yield block
            # RuntimeError: a password is missing, or is another one.
            except (pyzipper.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError) as error:
                raise ValueError(f"it can not be read as a ZIP archive: {str(error)[:200]}") from error
