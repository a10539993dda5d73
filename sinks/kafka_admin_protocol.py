"""Requests of our own around the writing itself; the rules are those of `sinks.kafka_protocol`.

CreateTopics          v4   -1 for the broker's own replication      Kafka 2.4
DescribeGroups        v3   rights on the group                      Kafka 2.3
DescribeTransactions  v0   whether a commit has reached the topic   Kafka 3.0
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Array,
    Boolean,
    Bytes,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    String,
    TaggedFields,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


class CreateTopicsResponseV4(Response):
    """One error a topic."""

    API_KEY = 19
    API_VERSION = 4
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            Array(("topic", String("utf-8")), ("error_code", Int16), ("error_message", String("utf-8"))),
        ),
    )


class CreateTopicsRequestV4(RequestStruct):
    """As v3, where -1 became allowed (KIP-464)."""

    API_KEY = 19
    API_VERSION = 4
    RESPONSE_TYPE = CreateTopicsResponseV4
    SCHEMA = Schema(
        (
            "topics",
            Array(
                ("topic", String("utf-8")),
                ("partitions", Int32),
                ("replication_factor", Int16),
                ("assignments", Array(("partition", Int32), ("replicas", Array(Int32)))),
                ("configs", Array(("name", String("utf-8")), ("value", String("utf-8")))),
            ),
        ),
        ("timeout_ms", Int32),
        ("validate_only", Boolean),
    )


class CreateTopicRequest(Request[CreateTopicsRequestV4]):
    """Make one topic."""

    API_KEY = 19

    def __init__(
        self, topic: str, partitions: int, replication_factor: int, config: dict[str, str], timeout_ms: int
    ) -> None:
        by_hand: list[tuple[int, list[int]]] = []
        self._topic = (topic, partitions, replication_factor, by_hand, sorted(config.items()))
        self._timeout_ms = timeout_ms

    def build(self, request_struct_class: type[CreateTopicsRequestV4]) -> CreateTopicsRequestV4:
        """The request at its one version."""
        return request_struct_class([self._topic], self._timeout_ms, False)


class DescribeGroupsResponseV3(Response):
    """One group, with the caller's rights on it."""

    API_KEY = 15
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "groups",
            Array(
                ("error_code", Int16),
                ("group", String("utf-8")),
                ("state", String("utf-8")),
                ("protocol_type", String("utf-8")),
                ("protocol", String("utf-8")),
                (
                    "members",
                    Array(
                        ("member_id", String("utf-8")),
                        ("client_id", String("utf-8")),
                        ("client_host", String("utf-8")),
                        ("member_metadata", Bytes),
                        ("member_assignment", Bytes),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
    )


class DescribeGroupsRequestV3(RequestStruct):
    """aiokafka's own v3 decodes the answer as v2 and loses the rights."""

    API_KEY = 15
    API_VERSION = 3
    RESPONSE_TYPE = DescribeGroupsResponseV3
    SCHEMA = Schema(("groups", Array(String("utf-8"))), ("include_authorized_operations", Boolean))


class GroupRightsRequest(Request[DescribeGroupsRequestV3]):
    """What the caller may do with one group."""

    API_KEY = 15

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, request_struct_class: type[DescribeGroupsRequestV3]) -> DescribeGroupsRequestV3:
        """The request at its one version."""
        return request_struct_class([self._group], True)


class DescribeTransactionsResponseV0(Response):
    """The coordinator's view of each transactional id."""

    API_KEY = 65
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "transactions",
            CompactArray(
                ("error_code", Int16),
                ("transactional_id", CompactString("utf-8")),
                ("state", CompactString("utf-8")),
                ("timeout_ms", Int32),
                ("start_time_ms", Int64),
                ("producer_id", Int64),
                ("producer_epoch", Int16),
                (
                    "topics",
                    CompactArray(
                        ("topic", CompactString("utf-8")),
                        ("partitions", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class DescribeTransactionsRequestV0(RequestStruct):
    """Asked of the coordinator of these ids."""

    FLEXIBLE_VERSION = True
    API_KEY = 65
    API_VERSION = 0
    RESPONSE_TYPE = DescribeTransactionsResponseV0
    SCHEMA = Schema(("transactional_ids", CompactArray(CompactString("utf-8"))), ("tags", TaggedFields))


class TransactionStateRequest(Request[DescribeTransactionsRequestV0]):
    """The state of transactions: `PrepareCommit` is decided, and not yet written into every partition."""

    API_KEY = 65

    def __init__(self, transactional_ids: Sequence[str]) -> None:
        self._transactional_ids = list(transactional_ids)

    def build(self, request_struct_class: type[DescribeTransactionsRequestV0]) -> DescribeTransactionsRequestV0:
        """The request at its one version."""
        return request_struct_class(self._transactional_ids, {})
