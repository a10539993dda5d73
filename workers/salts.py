"""Salts of masks: secrets of stored credentials, fetched when a source is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from config.references import ReferenceRefused
from service.domain.errors import Permanent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from config.references import References
    from service.domain.named import StoredCredential

LONGEST_SALT: Final = 1024
"""Bytes: all salts of a job travel in one start-up packet, which Postgres takes up to 10,000."""


class Credentials(Protocol):
    """Where credentials are kept."""

    async def credential(self, account: str, name: str) -> StoredCredential | None:
        """With the secrets decrypted, references unresolved."""


async def salts_of(
    names: Iterable[str], account: str, things: Credentials, references: References, learn_secret: Callable[[str], None]
) -> dict[str, str]:
    """The salt of each of these credentials. Raises Permanent `salt_missing` and `reference_unresolved`."""
    found = {}
    for name in names:
        stored = await things.credential(account, name)
        if stored is None or "salt" not in stored.secrets:
            missing = "does not exist" if stored is None else "has no field 'salt'"
            raise Permanent(
                "salt_missing",
                f"source.columns: the credential {name!r} of a mask {missing}; give it one with "
                f"PUT /v1/credentials/{name}",
            )
        try:
            salt = references.resolve(stored.secrets["salt"])
        except ReferenceRefused as error:
            raise Permanent(error.code, f"credential {name!r}, field 'salt': {error.message}") from None
        if not salt or len(salt.encode()) > LONGEST_SALT or "\0" in salt:
            raise Permanent("salt_missing", f"credential {name!r}: a salt has 1 to {LONGEST_SALT} bytes and no NUL")
        learn_secret(salt)
        found[name] = salt
    return found
