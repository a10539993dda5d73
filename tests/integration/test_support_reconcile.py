"""The judge of the other suites finds each kind of fault, and none where there is none."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import asyncpg
import pytest
import zstandard
from confluent_kafka import Producer

from tests.support.reconcile import Delivered, expected_rows, file_rows, kafka_rows, reconcile, split_uppers

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.kafka import KafkaServer

ROWS = 1000


@pytest.fixture
async def table(database: str) -> list[Delivered]:
    """A table of ROWS rows in `database`, and its rows as an exact reader delivers them."""
    connection = await asyncpg.connect(database)
    await connection.execute("SET timezone = 'UTC'")
    await connection.execute(
        f"""
        CREATE TABLE things AS
        SELECT n::bigint AS id, 1.50::numeric AS price, E'a\\nb' AS word, E'{{"a":\\t1}}'::json AS doc,
               timestamptz '2024-02-03 04:05:06.7+00' + n * interval '1 day' AS at
        FROM generate_series(1, {ROWS}) n
        """
    )
    lines = await connection.fetch("SELECT id::text, row_to_json(things)::text AS line FROM things ORDER BY things.id")
    await connection.close()
    return [Delivered("p", (row["id"],), row["line"].replace("\t", " ").encode()) for row in lines]


async def test_an_exact_delivery_is_exact(database: str, table: list[Delivered]):
    expected = await expected_rows(database, "things", values=True)
    report = reconcile(table, expected)
    assert report.exact, report.describe()
    assert (report.rows, report.expected) == (ROWS, ROWS)


async def test_each_fault_is_found(database: str, table: list[Delivered]):
    expected = await expected_rows(database, "things", values=True)
    rows = list(table)
    rows[10], rows[11] = rows[11], rows[10]
    rows[500] = rows[500]._replace(value=rows[500].value.replace(b"1.50", b"1.5"))
    rows[501:501] = [rows[600]._replace(key=("4711",))]
    del rows[700]
    rows.append(rows[-1])
    report = reconcile(rows, expected)
    assert report.out_of_order == [("11",), (str(ROWS),)]
    assert report.wrong_values == [("501",)]
    assert report.unknown == [("4711",)]
    assert report.missing == [("700",)]
    assert report.doubled == {(str(ROWS),): 2}
    assert not report.complete
    assert "missing 1 [('700',)]" in report.describe()


async def test_splits_may_interleave_but_not_within_themselves(database: str, table: list[Delivered]):
    job = {"position": {"splits": [{"lower": None, "upper": "400"}, {"lower": "400", "upper": None}]}}
    expected = await expected_rows(database, "things", uppers=split_uppers(job))
    assert expected.ends == (400,)
    braided = [row for pair in zip(table[:400], table[400:800], strict=True) for row in pair] + table[800:]
    assert reconcile(braided, expected).exact
    assert not reconcile(braided, await expected_rows(database, "things")).exact
    braided[0], braided[2] = braided[2], braided[0]
    assert reconcile(braided, expected).out_of_order == [("1",)]


async def test_a_second_delivery_is_told_from_doubled_rows(database: str, table: list[Delivered]):
    expected = await expected_rows(database, "things")
    assert reconcile(table + table, expected, times=2).exact
    once_short = reconcile(table + table[1:], expected, times=2)
    assert once_short.missing == [("1",)]
    assert reconcile(table + table, expected).doubled[("1",)] == 2


async def test_keys_that_are_not_numbers_are_ordered_by_postgres(database: str, table: list[Delivered]):
    expected = await expected_rows(database, "things", ("at", "id"), where="id <= 3")
    assert next(iter(expected.ranks)) == ("2024-02-04T04:05:06.7+00:00", "1")


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
async def test_files_are_read_whole_and_in_order(database: str, table: list[Delivered], tmp_path: Path, suffix: str):
    packers = {".jsonl": bytes, ".jsonl.gz": gzip.compress, ".jsonl.zst": zstandard.ZstdCompressor().compress}
    (tmp_path / ".tmp").mkdir()
    (tmp_path / ".tmp" / "part").write_bytes(b"half a li")
    (tmp_path / "_manifest.json").write_text("{}")
    for number in range(10):
        content = b"".join(row.value + b"\n" for row in table[number * 100 : number * 100 + 100])
        (tmp_path / f"{number:04}{suffix}").write_bytes(packers[suffix](content))
    expected = await expected_rows(database, "things", values=True)
    report = reconcile(file_rows(tmp_path), expected)
    assert report.exact, report.describe()
    (tmp_path / f"0003{suffix}").rename(tmp_path / f"0011{suffix}")
    assert len(reconcile(file_rows(tmp_path), expected).out_of_order) == 1


def test_a_cut_last_line_is_an_error(tmp_path: Path):
    (tmp_path / "0001.jsonl").write_bytes(b'{"id":1}\n{"id":2}')
    with pytest.raises(ValueError, match="last line has no end"):
        list(file_rows(tmp_path))


@pytest.mark.kafka
async def test_a_topic_is_compared_with_its_table(
    kafka_server: KafkaServer, topic: str, database: str, table: list[Delivered]
):
    client = Producer({"bootstrap.servers": kafka_server.bootstrap, "log_level": 0})
    for row in table:
        client.produce(topic, row.value, key=row.key[0])
    assert client.flush(20) == 0
    report = reconcile(kafka_rows(kafka_server.bootstrap, topic), await expected_rows(database, "things", values=True))
    assert report.exact, report.describe()
