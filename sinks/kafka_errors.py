"""Kafka's error codes and aiokafka's exceptions as the errors of `sinks.base`; nothing of aiokafka leaves the sink."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from aiokafka.errors import (
    AuthenticationFailedError,
    IllegalSaslStateError,
    IncompatibleBrokerVersion,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

from sinks.base import Fenced, SinkError, SinkRefused, SinkUnavailable, TargetGone
from sinks.kafka_protocol import Code

FENCING = frozenset(
    {
        Code.OUT_OF_ORDER_SEQUENCE_NUMBER,
        Code.INVALID_PRODUCER_EPOCH,
        Code.INVALID_TXN_STATE,
        Code.INVALID_PRODUCER_ID_MAPPING,
        Code.UNKNOWN_PRODUCER_ID,
        Code.PRODUCER_FENCED,
        Code.TRANSACTION_ABORTABLE,
    }
)
"""Every shape of "this producer's transaction is not yours any more": a newer owner, an expired transaction, an
expired transactional id. Which of them, only the store can tell."""

COORDINATOR_MOVED = frozenset({Code.COORDINATOR_NOT_AVAILABLE, Code.NOT_COORDINATOR})

RETRIABLE = COORDINATOR_MOVED | {
    Code.UNKNOWN_TOPIC_OR_PARTITION,
    Code.LEADER_NOT_AVAILABLE,
    Code.NOT_LEADER_OR_FOLLOWER,
    Code.REQUEST_TIMED_OUT,
    Code.COORDINATOR_LOAD_IN_PROGRESS,
    Code.NOT_ENOUGH_REPLICAS,
    Code.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    Code.NOT_CONTROLLER,
    Code.CONCURRENT_TRANSACTIONS,
    Code.KAFKA_STORAGE_ERROR,
    Code.UNSTABLE_OFFSET_COMMIT,
    Code.THROTTLING_QUOTA_EXCEEDED,
}
"""The broker did not do it and may do the very same request later."""

_AUTHENTICATION = (
    AuthenticationFailedError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
    IllegalSaslStateError,
)


@dataclass(frozen=True, slots=True)
class Names:
    """What a message has to name."""

    brokers: str
    topic: str
    group: str | None = None
    transactional_id: str | None = None
    username: str | None = None

    @property
    def principal(self) -> str:
        """Who lacks a right."""
        return f"user {self.username!r}" if self.username else "the anonymous user"


def unreachable(names: Names, doing: str, cause: str) -> SinkUnavailable:
    """The cluster did not answer."""
    return SinkUnavailable(
        "sink_unreachable",
        f"{doing}: bootstrap_servers {names.brokers!r} did not answer: {cause}. "
        "Check that the brokers run and that security.protocol is the listener's.",
    )


def topic_missing(names: Names) -> TargetGone:
    """The topic is not there and nobody asked us to make it."""
    return TargetGone(
        "topic_missing",
        f"topic {names.topic!r} does not exist. Create it, or set topic_settings.create to true.",
    )


def topic_recreated(names: Names, expected: str, found: str) -> TargetGone:
    """Another topic under the same name: what was delivered before is gone."""
    return TargetGone(
        "topic_recreated",
        f"topic {names.topic!r} was deleted and made again (id {expected} became {found}): the rows delivered "
        "before are not in it. Start from the beginning, or PUT a checkpoint to go on from there.",
    )


def missing_right(names: Names, code: int) -> SinkRefused | None:
    """The refusal that names the right, where the code is one of authorization."""
    rights = {
        # Committing an offset, also within a transaction, needs Read on the topic it is for.
        Code.TOPIC_AUTHORIZATION_FAILED: f"{'Write and Read' if names.group else 'Write'} on topic {names.topic!r}",
        Code.GROUP_AUTHORIZATION_FAILED: f"Read on group {names.group!r}",
        Code.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: f"Write on transactional id {names.transactional_id!r}",
        Code.CLUSTER_AUTHORIZATION_FAILED: "IdempotentWrite on the cluster, or Write on the topic",
    }
    if code not in rights:
        return None
    right = rights[Code(code)]
    return SinkRefused("right_missing", f"{names.principal} lacks the right {right}. Grant it with kafka-acls.")


def from_code(names: Names, doing: str, code: int) -> SinkError:
    """What a final error code of the broker means to the runner."""
    if code in FENCING:
        return Fenced(
            "fenced",
            f"{doing}: {Code.name_of(code)} for transactional id {names.transactional_id!r}: another owner opened "
            "this split, or its transaction or id expired at the broker.",
        )
    if code in RETRIABLE and code != Code.UNKNOWN_TOPIC_OR_PARTITION:
        return _still_retriable(names, doing, code)
    return missing_right(names, code) or _refusal(names, doing, code)


def _still_retriable(names: Names, doing: str, code: int) -> SinkUnavailable:
    if code in {Code.NOT_ENOUGH_REPLICAS, Code.NOT_ENOUGH_REPLICAS_AFTER_APPEND}:
        return SinkUnavailable(
            "not_enough_replicas",
            f"{doing}: fewer replicas of topic {names.topic!r} are in sync than its min.insync.replicas asks for.",
        )
    return SinkUnavailable("sink_unavailable", f"{doing}: the broker answers {Code.name_of(code)}.")


def _refusal(names: Names, doing: str, code: int) -> SinkRefused:
    if code == Code.UNKNOWN_TOPIC_OR_PARTITION:
        return topic_missing(names)
    if code in {Code.ILLEGAL_GENERATION, Code.UNKNOWN_MEMBER_ID, Code.FENCED_INSTANCE_ID}:
        return SinkRefused(
            "group_in_use",
            f"{doing}: consumers have joined group {names.group!r}, which keeps this split's position. "
            "Stop them, or choose another group_prefix.",
        )
    if code == Code.INVALID_RECORD:
        return SinkRefused(
            "record_refused",
            f"{doing}: topic {names.topic!r} refuses the records: a compacted topic needs key columns in sink.key.",
        )
    return SinkRefused("sink_refused", f"{doing}: the broker refuses with {Code.name_of(code)}.")


def from_exception(names: Names, doing: str, error: Exception) -> SinkError:
    """What an exception of a connection or of aiokafka means to the runner."""
    if isinstance(error, SinkError):
        return error
    if isinstance(error, KafkaError) and isinstance(error.__cause__, ssl.SSLError):
        # With TLS 1.3 the broker refuses a client's certificate after the handshake, in the stream.
        error = error.__cause__
    if isinstance(error, _AUTHENTICATION):
        return SinkRefused(
            "authentication_failed",
            f"{doing}: the broker does not accept {names.principal} with this security.mechanism and password. "
            "Check security.username, security.password or the credential.",
        )
    if isinstance(error, ssl.SSLError) and not isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return _tls_refusal(doing, error)
    if isinstance(error, (NotImplementedError, IncompatibleBrokerVersion)):
        return SinkRefused("broker_too_old", f"{doing}: the broker is older than Kafka 2.8, which this sink needs.")
    return unreachable(names, doing, _cause(error))


def _tls_refusal(doing: str, error: ssl.SSLError) -> SinkRefused:
    if isinstance(error, ssl.SSLCertVerificationError):
        return SinkRefused(
            "certificate_refused",
            f"{doing}: the broker's certificate is not trusted: {error.verify_message}. "
            "Put its authority into security.ca and use a host name that it certifies.",
        )
    # The reason is there only when OpenSSL gave one.
    reason = getattr(error, "reason", None) or "handshake failed"
    return SinkRefused(
        "tls_failed",
        f"{doing}: no TLS with the broker ({reason}). Check that "
        "security.protocol is the listener's and that it accepts security.certificate.",
    )


def _cause(error: Exception) -> str:
    # Texts of aiokafka are left out: they may quote what the broker or the definition said.
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "the connection was closed" if isinstance(error, (KafkaError, EOFError)) else type(error).__name__
