"""The bench's own measuring: what it reads from the source's log, and that a small race runs to its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from bench import watch
from tests.support.postgres import PostgresServer
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]


async def test_the_longest_statement_and_transaction_of_one_database() -> None:
    async with PostgresServer(settings=watch.SETTINGS) as server:
        watched, other = await server.create_database("watched"), await server.create_database("other")
        admin = await asyncpg.connect(server.dsn())
        for name, value in watch.DATABASE_SETTINGS.items():
            await admin.execute(f"ALTER DATABASE watched SET {name} = {value}")
        await admin.close()
        before = await asyncpg.connect(watched)
        await before.execute("SELECT pg_sleep(0.8)")
        log = watch.SourceLog(server.log, "watched")
        assert log.longest() == watch.Longest()

        aside = await asyncpg.connect(other)
        await aside.execute("SELECT pg_sleep(0.9)")
        async with before.transaction(readonly=True):
            await before.fetchval("SELECT pg_sleep(0.2)::text")
            await before.execute("SELECT pg_sleep(0.25)")
        found = log.longest()
        assert 0.25 <= found.statement < 0.4
        assert 0.45 <= found.transaction < 0.7

        # A page that is cut in the middle is cancelled: the log gives it no duration.
        with pytest.raises(TimeoutError):
            await before.execute("SELECT pg_sleep(10)", timeout=0.5)
        await until(lambda: log.longest().statement >= 0.4, 10, "the cancelled statement is in the log")
        assert log.longest().statement < 5
        await before.close()
        await aside.close()


@pytest.mark.kafka
@pytest.mark.timeout(300)
def test_a_small_race(tmp_path: Path) -> None:
    written = tmp_path / "laps.json"
    command = [sys.executable, "-m", "bench", "--rows", "5000", "--repeat", "1", "--cold", "--json", str(written)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    laps = json.loads(written.read_text())["laps"]
    ours = [name for name in laps if "|" not in name]
    assert len(ours) == 3
    for name in ours:
        (lap,) = laps[name]
        assert lap["rows_per_second"] > 0
        assert lap["cpu_micros"] > 0
        assert lap["peak_rss"] > 20_000_000
        assert 0 < lap["longest"]["statement"] <= lap["longest"]["transaction"]
    assert ("kcat is not installed" in done.stdout) != any("|" in name for name in laps)
