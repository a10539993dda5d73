"""Services that are forked from a process which has loaded everything, where starting one is not what is tested.

Loading takes four fifths of what a start costs, and the fault tests start and kill services by the hundred. The process
(`python -m tests.support.loaded`, one for a run of pytest) never starts a thread or an event loop; each fork gets an
environment, a folder and a log of its own, and calls the module's `main` as `python -m` would.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.processes import ChildProcess, dies_with_us

if TYPE_CHECKING:
    from collections.abc import Mapping

_ROOT = Path(__file__).resolve().parents[2]
_LONGEST_START = 60.0


class LoadedProcess(ChildProcess):
    """A module of ours with a `main`: `command` is its name and its arguments."""

    def _started(self) -> Forked:
        assert self._env is not None
        module, *arguments = self.command
        return Forked(module, arguments, log=self.log, env=self._env, cwd=self._cwd or _ROOT)


class Forked:
    """One service: what `subprocess.Popen` says of a child, for a child of another process of ours."""

    def __init__(self, module: str, arguments: list[str], *, log: Path, env: Mapping[str, str], cwd: Path) -> None:
        request = {"module": module, "arguments": arguments, "log": str(log), "env": dict(env), "cwd": str(cwd)}
        self.pid: int = _loader().ask(request)
        self._ended = os.pidfd_open(self.pid)
        weakref.finalize(self, os.close, self._ended)
        self._code: int | None = None
        self._asking = threading.Lock()

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self._code

    def wait(self, timeout: float) -> int:
        """The exit code; subprocess.TimeoutExpired when it runs for longer than `timeout` seconds."""
        if self._code is None and not select.select([self._ended], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(f"pid {self.pid}", timeout)
        with self._asking:
            if self._code is None:
                self._code = _loader().ask({"ended": self.pid})
        return self._code


class _Loader:
    """The other process, and the line to it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._asking = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.loaded", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            cwd=_ROOT,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            preexec_fn=dies_with_us(signal.SIGKILL),  # noqa: PLW1509  (the main thread forks, and only prctl runs)
        )
        theirs.close()
        ours.settimeout(_LONGEST_START)
        self._line = ours.makefile("rw", encoding="utf-8")
        atexit.register(self.close)

    def close(self) -> None:
        """End it, and what it has forked."""
        self._line.close()
        self._process.wait(10)

    def ask(self, request: Mapping[str, Any]) -> int:
        """One request, one number."""
        with self._asking:
            self._line.write(json.dumps(request) + "\n")
            self._line.flush()
            answer = self._line.readline()
        if not answer:
            raise RuntimeError(f"the process that forks services ended with {self._process.wait(10)}")
        return int(answer)


_started: list[_Loader] = []


def _loader() -> _Loader:
    if not _started:
        _started.append(_Loader())
    return _started[0]


# -- the other process ------------------------------------------------------------------------------------------------


def main(descriptor: int) -> None:
    """Fork whenever asked; ends with whoever asks."""
    for name in ("service.app", "service.cli", "tests.support.signalled", "uvloop"):
        importlib.import_module(name)
    gc.freeze()
    with socket.socket(fileno=descriptor) as ours, ours.makefile("rw", encoding="utf-8") as line:
        for text in line:
            request = json.loads(text)
            number = _exit_code(request["ended"]) if "ended" in request else _fork(request, ours)
            line.write(f"{number}\n")
            line.flush()


def _exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _fork(request: Mapping[str, Any], line: socket.socket) -> int:
    die_with_us = dies_with_us(signal.SIGKILL)
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        die_with_us()
        os.setsid()
        os.close(line.fileno())
        output = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        for standard in (1, 2):
            os.dup2(output, standard)
        os.close(output)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        time.tzset()
        sys.argv = [request["module"], *request["arguments"]]
        code = _run(request["module"])
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _run(module: str) -> int:
    """What the interpreter makes of the end of a program."""
    try:
        importlib.import_module(module).main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    main(int(sys.argv[1]))
