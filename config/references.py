"""`env:NAME` and `file:PATH`: secrets that stay outside the control database.

They stand only in datasources and credentials that an admin wrote. No error says whether a name exists or what it
holds: every failure reads the same.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PREFIX: Final = "ROWFERRY_SECRET_"
# These match the prefix and belong to the service itself.
_NEVER: Final = frozenset({"ROWFERRY_SECRET_KEY", "ROWFERRY_SECRET_KEY_FILE"})
_LARGEST: Final = 64 * 1024


class ReferenceRefused(Exception):
    """A reference that gives no secret. The text is the same whatever the reason."""

    code = "reference_unresolved"
    retryable = False

    def __init__(self) -> None:
        self.message = (
            "a secret's reference gives nothing; env: reads ROWFERRY_SECRET_* variables of the service, file: regular "
            "files below ROWFERRY_SECRETS_DIR, both non-empty UTF-8 text"
        )
        super().__init__(self.message)


def is_reference(value: str) -> bool:
    """Whether a secret's value is a reference rather than the secret."""
    return value.startswith(("env:", "file:"))


class References:
    """Reads what references point to, anew each time, so that a rotated file is seen."""

    def __init__(self, environ: Mapping[str, str], secrets_dir: Path | None) -> None:
        self._environ = environ
        self._folder = secrets_dir

    def resolve(self, value: str) -> str:
        """`value` itself unless it is a reference; a file loses one line end. Raises `ReferenceRefused`."""
        kind, sign, name = value.partition(":")
        if not sign or kind not in {"env", "file"}:
            return value
        found = self._variable(name) if kind == "env" else self._file(name)
        if not found:
            raise ReferenceRefused
        return found

    def _variable(self, name: str) -> str | None:
        if not name.startswith(PREFIX) or name in _NEVER:
            return None
        return self._environ.get(name)

    def _file(self, name: str) -> str | None:
        if self._folder is None:
            return None
        try:
            folder = self._folder.resolve(strict=True)
            real = (folder / name).resolve(strict=True)
            if not real.is_relative_to(folder):
                return None
            # Opened without following a link, and looked at after opening: what was checked is what is read.
            handle = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(handle, "rb") as file:
                status = os.fstat(handle)
                if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
                    return None
                return file.read(_LARGEST).decode().removesuffix("\n").removesuffix("\r")
        except (OSError, ValueError):  # ValueError: NUL in the name, or no UTF-8
            return None
