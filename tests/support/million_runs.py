"""A job log of many runs, for tests and bench: made by one statement, spread over labels, states and errors as an
installation of years might have them, with corners that are rare, old, or both."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from service.domain.states import FINAL, State

if TYPE_CHECKING:
    import asyncpg

    from service.domain.ports import JobStore

RUNS: Final = 1_000_000

# $1 how many. Run n began n minutes ago, so "old" is a large n. Of every hundred: 10 in error, half of them with a
# refusal that holds a rare word now and then. The last thousand alone are of trigger devo, the oldest third alone has a
# label that nothing newer has, and one run in a hundred thousand a label of its own.
_FILL: Final = """
INSERT INTO rowferry.runs (id, account_id, job_id, job_name, number, generation, trigger, state, mode, sink, datasource,
                           started_at, ended_at, labels, errors)
SELECT ('0199a1b3-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, a.id,
       ('0199a1b2-0000-7000-8000-' || lpad(to_hex(n % 10000), 12, '0'))::uuid, 'job-' || n % 10000, n / 10000, 1,
       CASE WHEN n > $1 - 1000 THEN 'devo' WHEN n % 3 = 0 THEN 'schedule' ELSE 'api' END,
       CASE WHEN n <= 20 THEN 'running' WHEN n % 10 = 1 THEN 'error' WHEN n % 100 = 2 THEN 'aborted'
            ELSE 'successful' END,
       (ARRAY['full', 'incremental', 'once'])[1 + n % 3], (ARRAY['kafka', 's3', 'elasticsearch', 'file'])[1 + n % 4],
       'shop', now() - n * interval '1 minute', now() - n * interval '1 minute' + interval '30 seconds',
       jsonb_build_object('team', 'team-' || n % 20)
         || CASE WHEN n > $1 * 2 / 3 THEN '{"site": "closed"}'::jsonb ELSE '{}' END
         || CASE WHEN n % 100000 = 7 THEN jsonb_build_object('ticket', 'T-' || n) ELSE '{}' END,
       CASE WHEN n > 20 AND n % 10 = 1 THEN jsonb_build_array(
            jsonb_build_object('code', 'retries_exhausted', 'message', 'no progress for 900 seconds',
                'at', '2026-01-01T00:00:00+00:00', 'retryable', false),
            jsonb_build_object('code', CASE WHEN n % 50000 = 1 THEN 'topic_missing' ELSE 'sink_unreachable' END,
                'message', 'broker host-' || n % 1000 || ' does not answer: connection refused'
                  || CASE WHEN n % 50000 = 1 THEN ' (quokka)' ELSE '' END,
                'at', '2026-01-01T00:00:00+00:00', 'retryable', true)) ELSE '[]' END
  FROM generate_series(1, $1) n, rowferry.accounts a WHERE a.name = 'default'
"""


_TERMS: Final = """
INSERT INTO rowferry.run_terms (account_id, term, started_at, run_id)
SELECT r.account_id, t.term, r.started_at, r.id
  FROM rowferry.runs r CROSS JOIN LATERAL rowferry.terms_of(r.labels, r.errors) AS t(term)
"""
_INDICES: Final = """
SELECT c.relname AS name, pg_get_indexdef(i.indexrelid) AS definition
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
 WHERE i.indrelid IN ('rowferry.runs'::regclass, 'rowferry.run_terms'::regclass)
   AND NOT EXISTS (SELECT FROM pg_constraint n WHERE n.conindid = i.indexrelid)
"""


async def fill(connection: asyncpg.Connection[asyncpg.Record], runs: int = RUNS) -> None:
    """The runs, of account `default`, and statistics about them. As a restore does it: indices are made at the end, and
    what triggers do row by row is done once; what is there then is the same."""
    indices = await connection.fetch(_INDICES)
    await connection.execute("ALTER TABLE rowferry.runs DISABLE TRIGGER USER")
    await connection.execute("ALTER TABLE rowferry.run_terms DROP CONSTRAINT run_terms_pkey")
    for index in indices:
        await connection.execute(f'DROP INDEX rowferry."{index["name"]}"')
    await connection.execute(_FILL.replace("$1", str(runs)), timeout=900)
    await connection.execute(_TERMS, timeout=900)
    await connection.execute("SET maintenance_work_mem = '256MB'")
    for index in indices:
        await connection.execute(index["definition"], timeout=900)
    await connection.execute(
        "ALTER TABLE rowferry.run_terms ADD PRIMARY KEY (account_id, term, started_at, run_id)", timeout=900
    )
    await connection.execute("ALTER TABLE rowferry.runs ENABLE TRIGGER USER")
    for table in ("runs", "run_terms"):
        await connection.execute(f"VACUUM ANALYZE rowferry.{table}", timeout=300)


# What each finds is counted from how the runs were made: enough for a page, or the few there are. Times are minutes
# before the newest run, which is run 1.
SEARCHES: Final[dict[str, tuple[dict[str, Any], int]]] = {
    "nothing": ({}, 50),
    "state": ({"state": [State.ERROR]}, 50),
    "rare state": ({"state": [State.RUNNING]}, 20),
    "no such state": ({"state": [State.STOPPED]}, 0),
    "states": ({"state": sorted(FINAL)}, 50),
    "rare states": ({"state": [State.RUNNING, State.QUEUED, State.STOPPING]}, 20),
    "job": ({"job": "job-77"}, 50),
    "job_id": ({"job_id": "0199a1b2-0000-7000-8000-00000000004d"}, 50),
    "no such job": ({"job": "nobody"}, 0),
    "sink": ({"sink": "kafka"}, 50),
    "no such sink": ({"sink": "paper"}, 0),
    "trigger": ({"trigger": "schedule"}, 50),
    "old trigger": ({"trigger": "devo"}, 50),
    "mode": ({"mode": "full"}, 50),
    "label": ({"label": [("team", "team-7")]}, 50),
    "old label": ({"label": [("site", "closed")]}, 50),
    "rare label": ({"label": [("ticket", "T-100007")]}, 1),
    "no such label": ({"label": [("team", "nobody")]}, 0),
    "labels": ({"label": [("site", "closed"), ("team", "team-7")]}, 50),
    "error": ({"error": "sink_unreachable"}, 50),
    "rare error": ({"error": "topic_missing"}, 19),
    "text": ({"q": "connection refused"}, 50),
    "rare text": ({"q": "Quokka"}, 19),
    "text of few": ({"q": "broker host-21 does not answer"}, 50),
    "no such text": ({"q": "refused connection"}, 0),
    "from": ({"started_from": 30}, 31),
    "to": ({"started_to": RUNS - 30}, 29),
    "window": ({"started_from": 500_020, "started_to": 500_000}, 20),
    "state and window": ({"state": [State.ERROR], "started_to": 500_000}, 50),
    "label and window": ({"label": [("team", "team-7")], "started_to": 500_000}, 50),
    "text and sink": ({"q": "connection refused", "sink": "s3"}, 50),
    "old label and error": ({"label": [("site", "closed")], "error": "topic_missing"}, 6),
}


async def timed(store: JobStore, filters: dict[str, Any]) -> dict[str, Any]:
    """The filters, their minutes as moments."""
    newest = (await store.runs("default", {}, limit=1, after=None))[0][0].started_at
    return {
        name: newest - timedelta(minutes=value) if name.startswith("started_") else value
        for name, value in filters.items()
    }
