"""The requests of our own, byte by byte against https://kafka.apache.org/protocol, and what their errors mean."""

from __future__ import annotations

import ssl
import struct

import pytest
from aiokafka.errors import IncompatibleBrokerVersion, KafkaConnectionError, SaslAuthenticationFailed

from sinks.base import Fenced, SinkError, SinkRefused, SinkUnavailable
from sinks.kafka_admin_protocol import CreateTopicRequest, GroupRightsRequest, TransactionStateRequest
from sinks.kafka_errors import FENCING, RETRIABLE, Names, from_code, from_exception
from sinks.kafka_protocol import (
    Code,
    MetadataResponseV10,
    OffsetFetchResponseV7,
    Operation,
    StableOffsetFetchRequest,
    TopicId,
    TopicMetadataRequest,
)

NAMES = Names("b:9092", "orders", "rowferry.j.1.0", "rowferry.j.1.0", "ana")
ID = bytes(range(16))
ANY_VERSION = dict.fromkeys(range(100), (0, 100))


def test_offset_fetch_asks_for_stable_offsets():
    request = StableOffsetFetchRequest("g", "orders", 0).prepare(ANY_VERSION)
    assert (request.API_KEY, request.API_VERSION, request.FLEXIBLE_VERSION) == (9, 7, True)
    assert request.encode() == b"\x02g" + b"\x02" + b"\x07orders" + b"\x02" + struct.pack(">i", 0) + b"\x00\x01\x00"


def test_offset_fetch_answers_with_metadata():
    partition = struct.pack(">iqi", 0, 41, -1) + b"\x04abc" + struct.pack(">h", 88) + b"\x00"
    answer = OffsetFetchResponseV7.decode(
        struct.pack(">i", 0) + b"\x02" + b"\x07orders" + b"\x02" + partition + b"\x00" + struct.pack(">h", 0) + b"\x00"
    )
    assert answer.error_code == 0
    ((topic, partitions, _),) = answer.topics
    assert topic == "orders"
    assert partitions == [(0, 41, -1, "abc", Code.UNSTABLE_OFFSET_COMMIT, {})]


def test_metadata_never_makes_a_topic():
    request = TopicMetadataRequest(["orders"], rights=True).prepare(ANY_VERSION)
    assert (request.API_VERSION, request.FLEXIBLE_VERSION) == (10, True)
    assert request.encode() == b"\x02" + bytes(16) + b"\x07orders\x00" + b"\x00\x00\x01\x00"
    assert TopicMetadataRequest().prepare(ANY_VERSION).encode() == b"\x01\x00\x00\x00\x00"


def test_metadata_tells_the_topics_id_and_rights():
    brokers = b"\x02" + struct.pack(">i", 7) + b"\x05host" + struct.pack(">i", 9092) + b"\x00\x00"
    one = struct.pack(">hiii", 0, 0, 7, 4) + (b"\x02" + struct.pack(">i", 7)) * 2 + b"\x01\x00"
    topic = struct.pack(">h", 0) + b"\x07orders" + ID + b"\x00" + b"\x02" + one + struct.pack(">i", 1 << 4) + b"\x00"
    text = struct.pack(">i", 0) + brokers + b"\x00" + struct.pack(">i", 7) + b"\x02" + topic
    answer = MetadataResponseV10.decode(text + struct.pack(">i", -(2**31)) + b"\x00")
    assert answer.brokers == [(7, "host", 9092, None, {})]
    ((code, name, topic_id, internal, partitions, operations, _),) = answer.topics
    assert (code, name, topic_id, internal) == (0, "orders", "AAECAwQFBgcICQoLDA0ODw", False)
    assert partitions == [(0, 0, 7, 4, [7], [7], [], {})]
    assert Operation.WRITE.allowed(operations)
    assert not Operation.READ.allowed(operations)


def test_a_broker_that_does_not_tell_rights_allows_all():
    assert Operation.WRITE.allowed(-(2**31))


def test_a_topic_id_is_written_as_kafkas_tools_write_it():
    assert TopicId.encode("AAECAwQFBgcICQoLDA0ODw") == ID


