"""A child process that dies with us, logs to a file, and can be killed, frozen and started again."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from tests.support.ports import is_free
from tests.support.waiting import until_blocking

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_TCP_LISTEN = "0A"

#: Everything started and not yet forgotten: a failing test prints the tails of their logs.
REGISTRY: weakref.WeakSet[ChildProcess] = weakref.WeakSet()


class StartError(RuntimeError):
    """The child ended, or did not become ready in time; the message carries the end of its log."""


class Started(Protocol):
    """What `subprocess.Popen` says of a child."""

    @property
    def pid(self) -> int:
        """Its pid."""

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""

    def wait(self, timeout: float) -> int:
        """The exit code; subprocess.TimeoutExpired when it runs for longer than `timeout` seconds."""


class ChildProcess:
    """
    One program in its own session, standard output and error appended to `log`.

    The kernel sends it `death_signal` when the thread that started it ends, hence only the main thread may
    start one. Every method is safe to call when the process is gone already.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        death_signal: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.name = name
        self.command = [str(part) for part in command]
        self.log = log
        self._env = dict(env) if env is not None else None
        self._cwd = cwd
        self._user = user
        self._stop_signal = stop_signal
        self._death_signal = death_signal
        self._process: Started | None = None

    def launch(self) -> Self:
        """Start the program and return at once."""
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(f"{self.name}: start from the main thread, the child dies with its thread")
        if self.running:
            raise RuntimeError(f"{self.name} runs already as pid {self.pid}")
        self._process = self._started()
        REGISTRY.add(self)
        return self

    def _started(self) -> Started:
        with self.log.open("ab") as output:
            return subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._env,
                cwd=self._cwd,
                start_new_session=True,
                preexec_fn=dies_with_us(self._death_signal),  # noqa: PLW1509  (the main thread forks, only prctl runs)
                **identity(self._user),
            )

    def wait_ready(self, check: Callable[[], bool], timeout: float) -> None:
        """Poll `check` until true; StartError with the log's tail when the child ends or time is up."""

        def ready() -> bool:
            if not self.running:
                raise StartError(f"{self.name} ended with code {self.exit_code}\n{self.log_tail()}")
            return check()

        try:
            until_blocking(ready, timeout, f"{self.name} is ready")
        except TimeoutError as error:
            raise StartError(f"{error}\n{self.log_tail()}") from None

    @property
    def running(self) -> bool:
        """Whether the program has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The exit code; negative for a signal; None while it runs or before the first start."""
        return None if self._process is None else self._process.poll()

    @property
    def pid(self) -> int:
        """The pid of the last start."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the program itself."""
        if self.running:
            os.kill(self.pid, number)

    def wait_exit(self, timeout: float) -> int:
        """Wait for its end by itself and return the exit code; TimeoutError with the log's tail."""
        assert self._process is not None
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} still runs after {timeout} s\n{self.log_tail()}") from None

    def stop(self, timeout: float = 15.0) -> int | None:
        """Ask it to end, kill it after `timeout` seconds, return its exit code."""
        if self.running:
            self.thaw()
            self.send(self._stop_signal)
            try:
                self.wait_exit(timeout)
            except TimeoutError:
                self.kill()
        return self.exit_code

    def kill(self) -> None:
        """SIGKILL the program and all its descendants; returns when they are gone."""
        if self._process is None:
            return
        family = self._family()
        self._signal_all(family, signal.SIGKILL)
        self._process.wait(10)
        until_blocking(lambda: not any(_alive(pid) for pid in family), 10, f"{self.name}'s children are gone")

    def freeze(self) -> None:
        """SIGSTOP it and its descendants: connections stay, nothing answers."""
        self._signal_all(self._family(), signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT it and its descendants."""
        self._signal_all(reversed(self._family()), signal.SIGCONT)

    def log_tail(self, lines: int = 40) -> str:
        """The end of its log, headed by the name of the file."""
        if not self.log.exists():
            return f"--- {self.log}: no log"
        text = self.log.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join([f"--- the last lines of {self.log}", *text])

    def listens_on(self, port: int) -> bool:
        """
        Whether the listener on the loopback `port` is this very program.

        RuntimeError when another program holds the port: never write to somebody else's server.
        """
        if is_free(port):  # asked ten times a second; the kernel's tables take a thousand times as long to read
            return False
        inodes = _listening_inodes(port)
        if not inodes:
            return False
        if any(inodes & _socket_inodes(pid) for pid in self._family()):
            return True
        if not self.running or is_free(port) or not _listening_inodes(port):
            return False
        raise RuntimeError(f"port {port} belongs to another program than {self.name} (pid {self.pid})")

    def rss_bytes(self) -> int:
        """Resident memory of the program itself, in bytes."""
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def peak_rss_bytes(self) -> int:
        """The largest resident memory since its start, in bytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError(f"the kernel shows no VmHWM for {self.name}")

    def cpu_seconds(self) -> float:
        """User and system time of all its threads since its start, in seconds."""
        fields = _stat_fields(self.pid)
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _family(self) -> list[int]:
        return [self.pid, *_descendants(self.pid)] if self.running else []

    @staticmethod
    def _signal_all(pids: Iterable[int], number: signal.Signals) -> None:
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue


def dies_with_us(death_signal: signal.Signals) -> Callable[[], None]:
    """What a child does first, so that the kernel ends it with the thread that started it."""
    parent = os.getpid()

    def die_with_parent() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(death_signal))
        if os.getppid() != parent:
            os._exit(1)

    return die_with_parent


def identity(user: str | None) -> dict[str, Any]:
    """The arguments of subprocess that make a program run as a system user (None: as ourselves)."""
    import pwd

    if user is None:
        return {}
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def _stat_fields(pid: int) -> list[str]:
    """Fields 3 and following of /proc/PID/stat: the name before them may hold blanks and brackets."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _alive(pid: int) -> bool:
    try:
        return _stat_fields(pid)[0] not in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return False


def _descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(_stat_fields(int(folder.name))[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(parent, []).append(int(folder.name))
    found, todo = [], [root]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def _listening_inodes(port: int) -> set[str]:
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except FileNotFoundError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _TCP_LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(fields[9])
    return inodes


def _socket_inodes(pid: int) -> set[str]:
    inodes = set()
    try:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = str(descriptor.readlink())
            except FileNotFoundError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return set()
    return inodes
