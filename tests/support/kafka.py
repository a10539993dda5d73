"""A real Apache Kafka (KRaft, one node) on free loopback ports, with a listener for a fault proxy."""

from __future__ import annotations

import base64
import subprocess
import uuid
from typing import TYPE_CHECKING

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from tests.support.jars import KAFKA, LOGGING, jars, java
from tests.support.ports import LOOPBACK, free_port
from tests.support.processes import ChildProcess
from tests.support.server import Server

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_JVM = ("-Xms256m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_READY_SECONDS = 90.0
_LOG4J = """\
<Configuration status="error">
  <Appenders><Console name="out"><PatternLayout pattern="%d{ISO8601} %p %c %m%n"/></Console></Appenders>
  <Loggers>
    <Logger name="org.apache.kafka.coordinator.transaction" level="info"/>
    <Root level="warn"><AppenderRef ref="out"/></Root>
  </Loggers>
</Configuration>
"""


class KafkaServer(Server):
    """
    One broker and controller in one process, its data in a folder that is removed at `close`.

    Two addresses: `bootstrap` talks to the broker; clients of `proxied_bootstrap` are sent through whatever
    listens on `proxy_port` (a FaultProxy whose target is `proxied_port`). A start takes 2 to 4 s.
    """

    def __init__(
        self,
        *,
        folder: Path | None = None,
        transaction_max_timeout_ms: int = 900_000,
        auto_create_topics: bool = False,
        message_max_bytes: int = 1_048_588,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__("Kafka", folder)
        self.port, self.controller_port = free_port(), free_port()
        self.proxied_port, self.proxy_port = free_port(), free_port()
        self.cluster_id = _cluster_id()
        self._settings = {
            "transaction.max.timeout.ms": str(transaction_max_timeout_ms),
            "auto.create.topics.enable": str(auto_create_topics).lower(),
            "message.max.bytes": str(message_max_bytes),
            **(settings or {}),
        }

    @property
    def bootstrap(self) -> str:
        """host:port of the broker itself."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def proxied_bootstrap(self) -> str:
        """host:port under which the broker is advertised to clients that come through the proxy."""
        return f"{LOOPBACK}:{self.proxy_port}"

    @property
    def log(self) -> Path:
        """The broker's log."""
        return self.folder / "kafka.log"

    def launch(self) -> None:
        """Start the program and return before it is ready."""
        classpath = self._prepare()
        if self._process is None:
            command: list[str | Path] = [
                java(),
                *_JVM,
                "-cp",
                classpath,
                "kafka.Kafka",
                self.folder / "server.properties",
            ]
            self._process = ChildProcess(f"kafka:{self.port}", command, log=self.log, cwd=self.folder)
        self._process.launch()

    def wait_ready_blocking(self) -> None:
        """Until every partition has a leader."""
        self.process.wait_ready(self._ready, _READY_SECONDS)

    def admin(self) -> AdminClient:
        """A client on the direct address; its calls block."""
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0, "socket.timeout.ms": 10_000})

    def create_topic(
        self, name: str | None = None, *, partitions: int = 1, config: Mapping[str, str] | None = None
    ) -> str:
        """Make a topic, wait until its partitions have leaders, and return its name."""
        name = name or f"topic-{uuid.uuid4().hex[:12]}"
        admin = self.admin()
        topic = NewTopic(name, num_partitions=partitions, replication_factor=1, config=dict(config or {}))
        admin.create_topics([topic], operation_timeout=10)[name].result(15)
        self.process.wait_ready(lambda: self._has_leaders(admin, name, partitions), 15)
        return name

    def delete_topic(self, name: str) -> None:
        """Delete a topic and wait until the broker knows it no more."""
        admin = self.admin()
        admin.delete_topics([name], operation_timeout=10)[name].result(15)
        self.process.wait_ready(lambda: name not in admin.list_topics(timeout=5).topics, 15)

    @staticmethod
    def _has_leaders(admin: AdminClient, name: str, partitions: int) -> bool:
        topic = admin.list_topics(timeout=5).topics.get(name)
        return (
            topic is not None
            and len(topic.partitions) == partitions
            and all(partition.leader != -1 for partition in topic.partitions.values())
        )

    def _prepare(self) -> str:
        """Write the configuration and format the data folder, once; returns the class path."""
        paths = [self.folder, *jars(KAFKA), *jars(LOGGING)]
        classpath = ":".join(str(path) for path in paths)
        properties = self.folder / "server.properties"
        if properties.exists():
            return classpath
        (self.folder / "log4j2.xml").write_text(_LOG4J)
        draft = properties.with_suffix(".draft")
        draft.write_text("".join(f"{name}={value}\n" for name, value in self._properties().items()))
        command: list[str | Path] = [
            *(java(), *_JVM, "-cp", classpath, "kafka.tools.StorageTool", "format", "--standalone"),
            *("-t", self.cluster_id, "-c", draft),
        ]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            start_new_session=True,  # a Ctrl-C at the terminal is ours to handle
        )
        if done.returncode:
            raise RuntimeError(f"formatting Kafka's data folder failed\n{done.stdout}\n{done.stderr}")
        draft.replace(properties)
        return classpath

    def _properties(self) -> dict[str, str]:
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "listeners": f"PLAINTEXT://{LOOPBACK}:{self.port},PROXIED://{LOOPBACK}:{self.proxied_port},"
            f"CONTROLLER://{LOOPBACK}:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{self.port},PROXIED://{LOOPBACK}:{self.proxy_port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.bootstrap.servers": f"{LOOPBACK}:{self.controller_port}",
            "log.dirs": str(self.folder / "data"),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "share.coordinator.state.topic.num.partitions": "4",
            "group.initial.rebalance.delay.ms": "0",
            "log.cleaner.dedupe.buffer.size": "16777216",
            # Compacted topics are looked at each second, not every fifteen.
            "log.cleaner.backoff.ms": "1000",
            # A restart after SIGKILL waits for the old session's end: 6 s instead of 12.
            "broker.session.timeout.ms": "2000",
            "broker.heartbeat.interval.ms": "500",
            **self._settings,
        }

    def _ready(self) -> bool:
        if not self.process.listens_on(self.port) or not self.process.listens_on(self.proxied_port):
            return False
        try:
            metadata = self.admin().list_topics(timeout=3)
        except KafkaException:
            return False
        if metadata.cluster_id != self.cluster_id:
            raise RuntimeError(f"port {self.port} is cluster {metadata.cluster_id}, not ours")
        leaders = [p.leader for topic in metadata.topics.values() for p in topic.partitions.values()]
        return bool(metadata.brokers) and -1 not in leaders


def _cluster_id() -> str:
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not text.startswith("-"):  # Kafka's tool would take it for an option
            return text
