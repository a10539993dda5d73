"""Keys hash as in Kafka's Java client."""

from __future__ import annotations

import pytest
from aiokafka.partitioner import murmur2 as another_murmur2
from hypothesis import given
from hypothesis import strategies as st

from sinks.murmur2 import murmur2, partition_of

# org.apache.kafka.common.utils.UtilsTest.testMurmur2; Java's ints are signed.
JAVA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("key", "hashed"), JAVA.items())
def test_the_vectors_of_the_java_client(key: bytes, hashed: int):
    assert murmur2(key) == hashed & 0xFFFFFFFF
    assert partition_of(key, 17) == (hashed & 0x7FFFFFFF) % 17


@given(st.binary(max_size=200))
def test_any_key_hashes_as_in_another_client(key: bytes):
    assert murmur2(key) == another_murmur2(key) & 0xFFFFFFFF


def test_a_hash_with_the_sign_bit_still_names_a_partition():
    assert murmur2(b"foobar") >> 31 == 1
    assert partition_of(b"foobar", 10) == (-790332482 & 0x7FFFFFFF) % 10
