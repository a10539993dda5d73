"""What the step side asks of encryption; `secrets.py` has the implementation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


class SecretBox(Protocol):
    """Opens what is stored encrypted."""

    def seal(self, values: Mapping[str, str]) -> bytes | None:
        """The values encrypted with the newest key; None for no values."""

    def open(self, sealed: bytes | None) -> dict[str, str]:
        """What `seal` was given. Raises Permanent when no key opens it."""
