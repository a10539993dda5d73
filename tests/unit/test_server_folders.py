"""The folder in memory below which servers of the tests keep their data."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support import memory
from tests.support.server import fresh_folder

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands for the machine's memory; nobody has claimed any."""
    monkeypatch.setenv(memory.VARIABLE, "")  # so that whatever it was comes back
    monkeypatch.delenv(memory.VARIABLE)
    monkeypatch.setattr(memory, "_MEMORY", tmp_path)
    monkeypatch.setattr(memory, "_PLENTY", 1)
    return tmp_path


def test_a_run_claims_one_folder_for_all_its_sides_and_takes_it_away(shared: Path) -> None:
    folder = memory.claim()
    assert folder is not None
    assert memory.claim() is None, "a side of the same run"
    (fresh_folder("postgres") / "data").touch()
    assert [path.name[:17] for path in folder.iterdir()] == ["rowferry-postgres"]
    memory.give_back(folder)
    assert list(shared.iterdir()) == []
    assert memory.VARIABLE not in os.environ


def test_what_killed_runs_have_left_is_removed_and_nothing_else(shared: Path) -> None:
    gone = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True).stdout.strip()
    living, others = f"rowferry-tests-{os.getppid()}", ("rowferry-tests-x", "PostgreSQL.7", f"rowferry-{gone}")
    for name in (f"rowferry-tests-{gone}", living, *others):
        (shared / name / "data").mkdir(parents=True)
    folder = memory.claim()
    assert folder is not None
    assert {path.name for path in shared.iterdir()} == {living, *others, folder.name}


@pytest.mark.parametrize("short", ["_PLENTY", "_MEMORY"])
def test_where_memory_is_short_servers_stay_on_the_disk(
    shared: Path, monkeypatch: pytest.MonkeyPatch, short: str
) -> None:
    monkeypatch.setattr(memory, short, {"_PLENTY": 1 << 60, "_MEMORY": shared / "none"}[short])
    assert memory.claim() is None
    assert list(shared.iterdir()) == []
    assert memory.VARIABLE not in os.environ
