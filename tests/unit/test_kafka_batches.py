"""What goes over the wire is Kafka's message format, whatever the compression, and never changes once sealed."""

from __future__ import annotations

import pytest
from aiokafka.record.default_records import DefaultRecordBatch

from sinks.kafka_batches import RecordBatch
from sinks.kafka_staging import TARGET_BYTES, Sizes

COMPRESSIONS = ["none", "gzip", "snappy", "lz4", "zstd"]


def filled(compression: str, rows: list[bytes], *, limit: int = 100_000, transactional: bool = True) -> RecordBatch:
    batch = RecordBatch(limit, compression, transactional=transactional)  # type: ignore[arg-type]
    assert batch.fill(None, rows, range(len(rows)), 0, [("h", b"1")], 1_700_000_000_000) == len(rows)
    return batch


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("transactional", [True, False])
async def test_another_decoder_reads_every_compression(compression: str, transactional: bool):
    rows = [b'{"id":%d}' % number for number in range(1000)]
    batch = filled(compression, rows, transactional=transactional)
    batch.finish()
    await batch.seal(77, 3, 12_345)
    assert batch.buffer is not None
    read = DefaultRecordBatch(bytes(batch.buffer))
    assert read.validate_crc()
    assert (read.producer_id, read.producer_epoch, read.base_sequence) == (77, 3, 12_345)
    assert read.compression_type == COMPRESSIONS.index(compression)
    assert read.is_transactional is transactional
    records = list(read)
    assert [record.value for record in records] == rows
    assert records[0].headers == [("h", b"1")]
    assert records[-1].timestamp == 1_700_000_000_000


@pytest.mark.parametrize("compression", COMPRESSIONS)
async def test_a_repeat_sends_the_same_bytes(compression: str):
    batch = filled(compression, [b"row"] * 100)
    batch.finish()
    await batch.seal(1, 1, 1)
    first = bytes(batch.buffer or b"")
    await batch.seal(9, 9, 9)
    assert bytes(batch.buffer or b"") == first


@pytest.mark.parametrize("compression", COMPRESSIONS)
async def test_rows_that_do_not_compress_are_sent_as_they_are(compression: str):
    batch = filled(compression, [bytes(range(7))])
    assert await batch.packed_bytes() == batch.raw_bytes
    await batch.seal(1, 1, 0)
    read = DefaultRecordBatch(bytes(batch.buffer or b""))
    assert read.validate_crc()
    assert [record.value for record in read] == [bytes(range(7))]


def test_a_batch_stops_at_its_limit_and_tells_where():
    rows = [b"x" * 100] * 50
    batch = RecordBatch(1000, "none", transactional=False)
    at = batch.fill(None, rows, range(50), 0, [], 0)
    assert 0 < at == batch.rows < 10
    assert batch.raw_bytes <= 1000


def test_the_first_row_always_fits_and_stays_alone():
    batch = RecordBatch(100, "none", transactional=False)
    assert batch.fill(None, [b"y" * 500, b"z"], range(2), 0, [], 0) == 1
    assert batch.raw_bytes > 500


async def test_a_finished_batch_takes_no_more_rows():
    batch = filled("zstd", [b"a" * 2000])
    await batch.packed_bytes()
    assert batch.fill(None, [b"b"], range(1), 0, [], 0) == 0
    assert batch.rows == 1


def test_a_refused_batch_halves_the_next_ones():
    sizes = Sizes()
    batch = filled("none", [b"x" * 100] * 100)
    sizes.learn(batch)
    assert sizes.target == batch.raw_bytes // 2
    for _ in range(20):
        sizes.learn(batch)
    assert sizes.target == 1024


def test_a_refused_row_is_alone_from_then_on():
    sizes = Sizes()
    sizes.learn(filled("none", [b"x" * 5000]))
    assert sizes.refused_row_bytes is not None
    assert sizes.target == sizes.refused_row_bytes - 1
    sizes.learn(filled("none", [b"x" * 9000]))
    assert sizes.target < 5200
    assert sizes.batch_bytes == TARGET_BYTES