def test_create_topic_can_leave_the_replication_to_the_broker():
    request = CreateTopicRequest("orders", 3, -1, {"b": "2", "a": "1"}, 5000).prepare(ANY_VERSION)
    assert request.API_VERSION == 4
    configs = struct.pack(">i", 2) + b"\x00\x01a\x00\x011\x00\x01b\x00\x012"
    topic = b"\x00\x06orders" + struct.pack(">ih", 3, -1) + struct.pack(">i", 0) + configs
    assert request.encode() == struct.pack(">i", 1) + topic + struct.pack(">i", 5000) + b"\x00"


def test_group_rights_are_asked_for():
    assert GroupRightsRequest("g").prepare(ANY_VERSION).encode() == struct.pack(">i", 1) + b"\x00\x01g" + b"\x01"


def test_transaction_states_are_asked_for_by_id():
    request = TransactionStateRequest(["ab"]).prepare(ANY_VERSION)
    assert (request.API_KEY, request.API_VERSION, request.FLEXIBLE_VERSION) == (65, 0, True)
    assert request.encode() == b"\x02\x03ab\x00"


def test_an_older_broker_is_refused_in_words():
    with pytest.raises(NotImplementedError) as caught:
        StableOffsetFetchRequest("g", "orders", 0).prepare({9: (0, 5)})
    error = from_exception(NAMES, "asking", caught.value)
    assert isinstance(error, SinkRefused)
    assert (error.code, "Kafka 2.8" in error.message) == ("broker_too_old", True)


@pytest.mark.parametrize("code", sorted(FENCING))
def test_every_shape_of_fencing_is_fenced(code: int):
    error = from_code(NAMES, "committing", code)
    assert isinstance(error, Fenced)
    assert "rowferry.j.1.0" in error.message


@pytest.mark.parametrize("code", sorted(RETRIABLE - {Code.UNKNOWN_TOPIC_OR_PARTITION}))
def test_what_time_mends_is_unavailable(code: int):
    assert isinstance(from_code(NAMES, "sending", code), SinkUnavailable)


@pytest.mark.parametrize(
    ("code", "refusal", "said"),
    [
        (Code.UNKNOWN_TOPIC_OR_PARTITION, "topic_missing", "topic_settings.create"),
        (Code.TOPIC_AUTHORIZATION_FAILED, "right_missing", "Write and Read on topic 'orders'"),
        (Code.GROUP_AUTHORIZATION_FAILED, "right_missing", "Read on group 'rowferry.j.1.0'"),
        (Code.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "right_missing", "transactional id 'rowferry.j.1.0'"),
        (Code.CLUSTER_AUTHORIZATION_FAILED, "right_missing", "IdempotentWrite"),
        (Code.UNKNOWN_MEMBER_ID, "group_in_use", "group_prefix"),
        (Code.INVALID_RECORD, "record_refused", "sink.key"),
        (12345, "sink_refused", "error 12345"),
    ],
)
def test_what_somebody_has_to_mend_is_refused_with_the_remedy(code: int, refusal: str, said: str):
    error = from_code(NAMES, "sending", code)
    assert isinstance(error, SinkRefused)
    assert error.code == refusal
    assert said in error.message


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (TimeoutError(), SinkUnavailable, "sink_unreachable"),
        (ConnectionRefusedError(111, "Connection refused"), SinkUnavailable, "sink_unreachable"),
        (KafkaConnectionError("user:secret"), SinkUnavailable, "sink_unreachable"),
        (ssl.SSLEOFError(8, "EOF"), SinkUnavailable, "sink_unreachable"),
        (ssl.SSLError(1, "alert"), SinkRefused, "tls_failed"),
        (SaslAuthenticationFailed("secret"), SinkRefused, "authentication_failed"),
        (IncompatibleBrokerVersion(), SinkRefused, "broker_too_old"),
        (AssertionError("secret"), SinkUnavailable, "sink_unreachable"),
    ],
)
def test_no_exception_of_a_library_leaves_the_sink(error: Exception, kind: type[SinkError], code: str):
    translated = from_exception(NAMES, "connecting", error)
    assert isinstance(translated, kind)
    assert translated.code == code
    assert "secret" not in translated.message


def test_a_certificate_refused_in_the_stream_is_still_seen():
    error = KafkaConnectionError("closed")
    error.__cause__ = ssl.SSLError(1, "alert bad certificate")
    assert from_exception(NAMES, "connecting", error).code == "tls_failed"
