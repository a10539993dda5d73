from __future__ import annotations

import pytest
from cryptography.fernet import Fernet

from service.domain.errors import Permanent
from service.store.secrets import SecretBox

OLD = "the old key: a sentence that is long enough"
NEW = "the new key: a sentence that is long enough"


@pytest.mark.parametrize(
    "key", [Fernet.generate_key().decode(), OLD, "é" * 32], ids=["fernet", "sentence", "beyond ascii"]
)
def test_what_was_sealed_comes_out_again_and_is_not_readable(key: str) -> None:
    sealed = SecretBox(key).seal({"/sink/security/password": "hunter2 ✓"})
    assert sealed is not None
    assert b"hunter2" not in sealed
    assert SecretBox(key).open(sealed) == {"/sink/security/password": "hunter2 ✓"}


def test_no_values_need_no_key() -> None:
    box = SecretBox()
    assert box.seal({}) is None
    assert box.open(None) == {}
    assert not box.has_key


def test_a_secret_without_a_key_is_refused_with_the_remedy() -> None:
    with pytest.raises(Permanent) as refused:
        SecretBox("").seal({"password": "hunter2"})
    assert refused.value.code == "secret_key_required"
    assert "ROWFERRY_SECRET_KEY" in refused.value.message
    assert "hunter2" not in refused.value.message + refused.value.hint


def test_a_new_key_in_front_still_opens_what_the_old_one_sealed() -> None:
    sealed = SecretBox(OLD).seal({"a": "b"})
    both = SecretBox(f"{NEW}\n{OLD}\n")
    assert both.open(sealed) == {"a": "b"}
    assert SecretBox([NEW]).open(both.seal({"c": "d"})) == {"c": "d"}


def test_another_key_is_told_apart_from_no_key() -> None:
    sealed = SecretBox(OLD).seal({"a": "b"})
    with pytest.raises(Permanent, match="none of the keys") as wrong:
        SecretBox(NEW).open(sealed)
    assert wrong.value.code == "secret_key_wrong"
    with pytest.raises(Permanent, match="is not set"):
        SecretBox().open(sealed)


def test_a_short_key_is_named_by_its_place_and_never_shown() -> None:
    with pytest.raises(Permanent, match="key 2 of") as short:
        SecretBox(f"{NEW},tiny-secret")
    assert short.value.code == "secret_key_invalid"
    assert "tiny" not in short.value.message + short.value.hint


def test_its_repr_shows_no_key() -> None:
    assert repr(SecretBox(OLD)) == "SecretBox(with a key)"
