"""The demo leaves no process and no file behind when it is interrupted and when it fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import until_blocking

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A temporary folder for the demo, open to the user that Postgres runs as."""
    with tempfile.TemporaryDirectory(prefix="rowferry-test-demo-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def start_demo(scratch: Path, **environment: str) -> subprocess.Popen[bytes]:
    with (scratch / "output").open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "demo"],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(scratch), **environment},
            # A suite that runs in the background has SIGINT ignored, and its children would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 -- no thread runs here
        )


def said(scratch: Path) -> str:
    return (scratch / "output").read_text()


def processes() -> dict[int, str]:
    """By pid: the parent's pid and the command line."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
        except (FileNotFoundError, ProcessLookupError):
            continue
        found[int(folder.name)] = f"{parent} {command}"
    return found


def children_of(pid: int) -> list[str]:
    return [line for line in processes().values() if line.startswith(f"{pid} ")]


def processes_of(scratch: Path) -> list[str]:
    return [line for line in processes().values() if str(scratch) in line]


def assert_nothing_is_left(scratch: Path) -> None:
    until_blocking(lambda: not processes_of(scratch), 10, "no process of the demo is left")
    assert [path.name for path in scratch.iterdir()] == ["output"]


@pytest.mark.kafka
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(scratch: Path, number: signal.Signals):
    demo = start_demo(scratch)
    try:
        until_blocking(lambda: "Apache Kafka " in said(scratch) or demo.poll() is not None, 90, "Kafka is up")
        assert demo.poll() is None, said(scratch)
        assert any("kafka.Kafka" in line for line in processes_of(scratch))
        demo.send_signal(number)
        assert demo.wait(30) == 130, said(scratch)
    finally:
        demo.kill()
        demo.wait(10)
    assert "Interrupted. Everything that was started is gone." in said(scratch)
    assert_nothing_is_left(scratch)


@pytest.mark.kafka
def test_a_killed_demo_leaves_no_process(scratch: Path):
    demo = start_demo(scratch)
    try:
        until_blocking(lambda: "Apache Kafka " in said(scratch) or demo.poll() is not None, 90, "Kafka is up")
        assert demo.poll() is None, said(scratch)
    finally:
        demo.kill()
        demo.wait(10)
    until_blocking(lambda: not processes_of(scratch), 10, "no process of the demo is left")


@pytest.mark.kafka
@pytest.mark.timeout(400)  # starts three servers and moves 673,552 rows through a stop and a kill
def test_the_demo_proves_every_row_and_keeps_everything_up_until_it_is_interrupted(scratch: Path):
    demo = start_demo(scratch, KEEP="1")
    try:
        until_blocking(lambda: "until Ctrl-C" in said(scratch) or demo.poll() is not None, 380, "the proof")
        assert demo.poll() is None, said(scratch)
        assert said(scratch).count("336,776 rows; missing 0, doubled 0, out of order 0, other values 0") == 2
        assert any("service serve" in line for line in children_of(demo.pid))
        demo.send_signal(signal.SIGINT)
        assert demo.wait(30) == 0, said(scratch)
    finally:
        demo.kill()
        demo.wait(10)
    assert "every row once. Everything that was started is gone." in said(scratch)
    assert_nothing_is_left(scratch)


def test_a_failed_demo_says_why_and_leaves_nothing(scratch: Path):
    demo = start_demo(scratch, ROWFERRY_TEST_POSTGRES_BIN=str(scratch / "nowhere"))
    assert demo.wait(60) == 1
    assert "The demo failed" in said(scratch)
    assert "nowhere" in said(scratch)
    assert_nothing_is_left(scratch)
