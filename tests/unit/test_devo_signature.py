"""Signed requests: the vectors of the specification."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.api.dialects.devo_auth import signature

KEY, SECRET, TIMESTAMP = "my-api-key", "my-api-secret", "1530010004072"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "3a683868a735da4b4689877e1f5f93f9ce461e6ca9dc4f6746745931f12663b8"),
        ('{"query":"ñ"}'.encode(), "0dbaba67ea608244e431048bac9387016aab5b10c6970118cb32cae8d5b2a4ec"),
    ],
)
def test_the_vectors(body: bytes, expected: str) -> None:
    assert signature(KEY, SECRET, body, TIMESTAMP) == expected


@given(st.text(st.characters(codec="utf-8"), max_size=150), st.binary(max_size=200))
@example("s" * 64, b"")
@example("s" * 65, b"")
def test_it_is_the_hmac_of_the_library(secret: str, body: bytes) -> None:
    message = KEY.encode() + body + TIMESTAMP.encode()
    assert signature(KEY, secret, body, TIMESTAMP) == hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()
