"""What the store asks of encryption; `secrets.py` has the implementation."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Mapping


class SecretBox(Protocol):
    """Encrypts what is stored at rest."""

    def encrypt(self, plain: bytes) -> bytes:
        """With the newest key. Raises Permanent `secret_key_missing` without one."""

    def decrypt(self, sealed: bytes) -> bytes:
        """With whichever key fits. Raises Permanent `secret_key_wrong` when none does."""


def seal(box: SecretBox, secrets: Mapping[str, str]) -> bytes | None:
    """`secrets` for a bytea column; None for none, so that an installation without secrets needs no key."""
    return box.encrypt(json.dumps(dict(secrets)).encode()) if secrets else None


def unseal(box: SecretBox, sealed: bytes | None) -> dict[str, str]:
    """What `seal` was given."""
    return cast("dict[str, str]", json.loads(box.decrypt(sealed))) if sealed else {}
