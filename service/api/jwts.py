"""JSON Web Tokens (RFC 7519) of somebody else's issuer, HS256 and RS256.

What a token says of itself decides nothing but which keys are tried: each key of the file belongs to one algorithm,
so a public key is never taken for a shared secret, and `none` has no key at all. Keys are read again when their file
changes; a file that can not be used leaves the keys before it in force and is told in the log.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from config.logs import get_logger
from config.names import LogEvent
from config.redaction import register
from service.api.routes import Role
from service.domain.errors import Permanent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from config.settings import Settings

LEEWAY_SECONDS: Final = 30
"""How far the issuer's clock may be from ours."""
_LARGEST_FILE: Final = 1024 * 1024
_SHORTEST_SECRET: Final = 32
_SMALLEST_RSA: Final = 2048
_SIGNED: Final = {"HS256": "oct", "RS256": "RSA"}
_log = get_logger("rowferry.api")


class JwtRefused(Exception):
    """A token that opens nothing; the text says why and holds nothing of it."""


@dataclass(frozen=True, slots=True)
class Claims:
    """Who a token speaks for."""

    account: str
    subject: str
    role: Role


@dataclass(frozen=True, slots=True)
class _Key:
    name: str | None
    algorithm: str
    value: Any


class Jwts:
    """Checks tokens with the keys of one file."""

    def __init__(self, file: Path, *, issuer: str, audience: str, account_claim: str, role_claim: str) -> None:
        """Reads the keys. Raises Permanent `jwt_keys_not_usable`."""
        self._file = file
        self._issuer, self._audience = issuer, audience
        self._account_claim, self._role_claim = account_claim, role_claim
        self._seen = self._version()
        self._keys = _read(file)

    @classmethod
    def of(cls, settings: Settings) -> Jwts | None:
        """By the settings; None where they are off. Raises Permanent `jwt_keys_not_usable`."""
        if settings.jwt_keys_file is None or settings.jwt_issuer is None or settings.jwt_audience is None:
            return None
        return cls(
            settings.jwt_keys_file,
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
            account_claim=settings.jwt_account_claim,
            role_claim=settings.jwt_role_claim,
        )

    def claims(self, token: str) -> Claims:
        """Whom it speaks for. Raises JwtRefused."""
        self._reread()
        return self._said(self._verified(token))

    def _verified(self, token: str) -> Mapping[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            raise JwtRefused("the jwt can not be read") from None
        algorithm, name = header.get("alg"), header.get("kid")
        for key in self._keys:
            if key.algorithm == algorithm and (name is None or key.name in {name, None}):
                try:
                    return self._decoded(token, key)
                except jwt.InvalidSignatureError:
                    continue
        raise JwtRefused("the jwt is not signed by a key that is known here")

    def _decoded(self, token: str, key: _Key) -> Mapping[str, Any]:
        try:
            found: Mapping[str, Any] = jwt.decode(
                token,
                key.value,
                algorithms=[key.algorithm],
                issuer=self._issuer,
                audience=self._audience,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.InvalidSignatureError:
            raise
        except jwt.ExpiredSignatureError:
            raise JwtRefused("the jwt has expired") from None
        except (jwt.InvalidIssuerError, jwt.InvalidAudienceError):
            raise JwtRefused("the jwt is of another issuer, or for another audience") from None
        except jwt.MissingRequiredClaimError as error:
            raise JwtRefused(f"the jwt has no claim {error.claim}") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError):
            raise JwtRefused("the jwt is not valid") from None
        return found

    def _said(self, claims: Mapping[str, Any]) -> Claims:
        account, given = claims.get(self._account_claim), claims.get(self._role_claim)
        if not isinstance(account, str):
            raise JwtRefused(f"the jwt has no claim {self._account_claim} that names an account")
        words = given if isinstance(given, list) else [given]
        known = [role for role in (Role.ADMIN, Role.OPERATOR, Role.VIEWER) if role.word in words]
        if not known:
            raise JwtRefused(f"the jwt has no claim {self._role_claim} that names viewer, operator or admin")
        subject = claims.get("sub")
        return Claims(account, subject[:128] if isinstance(subject, str) and subject else "jwt", known[0])

    def _reread(self) -> None:
        version = self._version()
        if version == self._seen:
            return
        self._seen = version
        try:
            self._keys = _read(self._file)
        except Permanent as error:
            _log.warning(LogEvent.JWT_KEYS_NOT_READ, cause=error.message)
        else:
            _log.info(LogEvent.JWT_KEYS_READ, keys=len(self._keys))

    def _version(self) -> tuple[int, int, int] | None:
        try:
            found = self._file.stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns


def _read(file: Path) -> Sequence[_Key]:
    """A JSON Web Key Set (RFC 7517), or one public key in PEM. Raises Permanent, naming no key's value."""
    try:
        with file.open("rb") as opened:
            text = opened.read(_LARGEST_FILE + 1).decode()
        if len(text) > _LARGEST_FILE:
            raise ValueError("it is larger than 1 MiB")
        keys = [_of_pem(text)] if text.lstrip().startswith("-----BEGIN") else [*map(_of_jwk, _listed(text))]
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise Permanent(
            "jwt_keys_not_usable",
            f"ROWFERRY_JWT_KEYS_FILE {str(file)!r}: {said}",
            hint='give a JSON Web Key Set, {"keys": [...]}, of keys of type RSA or oct, or one RSA public key as PEM',
        ) from None
    return keys


def _listed(text: str) -> Sequence[Any]:
    try:
        found = json.loads(text)
    except ValueError:
        raise ValueError("it is neither JSON nor PEM") from None
    keys = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(keys, list) or not keys:
        raise ValueError("it has no list of keys")
    return keys


def _of_jwk(given: Any) -> _Key:
    kind = given.get("kty") if isinstance(given, dict) else None
    algorithm = next((one for one, needed in _SIGNED.items() if needed == kind), None)
    if algorithm is None or given.get("alg", algorithm) != algorithm:
        raise ValueError("a key is neither RSA for RS256 nor oct for HS256")
    if kind == "RSA" and "d" in given:
        raise ValueError("a key is a private one; whoever signs keeps it, here only n and e belong")
    name = given.get("kid")
    if kind == "oct":
        register(given.get("k") if isinstance(given.get("k"), str) else None)
    try:
        value = jwt.PyJWK(given, algorithm=algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        raise ValueError(f"the key of kid {name!r} can not be read") from None
    return _Key(name if isinstance(name, str) else None, algorithm, _strong(value))


def _of_pem(text: str) -> _Key:
    if "PRIVATE KEY" in text:
        raise ValueError("it is a private key; whoever signs keeps it, here only the public one belongs")
    try:
        value = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("its PEM can not be read as one public key") from None
    if not isinstance(value, RSAPublicKey):
        raise ValueError("it is no RSA key")  # noqa: TRY004 -- as everything else that is wrong with the file
    return _Key(None, "RS256", _strong(value))


def _strong(value: Any) -> Any:
    if isinstance(value, RSAPublicKey) and value.key_size < _SMALLEST_RSA:
        raise ValueError(f"an RSA key has {value.key_size} bits; at least {_SMALLEST_RSA} are needed")
    if isinstance(value, bytes) and len(value) < _SHORTEST_SECRET:
        raise ValueError(f"an oct key has {len(value)} bytes; at least {_SHORTEST_SECRET} are needed")
    return value
