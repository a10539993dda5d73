"""MurmurHash2 as Kafka's Java client spreads keys over partitions.

The algorithm and the seed are those of `org.apache.kafka.common.utils.Utils.murmur2`; the partition is
`(hash & 0x7fffffff) % partitions`, as in Java's default partitioner and librdkafka's `murmur2_random`.
"""

from __future__ import annotations

from functools import lru_cache
from struct import unpack_from

_SEED = 0x9747B28C
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


@lru_cache(maxsize=8192)
def murmur2(key: bytes) -> int:
    """The unsigned 32-bit hash of a key. Keys that repeat cost a dictionary look-up."""
    length = len(key)
    words = length >> 2
    hashed = _SEED ^ length
    for word in unpack_from(f"<{words}I", key):
        mixed = word * _M & _MASK
        hashed = hashed * _M & _MASK ^ (mixed ^ mixed >> 24) * _M & _MASK
    if rest := length & 3:
        hashed = (hashed ^ int.from_bytes(key[-rest:], "little")) * _M & _MASK
    hashed = (hashed ^ hashed >> 13) * _M & _MASK
    return hashed ^ hashed >> 15


def partition_of(key: bytes, partitions: int) -> int:
    """The partition, counted from 0, where every client with the Java semantics puts this key."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions
