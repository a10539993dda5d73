"""Signed requests: the vectors of the specification."""

from __future__ import annotations

import pytest

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
