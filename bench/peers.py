"""Other programs that copy a table to files, in a virtual environment of their own: sling and dlt with connectorx.

sling is GPL-3.0 and dlt Apache-2.0; neither is a dependency of ours, they only stand beside us here. sling 1.4.11 is
the newest whose program lies in its Python package; later ones fetch it at their first run.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from typing import TYPE_CHECKING, Final

from tests.support.jars import cache_folder

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES: Final = (
    "sling-linux-amd64==1.4.11",
    "dlt[parquet]==1.31.0",
    "connectorx==0.4.6",
    "sqlalchemy==2.0.44",
    "psycopg2-binary==2.9.11",
)

_DLT: Final = """
import os, sys
os.environ.update({"RUNTIME__DLTHUB_TELEMETRY": "false", "DLT_DATA_DIR": sys.argv[2], "RUNTIME__LOG_LEVEL": "ERROR",
                   "NORMALIZE__DATA_WRITER__DISABLE_COMPRESSION": "true"})
import dlt
from dlt.sources.sql_database import sql_table
source, folder, table = sys.argv[1:4]
rows = sql_table(credentials=source, table=table, backend="connectorx", reflection_level="minimal",
                 backend_kwargs={"return_type": "arrow", "protocol": "binary"})
pipeline = dlt.pipeline("bench", pipelines_dir=folder + "/pipelines",
                        destination=dlt.destinations.filesystem("file://" + folder + "/out"), dataset_name="bench")
pipeline.run(rows, loader_file_format="parquet", write_disposition="replace")
"""


class NoPeers(RuntimeError):
    """They can not be had here; the message says why."""


class Peers:
    """The programs, installed once into the cache that the tests' servers use. Raises NoPeers."""

    def __init__(self) -> None:
        folder = cache_folder().parent / "bench-peers"
        self._bin = folder / "bin"
        ready = folder / ".installed"
        if ready.exists() and ready.read_text(encoding="utf-8") == "\n".join(PACKAGES):
            return
        venv.create(folder, with_pip=True, clear=True)
        pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES)
        done = subprocess.run((self._bin / "python", *pip), capture_output=True, text=True, check=False, timeout=900)
        if done.returncode:
            raise NoPeers(f"sling and dlt can not be installed: {done.stderr.strip()[-400:]}")
        ready.write_text("\n".join(PACKAGES), encoding="utf-8")

    def sling(self, source: str, table: str, into: Path) -> tuple[str | Path, ...]:
        """The command that copies a table into a CSV file. Parquet it writes by DuckDB's program with extensions, all
        fetched at its first run from outside a package index; so its CSV stands for it."""
        found = next(self._bin.parent.glob("lib/python*/site-packages/sling_linux_amd64/bin/sling-linux-amd64"), None)
        if found is None or sys.platform != "linux":
            raise NoPeers("sling has a program for Linux on x86-64 only")
        found.chmod(0o755)
        home = {
            "SLING_HOME_DIR": str(into.parent / "sling"),
            "SLING_DISABLE_TELEMETRY": "TRUE",
        }
        settings = tuple(f"{name}={value}" for name, value in home.items())
        run = (
            found,
            "run",
            "--src-conn",
            _with_ssl_off(source),
            "--src-stream",
            f"public.{table}",
            "--tgt-object",
            f"file://{into}",
        )
        return ("env", *settings, *run)

    def dlt(self, source: str, table: str, folder: Path) -> tuple[str | Path, ...]:
        """The command that copies a table into Parquet below `folder`; it holds the whole table in memory."""
        return (self._bin / "python", "-W", "ignore", "-c", _DLT, source, str(folder), table)


def _with_ssl_off(source: str) -> str:
    return source + ("&" if "?" in source else "?") + "sslmode=disable"
