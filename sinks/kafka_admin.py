"""What the Kafka sink asks of a cluster beside writing: settings, topics, groups, and the findings of a check."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from aiokafka.protocol.admin import DeleteGroupsRequest, DescribeConfigsRequest
from aiokafka.protocol.transaction import InitProducerIdRequest

from sinks.base import Finding, SinkError, SinkRefused, SinkUnavailable
from sinks.kafka_admin_protocol import CreateTopicRequest, GroupRightsRequest, TransactionStateRequest
from sinks.kafka_client import CoordinatorKind
from sinks.kafka_errors import COORDINATOR_MOVED, RETRIABLE, missing_right, topic_missing
from sinks.kafka_protocol import Code, Operation

if TYPE_CHECKING:
    from sinks.kafka_client import Cluster, Topic
    from sinks.specs import KafkaSinkSpec

_TOPIC, _BROKER = 2, 4
_CREATE_SECONDS = 15.0
_PAUSE = 0.05

TOPIC_SETTINGS = ("max.message.bytes", "segment.bytes", "compression.type", "cleanup.policy", "min.insync.replicas")


async def topic_settings(cluster: Cluster, topic: str) -> dict[str, str]:
    """The topic's effective settings of TOPIC_SETTINGS; empty where the right DescribeConfigs is missing."""
    request = DescribeConfigsRequest([(_TOPIC, topic, list(TOPIC_SETTINGS))])
    return _values(await cluster.send_to_any(request))


async def longest_transaction_seconds(cluster: Cluster) -> float | None:
    """The broker's transaction.max.timeout.ms, None where it may not be read."""
    node = cluster.any_broker
    request = DescribeConfigsRequest([(_BROKER, str(node), ["transaction.max.timeout.ms"])])
    value = _values(await cluster.send(node, request)).get("transaction.max.timeout.ms")
    return None if value is None else int(value) / 1000


def _values(answer: Any) -> dict[str, str]:
    code, _, _, _, entries = answer.resources[0]
    return {} if code else {name: value for name, value, *_ in entries if value is not None}


async def check_transaction_timeout(cluster: Cluster, spec: KafkaSinkSpec) -> None:
    """SinkRefused names both sides when the definition asks for more than the broker allows."""
    longest = await longest_transaction_seconds(cluster)
    if longest is not None and spec.transaction_timeout_seconds > longest:
        raise SinkRefused(
            "transaction_timeout_too_long",
            f"transaction_timeout_seconds is {spec.transaction_timeout_seconds:g}, the broker's "
            f"transaction.max.timeout.ms is {longest * 1000:.0f}: lower the one or raise the other.",
        )


async def create_topic(cluster: Cluster, spec: KafkaSinkSpec) -> Topic:
    """Make the topic as the definition says and wait until its partitions have leaders."""
    settings = spec.topic_settings
    request = CreateTopicRequest(
        spec.topic, settings.partitions, settings.replication_factor, settings.config, int(_CREATE_SECONDS * 1000)
    )
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _CREATE_SECONDS
    while True:
        _, code, message = (await cluster.send_to_any(request)).topics[0]
        if code in {Code.NONE, Code.TOPIC_ALREADY_EXISTS}:
            break
        if code not in {Code.NOT_CONTROLLER, Code.REQUEST_TIMED_OUT} or loop.time() > deadline:
            raise _not_created(cluster, spec.topic, code, message)
        await asyncio.sleep(_PAUSE)
    while True:
        topic = await cluster.describe_topic(spec.topic)
        if topic is not None and topic.partitions and all(one.leader >= 0 for one in topic.partitions.values()):
            return topic
        if loop.time() > deadline:
            raise SinkUnavailable("topic_not_ready", f"topic {spec.topic!r} was created and has no leaders yet.")
        await asyncio.sleep(_PAUSE)


def _not_created(cluster: Cluster, topic: str, code: int, message: str | None) -> SinkError:
    if code in {Code.TOPIC_AUTHORIZATION_FAILED, Code.CLUSTER_AUTHORIZATION_FAILED}:
        return SinkRefused(
            "right_missing",
            f"{cluster.names.principal} lacks the right Create on topic {topic!r}. Grant it with kafka-acls, or "
            "create the topic and set topic_settings.create to false.",
        )
    return SinkRefused(
        "topic_not_created",
        f"topic {topic!r} can not be created with these topic_settings: {message or Code.name_of(code)}",
    )


async def delete_group(cluster: Cluster, group: str) -> bool:
    """Whether the group is gone now; False where we may not delete it: it then expires by itself."""
    node = await cluster.coordinator(CoordinatorKind.GROUP, group)
    _, code = (await cluster.send(node, DeleteGroupsRequest([group]))).results[0]
    return code in {Code.NONE, Code.GROUP_ID_NOT_FOUND}


async def wait_until_written(cluster: Cluster, transactional_id: str) -> None:
    """Wait until a commit that the coordinator has decided is written into every partition, so that readers see it.

    SinkUnavailable when that takes longer than 15 seconds. A broker before Kafka 3.0 is not asked.
    """
    loop, pause = asyncio.get_running_loop(), _PAUSE / 10
    deadline = loop.time() + _CREATE_SECONDS
    while True:
        node = await cluster.coordinator(CoordinatorKind.TRANSACTION, transactional_id)
        try:
            answer = await cluster.send(node, TransactionStateRequest([transactional_id]))
        except SinkRefused as error:
            if error.code == "broker_too_old":
                return
            raise
        code, _, state, *_ = answer.transactions[0]
        if code not in RETRIABLE and state != "PrepareCommit":
            return
        if code in COORDINATOR_MOVED:
            cluster.forget_coordinator(CoordinatorKind.TRANSACTION, transactional_id)
        if loop.time() > deadline:
            raise SinkUnavailable(
                "commit_not_written", f"the last transaction of {transactional_id!r} is not in all partitions yet."
            )
        await asyncio.sleep(pause)


