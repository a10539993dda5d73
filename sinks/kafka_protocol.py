"""The requests that aiokafka 0.14 does not carry, or carries at too old a version, on its protocol classes.

Each class holds exactly one version: the oldest that knows the field needed. Field order and types are those of
https://kafka.apache.org/protocol. A broker without that version raises `NotImplementedError` in `prepare`, which
`sinks.kafka_client` turns into the refusal `broker_too_old`.

    Metadata     v10   topic ids, no topic made by asking, rights on the topic    Kafka 2.8
    OffsetFetch  v7    require_stable                                             Kafka 2.5
"""

from __future__ import annotations

import base64
from enum import IntEnum
from typing import TYPE_CHECKING

from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from io import BytesIO


class Code(IntEnum):
    """The error codes this sink tells apart (https://kafka.apache.org/protocol#protocol_error_codes)."""

    NONE = 0
    OFFSET_OUT_OF_RANGE = 1
    UNKNOWN_TOPIC_OR_PARTITION = 3
    LEADER_NOT_AVAILABLE = 5
    NOT_LEADER_OR_FOLLOWER = 6
    REQUEST_TIMED_OUT = 7
    MESSAGE_TOO_LARGE = 10
    COORDINATOR_LOAD_IN_PROGRESS = 14
    COORDINATOR_NOT_AVAILABLE = 15
    NOT_COORDINATOR = 16
    RECORD_LIST_TOO_LARGE = 18
    NOT_ENOUGH_REPLICAS = 19
    NOT_ENOUGH_REPLICAS_AFTER_APPEND = 20
    ILLEGAL_GENERATION = 22
    UNKNOWN_MEMBER_ID = 25
    TOPIC_AUTHORIZATION_FAILED = 29
    GROUP_AUTHORIZATION_FAILED = 30
    CLUSTER_AUTHORIZATION_FAILED = 31
    TOPIC_ALREADY_EXISTS = 36
    NOT_CONTROLLER = 41
    OUT_OF_ORDER_SEQUENCE_NUMBER = 45
    DUPLICATE_SEQUENCE_NUMBER = 46
    INVALID_PRODUCER_EPOCH = 47
    INVALID_TXN_STATE = 48
    INVALID_PRODUCER_ID_MAPPING = 49
    INVALID_TRANSACTION_TIMEOUT = 50
    CONCURRENT_TRANSACTIONS = 51
    TRANSACTIONAL_ID_AUTHORIZATION_FAILED = 53
    OPERATION_NOT_ATTEMPTED = 55
    KAFKA_STORAGE_ERROR = 56
    UNKNOWN_PRODUCER_ID = 59
    NON_EMPTY_GROUP = 68
    GROUP_ID_NOT_FOUND = 69
    FENCED_INSTANCE_ID = 82
    INVALID_RECORD = 87
    UNSTABLE_OFFSET_COMMIT = 88
    THROTTLING_QUOTA_EXCEEDED = 89
    PRODUCER_FENCED = 90
    TRANSACTION_ABORTABLE = 120

    @classmethod
    def name_of(cls, code: int) -> str:
        """The code's name, or its number where it has none here."""
        return cls(code).name if code in cls._value2member_map_ else f"error {code}"


class Operation(IntEnum):
    """Bits of the `authorized_operations` fields."""

    READ = 3
    WRITE = 4
    CREATE = 5
    DELETE = 6
    DESCRIBE = 8
    DESCRIBE_CONFIGS = 10

    def allowed(self, operations: int) -> bool:
        """Whether the bit is set; a broker that did not tell (the lowest int32) allows everything."""
        return operations == -(2**31) or bool(operations >> self & 1)


class TopicId(AbstractType[str]):
    """A topic's UUID as Kafka's tools print it: base64 for URLs without padding, 22 characters."""

    @classmethod
    def encode(cls, value: str) -> bytes:
        """Pack to 16 bytes."""
        return base64.urlsafe_b64decode(value + "==")

    @classmethod
    def decode(cls, data: BytesIO) -> str:
        """Unpack 16 bytes."""
        return base64.urlsafe_b64encode(data.read(16)).decode().rstrip("=")


NO_TOPIC_ID = "A" * 22


class MetadataResponseV10(Response):
    """Brokers, and the asked topics with id, leaders and the caller's rights."""

    API_KEY = 3
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString("utf-8")),
                ("topic_id", TopicId),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class MetadataRequestV10(RequestStruct):
    """An empty list asks for brokers only."""

    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 10
    RESPONSE_TYPE = MetadataResponseV10
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(("topic_id", TopicId), ("name", CompactString("utf-8")), ("tags", TaggedFields)),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class TopicMetadataRequest(Request[MetadataRequestV10]):
    """Describe topics by name; never makes one, whatever `auto.create.topics.enable` says."""

    API_KEY = 3

    def __init__(self, topics: Sequence[str] = (), *, rights: bool = False) -> None:
        self._topics, self._rights = topics, rights

    def build(self, request_struct_class: type[MetadataRequestV10]) -> MetadataRequestV10:
        """The request at its one version."""
        topics: list[tuple[str, str, dict[int, bytes]]] = [(NO_TOPIC_ID, topic, {}) for topic in self._topics]
        return request_struct_class(topics, False, False, self._rights, {})


class OffsetFetchResponseV7(Response):
    """Committed offsets of one group."""

    API_KEY = 9
    API_VERSION = 7
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("topic", CompactString("utf-8")),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", CompactString("utf-8")),
                        ("error_code", Int16),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("error_code", Int16),
        ("tags", TaggedFields),
    )


class OffsetFetchRequestV7(RequestStruct):
    """With `require_stable`, a partition with a pending transactional offset answers UNSTABLE_OFFSET_COMMIT."""

    FLEXIBLE_VERSION = True
    API_KEY = 9
    API_VERSION = 7
    RESPONSE_TYPE = OffsetFetchResponseV7
    SCHEMA = Schema(
        ("group", CompactString("utf-8")),
        (
            "topics",
            CompactArray(
                ("topic", CompactString("utf-8")), ("partitions", CompactArray(Int32)), ("tags", TaggedFields)
            ),
        ),
        ("require_stable", Boolean),
        ("tags", TaggedFields),
    )


class StableOffsetFetchRequest(Request[OffsetFetchRequestV7]):
    """The committed offset of one partition, never one that a transaction may still change."""

    API_KEY = 9

    def __init__(self, group: str, topic: str, partition: int) -> None:
        self._group, self._topic, self._partition = group, topic, partition

    def build(self, request_struct_class: type[OffsetFetchRequestV7]) -> OffsetFetchRequestV7:
        """The request at its one version."""
        return request_struct_class(self._group, [(self._topic, [self._partition], {})], True, {})
