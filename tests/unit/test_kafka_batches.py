"""What goes over the wire is Kafka's message format, whatever the compression, and never changes once sealed.

aiokafka's own builder is the oracle: byte for byte.
"""

from __future__ import annotations

import random
import struct

import google_crc32c
import pytest
from aiokafka.protocol.produce import ProduceRequest_v7
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from sinks.kafka_batches import RecordBatch
from sinks.kafka_produce import ProduceRequest
from sinks.kafka_staging import TARGET_BYTES, Sizes

COMPRESSIONS = ["none", "gzip", "snappy", "lz4", "zstd"]


def filled(compression: str, rows: list[bytes], *, limit: int = 100_000, transactional: bool = True) -> RecordBatch:
    batch = RecordBatch(limit, compression, transactional=transactional)  # type: ignore[arg-type]
    assert batch.fill(None, rows, range(len(rows)), 0, [("h", b"1")], 1_700_000_000_000) == len(rows)
    return batch


def sent(batch: RecordBatch) -> bytes:
    assert batch.buffers is not None
    return b"".join(batch.buffers)


def decoded(batch: bytes) -> list[tuple[object, ...]]:
    return [(one.offset, one.timestamp, one.key, one.value, one.headers) for one in DefaultRecordBatch(batch)]


def test_the_checksum_is_the_librarys_c_code():
    assert google_crc32c.implementation == "c"


HEADERS: list[list[tuple[str, bytes | None]]] = [
    [],
    [("h", b"1")],
    [("é", None), ("empty", b""), ("n" * 70, b"v" * 90)],
]
LENGTHS = [0, 1, 62, 63, 64, 65, 300, 8190, 8191, 8192, 8193, 70_000]
"""Around the lengths at which a number takes a byte more."""


@pytest.mark.parametrize("keyed", [True, False])
@pytest.mark.parametrize(
    ("compression", "headers"),
    [*(("none", headers) for headers in HEADERS), *((other, HEADERS[1]) for other in COMPRESSIONS[1:])],
)
async def test_every_byte_is_that_of_aiokafkas_own_builder(
    compression: str, keyed: bool, headers: list[tuple[str, bytes | None]]
):
    some = random.Random(7)
    lengths = [*LENGTHS, *(some.randrange(40) for _ in range(8400)), *LENGTHS]
    values = [bytes([some.randrange(97, 107)]) * length for length in lengths]
    keys = [some.choice([None, b"", b"k" * some.choice(LENGTHS[:7])]) for _ in lengths] if keyed else None
    ours = RecordBatch(1 << 24, compression, transactional=keyed)  # type: ignore[arg-type]
    theirs = DefaultRecordBatchBuilder(2, COMPRESSIONS.index(compression), int(keyed), 77, 3, 12_345, 1 << 24)
    at, timestamp = 0, 1_700_000_000_000
    while at < len(values):
        end = min(len(values), at + some.randrange(1, 2500))
        indexes = range(at, end) if some.random() < 0.5 else list(range(at, end))
        assert ours.fill(keys, values, indexes, 0, headers, timestamp) == end - at
        for index in indexes:
            assert (
                theirs.append(index, timestamp, keys[index] if keys else None, values[index] or None, headers)
                is not None
            )
        at, timestamp = end, timestamp + some.choice([0, 1, 63, 64, 70_000])
    assert ours.raw_bytes == theirs.size()
    ours.finish()
    await ours.seal(77, 3, 12_345)
    if compression == "gzip":  # our level is another, and the same for every try
        assert decoded(sent(ours)) == decoded(bytes(theirs.build()))
    else:
        assert sent(ours) == bytes(theirs.build())


def test_a_request_is_laid_out_as_aiokafkas_own():
    records = [b"first part", b"second part"]
    header = b"\0header"
    request = ProduceRequest("tx", "tøpic", 3, records).prepare({0: (3, 11)})
    theirs = ProduceRequest_v7("tx", -1, 10_000, [("tøpic", [(3, b"".join(records))])])
    message = header + request.encode()
    size = struct.pack(">i", len(message))
    assert size + message == size + header + theirs.encode()


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("transactional", [True, False])
async def test_another_decoder_reads_every_compression(compression: str, transactional: bool):
    rows = [b'{"id":%d}' % number for number in range(1000)]
    batch = filled(compression, rows, transactional=transactional)
    batch.finish()
    await batch.seal(77, 3, 12_345)
    read = DefaultRecordBatch(sent(batch))
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
    first = sent(batch)
    await batch.seal(9, 9, 9)
    assert sent(batch) == first


@pytest.mark.parametrize("compression", COMPRESSIONS)
async def test_rows_that_do_not_compress_are_sent_as_they_are(compression: str):
    batch = filled(compression, [bytes(range(7))])
    assert await batch.packed_bytes() == batch.raw_bytes
    await batch.seal(1, 1, 0)
    read = DefaultRecordBatch(sent(batch))
    assert read.validate_crc()
    assert [record.value for record in read] == [bytes(range(7))]


def test_a_batch_stops_at_its_limit_and_tells_where():
    rows = [b"x" * 100] * 50
    batch = RecordBatch(1000, "none", transactional=False)
    at = batch.fill(None, rows, range(50), 0, [], 0)
    assert 0 < at == batch.rows < 10
    assert batch.raw_bytes <= 1000


@pytest.mark.parametrize("keyed", [True, False])
def test_a_batch_is_nearly_full_and_never_over_its_limit(keyed: bool):
    some = random.Random(11)
    for limit in (200, 1000, 65_536, 1_048_588):
        values = [b"v" * some.randrange(limit // 20) for _ in range(200)]
        keys: list[bytes | None] | None = [b"k" * some.randrange(9) for _ in values] if keyed else None
        batch, at = RecordBatch(limit, "none", transactional=True), 0
        while at < len(values):
            at = batch.fill(keys, values, range(len(values)), at, [], 0)
            if at < len(values):
                assert limit - (limit // 20 + 30) - 10 * batch.rows < batch.raw_bytes <= limit
                batch = RecordBatch(limit, "none", transactional=True)


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
