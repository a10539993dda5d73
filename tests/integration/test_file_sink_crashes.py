"""The file sink under `kill -9` and SIGSTOP between each pair of its steps: every row once, whoever was interrupted."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sinks.naming import HIDDEN, manifest_name
from tests.support import file_sink_driver as driver
from tests.support.waiting import until_blocking

pytestmark = pytest.mark.fault

REPOSITORY = Path(__file__).parents[2]
PATIENCE = 60

INSIDE = [
    # link, fsync of the folder, removal of the temporary name: of the first, a middle and the last chunk
    *[f"link:{when}:{number}" for when in ("before", "after") for number in (2, 3, 4)],
    *[f"unlink:{when}:{number}" for when in ("before", "after") for number in (1, 3, 5)],
    # folders made, temporary files and folders made durable, manifest
    *[f"fsync:before:{number}" for number in (1, 2, 3, 5, 6, 7, 8, 9, 10, 14, 15)],
    "rename:before:1",
    "rename:after:1",
]


class Work:
    """One job on one folder, worked on by processes that come and go."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "files" / "default"
        self.store = folder / "store.json"

    def process(self, epoch: int, *fate: str) -> subprocess.Popen[str]:
        module = "tests.support.file_sink_driver"
        command = [sys.executable, "-m", module, str(self.root), str(self.store), str(epoch), *fate]
        return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def run(self, epoch: int, *fate: str) -> int:
        process = self.process(epoch, *fate)
        said, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode in {0, -signal.SIGKILL}, said
        return process.returncode

    def visible(self) -> dict[str, bytes]:
        folder = self.root / driver.PATH
        return {file.name: gzip.decompress(file.read_bytes()) for file in sorted(folder.glob("*.jsonl.gz"))}

    def check_every_row_once(self) -> None:
        delivered = b"".join(self.visible().values()).splitlines()
        assert delivered == [row for number in range(1, driver.CHUNKS + 1) for row in driver.rows_of(number)]
        recorded = json.loads(self.store.read_text())["chunks"]
        assert sum(chunk["rows"] for chunk in recorded) == len(delivered)
        told = json.loads((self.root / driver.PATH / manifest_name(driver.JOB, 1)).read_text())
        assert [entry["file"] for entry in told["files"]] == list(self.visible())
        assert [entry["checksum"] for entry in told["files"]] == [chunk["checksum"] for chunk in recorded]
        assert not (self.root / driver.PATH / HIDDEN).exists()


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path)


def test_one_process_after_another_is_killed_at_each_step_and_every_row_is_there_once(work: Work):
    for epoch, point in enumerate(driver.POINTS, start=1):
        assert work.run(epoch, "kill", point) == -signal.SIGKILL, point
    assert work.run(99) == 0
    work.check_every_row_once()


@pytest.mark.parametrize("point", INSIDE)
def test_killed_inside_a_step(work: Work, point: str):
    assert work.run(1, "kill", point) == -signal.SIGKILL
    # The next one is killed as well, on its way through what the first has left.
    work.run(2, "kill", "looked")
    assert work.run(3) == 0
    work.check_every_row_once()


@pytest.mark.parametrize("point", ["opened", "staged", "prepared", "stored", "link:before:2", "link:after:2", "shown"])
def test_frozen_while_another_takes_over_then_thawed(work: Work, point: str):
    old = work.process(1, "stop", point)
    try:
        until_blocking(lambda: state_of(old.pid) == "T", PATIENCE, f"the first owner stops at {point}")
        assert work.run(2) == 0
        before = work.visible()
        os.kill(old.pid, signal.SIGCONT)
        said, _ = old.communicate(timeout=PATIENCE)
    finally:
        ended(old)
    assert old.returncode in {driver.LEASE_LOST, driver.OUTCOME_UNKNOWN}, said
    assert work.visible() == before
    assert work.run(3) == 0
    work.check_every_row_once()


def test_frozen_with_a_prepared_chunk_and_thawed_in_the_middle_of_its_repeat(work: Work):
    old = work.process(1, "stop", "stored")
    new = None
    try:
        until_blocking(lambda: state_of(old.pid) == "T", PATIENCE, "the first owner stops")
        new = work.process(2, "stop", "looked")
        until_blocking(lambda: state_of(new.pid) == "T", PATIENCE, "the second owner stops after it has looked")
        os.kill(old.pid, signal.SIGCONT)
        said, _ = old.communicate(timeout=PATIENCE)
        assert (old.returncode, said) == (driver.OUTCOME_UNKNOWN, "temporary_gone\n")
        assert work.visible() == {}
        os.kill(new.pid, signal.SIGCONT)
        said, _ = new.communicate(timeout=PATIENCE)
        assert new.returncode == 0, said
    finally:
        ended(old)
        if new is not None:
            ended(new)
    work.check_every_row_once()


def ended(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=PATIENCE)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