class Check:
    """Findings about one definition; changes nothing in the cluster."""

    def __init__(self, cluster: Cluster, spec: KafkaSinkSpec) -> None:
        self._cluster, self._spec = cluster, spec
        self._findings: list[Finding] = []

    async def run(self) -> list[Finding]:
        """All findings; an error that stops the look is the last of them."""
        pointer = "/sink/bootstrap_servers"
        try:
            await self._cluster.bootstrap()
            self._clear_password()
            pointer = "/sink/topic"
            await self._topic()
            if self._spec.delivery == "exactly_once":
                pointer = "/sink/transactional_id_prefix"
                await self._transactional_id()
                pointer = "/sink/group_prefix"
                await self._group()
                pointer = "/sink/transaction_timeout_seconds"
                await check_transaction_timeout(self._cluster, self._spec)
        except SinkError as error:
            self._note(_pointer(error, pointer), "error", error)
        return self._findings

    def _note(self, pointer: str, severity: str, error: SinkError, hint: str = "") -> None:
        self._findings.append(Finding(pointer, severity, error.code, error.message, hint))

    def _clear_password(self) -> None:
        security = self._spec.security
        if security.protocol == "SASL_PLAINTEXT" and security.mechanism == "PLAIN":
            text = "the password crosses the network in clear text."
            hint = "Use SASL_SSL, or SCRAM-SHA-256 or SCRAM-SHA-512."
            self._findings.append(Finding("/sink/security/protocol", "warning", "password_in_clear", text, hint))

    async def _topic(self) -> None:
        spec, names = self._spec, self._cluster.names
        topic = await self._cluster.describe_topic(spec.topic, rights=True)
        if topic is None:
            if spec.topic_settings.create:
                text = f"topic {spec.topic!r} does not exist and will be created at the start."
                self._findings.append(Finding("/sink/topic", "info", "topic_will_be_created", text))
            else:
                self._note("/sink/topic", "error", topic_missing(names))
            return
        needed = [Operation.WRITE] + [Operation.READ] * (spec.delivery == "exactly_once")
        if not all(operation.allowed(topic.operations) for operation in needed):
            refusal = missing_right(names, Code.TOPIC_AUTHORIZATION_FAILED)
            assert refusal is not None
            self._note("/sink/topic", "error", refusal)
        settings = await topic_settings(self._cluster, spec.topic)
        self._compaction(settings)
        self._replicas(topic, settings)

    def _compaction(self, settings: dict[str, str]) -> None:
        if "compact" not in settings.get("cleanup.policy", ""):
            return
        if self._spec.key is None:
            text = f"topic {self._spec.topic!r} is compacted: it refuses records without a key."
            self._findings.append(
                Finding("/sink/key", "error", "compacted_topic_without_key", text, "Name the key columns in sink.key.")
            )
        else:
            text = f"topic {self._spec.topic!r} is compacted: of rows with the same key only the last one stays."
            self._findings.append(Finding("/sink/topic", "info", "compacted_topic", text))

    def _replicas(self, topic: Topic, settings: dict[str, str]) -> None:
        wanted = int(settings.get("min.insync.replicas", "1"))
        short = [number for number, one in sorted(topic.partitions.items()) if one.in_sync < wanted]
        if short:
            # Newer brokers ask for no more replicas than a partition has, older ones refuse: hence no error.
            text = (
                f"partitions {short[:10]} of topic {topic.name!r} have fewer replicas in sync than "
                f"min.insync.replicas ({wanted}): the broker may refuse records."
            )
            self._findings.append(Finding("/sink/topic", "warning", "not_enough_replicas", text))

    async def _transactional_id(self) -> None:
        """Ask for a producer id with an impossible time-out: the broker looks at the right first, then refuses."""
        names = self._cluster.names
        request = InitProducerIdRequest(names.transactional_id or "", 0)
        node = await self._coordinator(CoordinatorKind.TRANSACTION, names.transactional_id or "")
        code = (await self._cluster.send(node, request)).error_code
        if refusal := missing_right(names, code):
            self._note("/sink/transactional_id_prefix", "error", refusal)

    async def _group(self) -> None:
        names = self._cluster.names
        node = await self._coordinator(CoordinatorKind.GROUP, names.group or "")
        answer = (await self._cluster.send(node, GroupRightsRequest(names.group or ""))).groups[0]
        code, operations = answer[0], answer[-1]
        if code == Code.GROUP_AUTHORIZATION_FAILED or not Operation.READ.allowed(operations):
            refusal = missing_right(names, Code.GROUP_AUTHORIZATION_FAILED)
            assert refusal is not None
            self._note("/sink/group_prefix", "error", refusal)

    async def _coordinator(self, kind: CoordinatorKind, key: str) -> int:
        # The first look makes the broker create its internal topic, which takes a moment.
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _CREATE_SECONDS
        while True:
            try:
                return await self._cluster.coordinator(kind, key)
            except SinkUnavailable:
                if loop.time() > deadline:
                    raise
                await asyncio.sleep(_PAUSE)


def _pointer(error: SinkError, asked: str) -> str:
    by_code = {
        "authentication_failed": "/sink/security",
        "certificate_refused": "/sink/security/ca",
        "security_invalid": "/sink/security",
        "tls_failed": "/sink/security/protocol",
        "destination_refused": "/sink/bootstrap_servers",
    }
    return by_code.get(error.code, asked)
