"""Which jwts open something: signed by a known key with that key's algorithm, of the issuer, for us, not over."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import time
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from service.api.jwts import Claims, JwtRefused, Jwts
from service.api.routes import Role
from service.domain.errors import Permanent

if TYPE_CHECKING:
    from pathlib import Path

SECRET = os.urandom(32)
SIGNER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SAID = {"iss": "https://login.example", "aud": "rowferry", "sub": "ana", "account": "shop", "role": "operator"}


DAY = 86_400  # tokens are made when the tests are collected, and long suites take their time


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def number(value: int) -> str:
    return b64(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def public_jwk(key: rsa.RSAPrivateKey, **more: str) -> dict[str, str]:
    numbers = key.public_key().public_numbers()
    return {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e), **more}


def pem(key: Any) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


SHARED_JWK = {"kty": "oct", "k": b64(SECRET), "alg": "HS256", "kid": "shared"}


def keys(folder: Path, *given: dict[str, str]) -> Path:
    file = folder / "jwks.json"
    file.write_text(json.dumps({"keys": given or (public_jwk(SIGNER, kid="one"), SHARED_JWK)}))
    return file


def jwts(file: Path) -> Jwts:
    return Jwts(file, issuer=SAID["iss"], audience="rowferry", account_claim="account", role_claim="role")


def token(algorithm: str = "RS256", key: Any = SIGNER, *, headers: dict[str, Any] | None = None, **change: Any) -> str:
    claims = {**SAID, "exp": int(time.time()) + DAY, **change}
    return jwt.encode(
        {name: value for name, value in claims.items() if value is not None}, key, algorithm=algorithm, headers=headers
    )


def by_hand(header: dict[str, Any], secret: bytes = b"", **change: Any) -> str:
    """A token that no library would make."""
    body = {**SAID, "exp": int(time.time()) + DAY, **change}
    signed = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(body).encode())}"
    return f"{signed}.{b64(hmac.new(secret, signed.encode(), hashlib.sha256).digest()) if secret else ''}"


@pytest.mark.parametrize(
    "text",
    [
        token(),
        token(headers={"kid": "one"}),
        token("HS256", SECRET),
        token("HS256", SECRET, headers={"kid": "shared"}),
        token(aud=["elsewhere", "rowferry"]),
        token(role=["auditor", "viewer", "operator"]),
    ],
)
def test_what_opens(tmp_path: Path, text: str) -> None:
    assert jwts(keys(tmp_path)).claims(text) == Claims("shop", "ana", Role.OPERATOR)


def test_clocks_may_differ_by_a_little(tmp_path: Path) -> None:
    checked = jwts(keys(tmp_path))
    assert checked.claims(token(exp=int(time.time()) - 5, nbf=int(time.time()) + 5))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (token(key=OTHER), "not signed by a key"),
        (token("HS256", os.urandom(32)), "not signed by a key"),
        (token(headers={"kid": "two"}), "not signed by a key"),
        (token("HS256", SECRET, headers={"kid": "one"}), "not signed by a key"),
        (token("RS384"), "not signed by a key"),
        (token("PS256"), "not signed by a key"),
        (token("HS512", SECRET + SECRET), "not signed by a key"),
        (by_hand({"alg": "none", "typ": "JWT"}), "not signed by a key"),
        (by_hand({"alg": "None"}), "not signed by a key"),
        (by_hand({"alg": "none", "kid": "one"}), "not signed by a key"),
        (by_hand({"alg": ["HS256"]}, SECRET), "j"),
        (by_hand({}, SECRET), "j"),
        # The public key, which everybody has, as the secret of a symmetric signature; and as a key of its own.
        (by_hand({"alg": "HS256"}, pem(SIGNER)), "not signed by a key"),
        (by_hand({"alg": "HS256", "kid": "one"}, pem(SIGNER)), "not signed by a key"),
        (by_hand({"alg": "HS256", "jwk": {"kty": "oct", "k": b64(b"x" * 32)}}, b"x" * 32), "not signed by a key"),
        (by_hand({"alg": "RS256"}, SECRET), "not signed by a key"),
        (token(exp=int(time.time()) - 60), "has expired"),
        (token(exp=None), "no claim exp"),
        (token(exp="soon"), "not valid"),
        (token(nbf=int(time.time()) + DAY), "not valid"),
        (token(iss="https://login.elsewhere"), "another issuer"),
        (token(iss=None), "no claim iss"),
        (token(aud="another"), "another issuer"),
        (token(aud=None), "no claim aud"),
        (token(account=None), "no claim account"),
        (token(account=7), "no claim account"),
        (token(role=None), "no claim role"),
        (token(role="root"), "no claim role"),
        (token(role=["root"]), "no claim role"),
        (token(role={"admin": True}), "no claim role"),
        ("a.b.c", "can not be read"),
        ("", "can not be read"),
        (token()[:-4], "n"),
        (token() + "x", "n"),
        ("é.é.é", "can not be read"),
    ],
)
def test_what_opens_nothing(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(JwtRefused) as refused:
        jwts(keys(tmp_path)).claims(text)
    assert why in str(refused.value)


def test_a_changed_body_is_not_signed(tmp_path: Path) -> None:
    head, _, signature = token().split(".")
    body = b64(json.dumps({**SAID, "exp": int(time.time()) + DAY, "role": "admin"}).encode())
    with pytest.raises(JwtRefused, match="not signed by a key"):
        jwts(keys(tmp_path)).claims(f"{head}.{body}.{signature}")


def test_one_public_key_as_pem_opens_rs256_only(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(pem(SIGNER))
    checked = jwts(file)
    assert checked.claims(token(headers={"kid": "whatever"})).subject == "ana"
    for text in (by_hand({"alg": "HS256"}, pem(SIGNER)), by_hand({"alg": "none"}), token(key=OTHER)):
        with pytest.raises(JwtRefused):
            checked.claims(text)


def test_keys_are_read_again_when_their_file_changes(tmp_path: Path) -> None:
    file = keys(tmp_path, public_jwk(SIGNER, kid="one"))
    checked = jwts(file)
    assert checked.claims(token())
    beside = tmp_path / "next"
    beside.write_text(json.dumps({"keys": [public_jwk(OTHER, kid="two")]}))
    beside.rename(file)
    assert checked.claims(token(key=OTHER))
    with pytest.raises(JwtRefused, match="not signed by a key"):
        checked.claims(token())


def test_a_file_that_can_not_be_used_leaves_the_keys_before_it(tmp_path: Path) -> None:
    file = keys(tmp_path)
    checked = jwts(file)
    for spoil in (lambda: file.write_text("{"), file.unlink):
        spoil()
        assert checked.claims(token())
    keys(tmp_path, public_jwk(OTHER))
    assert checked.claims(token(key=OTHER))


PRIVATE = SIGNER.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()
WEAK = rsa.generate_private_key(public_exponent=65537, key_size=1024)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "neither JSON nor PEM"),
        ("[]", "no list of keys"),
        ('{"keys": []}', "no list of keys"),
        ('{"keys": [7]}', "neither RSA"),
        ('{"keys": [{"kty": "EC", "crv": "P-256"}]}', "neither RSA"),
        (json.dumps({"keys": [{**SHARED_JWK, "alg": "RS256"}]}), "neither RSA"),
        (json.dumps({"keys": [public_jwk(SIGNER, alg="HS256")]}), "neither RSA"),
        (json.dumps({"keys": [public_jwk(SIGNER, d="AQAB")]}), "private one"),
        (json.dumps({"keys": [public_jwk(WEAK)]}), "1024 bits"),
        (json.dumps({"keys": [{"kty": "oct", "k": b64(b"x" * 31)}]}), "31 bytes"),
        (json.dumps({"keys": [{"kty": "oct"}]}), "can not be read"),
        (json.dumps({"keys": [{"kty": "RSA", "n": "AQAB"}]}), "can not be read"),
        (PRIVATE, "private key"),
        (pem(ec.generate_private_key(ec.SECP256R1())).decode(), "no RSA key"),
        ("-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----\n", "can not be read as one"),
        ("x" * (1024 * 1024 + 1), "larger than 1 MiB"),
    ],
)
def test_keys_that_can_not_be_used_are_told_without_their_value(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(Permanent) as refused:
        jwts(file)
    assert refused.value.code == "jwt_keys_not_usable"
    assert why in refused.value.message
    assert str(file) in refused.value.message
    assert b64(b"x" * 31) not in refused.value.whole


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(Permanent, match="No such file"):
        jwts(tmp_path / "none")
