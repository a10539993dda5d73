"""Produce requests whose records are copied once on their way to the socket.

aiokafka encodes a request from the inside out, and each layer of arrays and structures joins all bytes within it anew:
eight copies of every row. Here the layers around the records, which are few bytes, are packed for themselves, and all
is joined when aiokafka's connection has put the last of it in front.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiokafka.protocol.api import Request, RequestStruct
from aiokafka.protocol.produce import ProduceRequest_v7
from aiokafka.protocol.types import Int16, Int32, String

from sinks.kafka_connection import REQUEST_SECONDS

if TYPE_CHECKING:
    from collections.abc import Sequence

_ALL_IN_SYNC = -1


class _Framed:
    """Bytes in parts, that the length of a whole request is put in front of."""

    def __init__(self, parts: Sequence[bytes]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __radd__(self, size: bytes) -> bytes:
        return b"".join([size, *self._parts])


class _Body:
    """Bytes in parts, that a request's header is put in front of."""

    def __init__(self, parts: Sequence[bytes]) -> None:
        self._parts = parts

    def __radd__(self, header: bytes) -> _Framed:
        return _Framed([header, *self._parts])


class ProduceRequestV7(RequestStruct):
    """Records of one partition. Version 7 is Kafka 2.1's, and the first that may carry zstd."""

    API_KEY = ProduceRequest_v7.API_KEY
    API_VERSION = ProduceRequest_v7.API_VERSION
    RESPONSE_TYPE = ProduceRequest_v7.RESPONSE_TYPE
    SCHEMA = ProduceRequest_v7.SCHEMA

    def encode(self) -> bytes:
        """As the base class, but in parts until the connection has completed them."""
        fields: dict[str, Any] = self.__dict__
        ((topic, ((partition, records),)),) = fields["topics"]
        text = String("utf-8")
        front = (
            text.encode(fields["transactional_id"])
            + Int16.encode(fields["required_acks"])
            + Int32.encode(fields["timeout"])
            + Int32.encode(1)
            + text.encode(topic)
            + Int32.encode(1)
            + Int32.encode(partition)
            + Int32.encode(sum(map(len, records)))
        )
        return _Body([front, *records])  # type: ignore[return-value]


class ProduceRequest(Request[ProduceRequestV7]):
    """One batch, sealed, for one partition; answered when all in-sync replicas have it."""

    API_KEY = ProduceRequestV7.API_KEY

    def __init__(self, transactional_id: str | None, topic: str, partition: int, batch: Sequence[bytes]) -> None:
        self._transactional_id = transactional_id
        self._topics = [(topic, [(partition, batch)])]

    def build(self, request_struct_class: type[ProduceRequestV7]) -> ProduceRequestV7:
        """For aiokafka."""
        return request_struct_class(self._transactional_id, _ALL_IN_SYNC, int(REQUEST_SECONDS * 1000), self._topics)
