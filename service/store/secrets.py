"""Secrets at rest: Fernet (AES-128-CBC with HMAC-SHA256) under one or more keys, newest first.

The newest key encrypts, every key decrypts, so that a key is replaced by putting a new one in front. A key is either a
Fernet key (44 characters of url-safe base64) or any other text of at least 32 characters, from which one is derived by
scrypt with a fixed salt: the same text gives the same key on every machine.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import TYPE_CHECKING

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from service.domain.errors import Permanent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SHORTEST = 32
# Fixed, because the key must come out the same in every process of an installation without anything shared but the
# text; what a salt is for (one guess against many victims) is bought with scrypt's cost and the length asked for.
_SALT = b"rowferry secrets v1"
_SETTING = "ROWFERRY_SECRET_KEY"


class SecretBox:
    """Encrypts and decrypts small sets of named secrets. Its repr shows no key."""

    def __init__(self, keys: str | Sequence[str] | None = None) -> None:
        """`keys`: the setting's text, keys parted by commas or line breaks, or the keys one by one, newest first.
        Raises Permanent `secret_key_invalid` naming the key by its place, never by its text."""
        given = re.split(r"[,\r\n]+", keys) if isinstance(keys, str) else list(keys or ())
        texts = [text.strip() for text in given]
        fernets = [_fernet(text, place) for place, text in enumerate(filter(None, texts), start=1)]
        self._fernet = MultiFernet(fernets) if fernets else None
        self._newest = fernets[0] if fernets else None

    def __repr__(self) -> str:
        return f"SecretBox({'with' if self._fernet else 'without'} a key)"

    @property
    def has_key(self) -> bool:
        """Whether a secret can be stored."""
        return self._fernet is not None

    def seal(self, values: Mapping[str, str]) -> bytes | None:
        """The values encrypted; None for no values. Raises Permanent `secret_key_required` without a key."""
        if not values:
            return None
        return self._ready("a secret is to be stored").encrypt(json.dumps(dict(values)).encode())

    def open(self, sealed: bytes | None) -> dict[str, str]:
        """What `seal` was given. Raises Permanent `secret_key_required` without a key, and `secret_key_wrong` when
        none of the keys opens it."""
        if sealed is None:
            return {}
        fernet = self._ready("a stored secret is needed")
        try:
            text = fernet.decrypt(bytes(sealed))
        except InvalidToken:
            # The cause says nothing that the code does not.
            raise Permanent(
                "secret_key_wrong",
                f"none of the keys in {_SETTING} opens a stored secret",
                hint=f"append the key that the secret was stored with to {_SETTING}, or store the secret again",
            ) from None
        values: dict[str, str] = json.loads(text)
        return values

    def renewed(self, sealed: bytes) -> bytes | None:
        """The same values under the newest key; None where it encrypts them already. Raises as `open`."""
        values = self.open(sealed)
        if self._newest is not None:
            try:
                self._newest.decrypt(bytes(sealed))
            except InvalidToken:
                return self.seal(values)
        return None

    def _ready(self, why: str) -> MultiFernet:
        if self._fernet is None:
            raise Permanent(
                "secret_key_required",
                f"{why}, and {_SETTING} is not set",
                hint=f"set {_SETTING} to a Fernet key or any secret text of at least {_SHORTEST} characters, and keep "
                "it: what it encrypts is lost without it",
            )
        return self._fernet


def _fernet(text: str, place: int) -> Fernet:
    if _is_fernet_key(text):
        return Fernet(text)
    if len(text) < _SHORTEST:
        raise Permanent(
            "secret_key_invalid",
            f"key {place} of {_SETTING} has {len(text)} characters; at least {_SHORTEST} are needed",
            hint="keys are parted by commas or line breaks, so none holds one; make one with "
            'python -c "import secrets; print(secrets.token_urlsafe(32))"',
        )
    derived = Scrypt(salt=_SALT, length=32, n=2**14, r=8, p=1).derive(text.encode())
    return Fernet(base64.urlsafe_b64encode(derived))


def _is_fernet_key(text: str) -> bool:
    try:
        return len(text) == 44 and len(base64.urlsafe_b64decode(text.encode())) == 32
    except (ValueError, binascii.Error):
        return False
