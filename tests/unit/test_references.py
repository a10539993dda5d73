from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from config.references import ReferenceRefused, References, is_reference

if TYPE_CHECKING:
    from pathlib import Path

ENVIRON = {
    "ROWFERRY_SECRET_SHOP": "pg-password",
    "ROWFERRY_SECRET_KEY": "the key",
    "HOME": "/x",
    "ROWFERRY_SECRET_E": "",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    secrets = tmp_path / "secrets"
    (secrets / "sub").mkdir(parents=True)
    (secrets / "sub" / "password").write_text("from a file\n")
    (tmp_path / "outside").write_text("not yours")
    (secrets / "link").symlink_to(tmp_path / "outside")
    (secrets / "inner").symlink_to(secrets / "sub" / "password")
    (secrets / "large").write_text("x" * 100_000)
    (secrets / "binary").write_bytes(b"\xff\xfe")
    (secrets / "empty").write_text("\n")
    os.mkfifo(secrets / "pipe")
    return secrets


def test_what_references_give(folder: Path) -> None:
    references = References(ENVIRON, folder)
    assert references.resolve("env:ROWFERRY_SECRET_SHOP") == "pg-password"
    assert references.resolve("file:sub/password") == "from a file"
    assert references.resolve("file:inner") == "from a file"
    assert references.resolve(f"file:{folder}/sub/password") == "from a file"
    assert references.resolve("a plain: password") == "a plain: password"
    (folder / "sub" / "password").write_text("rotated")
    assert references.resolve("file:sub/password") == "rotated"


def test_whatever_is_wrong_reads_the_same(folder: Path) -> None:
    references = References(ENVIRON, folder)
    texts = set()
    for reference in (
        "env:HOME", "env:ROWFERRY_SECRET_KEY", "env:ROWFERRY_SECRET_NONE", "env:ROWFERRY_SECRET_E", "env:",
        "file:none", "file:../outside", f"file:{folder.parent}/outside", "file:link", "file:sub", "file:", "file:pipe",
        "file:large", "file:binary", "file:empty", "file:a\0b", "file:/etc/passwd",
    ):  # fmt: skip
        with pytest.raises(ReferenceRefused) as refused:
            references.resolve(reference)
        texts.add(str(refused.value))
    with pytest.raises(ReferenceRefused) as refused:
        References(ENVIRON, None).resolve("file:sub/password")
    texts.add(str(refused.value))
    assert len(texts) == 1
    assert "outside" not in texts.pop()


def test_what_is_a_reference() -> None:
    assert is_reference("env:X")
    assert is_reference("file:x")
    assert not is_reference("environment")
