"""ZIP archives of one entry, written as they grow: to nobody who could go back in them.

Without a password they are what every unzip reads, and the same rows give the same bytes. With one the entry is
encrypted with AES-256 (WinZip's AE-2, which 7-Zip, WinZip and libarchive read), by a fresh salt: two tries of the same
rows differ.
"""

from __future__ import annotations

import io
from typing import Final

import pyzipper

ENTRY: Final = "rows"
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
"""The first time that a ZIP can hold: the time of writing would make every try another."""


class ZipCompressor:
    """One archive; for one thread at a time."""

    def __init__(self, extension: str, password: str | None) -> None:
        """`extension` is the entry's, with its dot."""
        self._out = _Forward()
        if password is None:
            self._archive = pyzipper.ZipFile(self._out, "w", pyzipper.ZIP_DEFLATED)
            entry = pyzipper.zipfile.ZipInfo(ENTRY + extension, _EPOCH)
        else:
            self._archive = pyzipper.AESZipFile(
                self._out, "w", compression=pyzipper.ZIP_DEFLATED, encryption=pyzipper.WZ_AES
            )
            self._archive.setpassword(password.encode())
            entry = self._archive.zipinfo_cls(ENTRY + extension, _EPOCH)
        entry.compress_type = pyzipper.ZIP_DEFLATED
        entry.external_attr = 0o644 << 16
        # Its size is not known before: room for more than 4 GiB.
        self._entry = self._archive.open(entry, "w", force_zip64=True)

    def compress(self, data: bytes) -> bytes:
        """What is ready after these bytes."""
        self._entry.write(data)
        return self._out.take()

    def flush(self) -> bytes:
        """The rest, with the directory."""
        self._entry.close()
        self._archive.close()
        return self._out.take()


class _Forward(io.RawIOBase):
    """Where an archive is written to: gives out what came, and can not go back."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def write(self, data: object) -> int:
        taken = bytes(data)  # type: ignore[call-overload]  # whatever holds bytes
        self._parts.append(taken)
        return len(taken)

    def take(self) -> bytes:
        """Everything since the last time."""
        found = b"".join(self._parts)
        self._parts.clear()
        return found
