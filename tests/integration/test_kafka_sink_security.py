"""TLS, SASL and rights of the Kafka sink, against a broker that really has them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from pydantic import SecretStr

from sinks.base import SinkError, SinkRefused
from tests.support.authority import Authority
from tests.support.kafka import KafkaServer
from tests.support.kafka_rows import OWNER, deliver, kafka_sink, read_settled, values
from tests.support.ports import free_port
from tests.support.topics import read_topic

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sinks.base import Writer

pytestmark = pytest.mark.kafka
SECRET = "s3cret-of-ana"


class SecureKafka(KafkaServer):
    """Beside the open listener (a super user): one with SASL, one with TLS, one whose certificate names another."""

    def __init__(self, authority: Authority) -> None:
        super().__init__()
        self.authority = authority
        self.ports = {"SASL": free_port(), "TLS": free_port(), "ALIEN": free_port()}

    def at(self, listener: str) -> str:
        return f"127.0.0.1:{self.ports[listener]}"

    def _properties(self) -> dict[str, str]:
        made = super()._properties()
        more = "".join(f",{name}://{self.at(name)}" for name in self.ports)
        certificate, key = self.authority.issue("broker")
        alien, alien_key = self.authority.issue("broker", address="127.0.0.9")
        plain = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_ana="{SECRET}";'
        return made | {
            "listeners": made["listeners"] + more,
            "advertised.listeners": made["advertised.listeners"] + more,
            "listener.security.protocol.map": made["listener.security.protocol.map"]
            + ",SASL:SASL_PLAINTEXT,TLS:SSL,ALIEN:SSL",
            "listener.name.sasl.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            "listener.name.sasl.plain.sasl.jaas.config": plain,
            **{
                f"listener.name.sasl.scram-sha-{bits}.sasl.jaas.config": "org.apache.kafka.common.security.scram."
                "ScramLoginModule required;"
                for bits in (256, 512)
            },
            **_pem("tls", certificate, key, self.authority.pem),
            "listener.name.tls.ssl.client.auth": "required",
            **_pem("alien", alien, alien_key, self.authority.pem),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS;User:CN=client",
        }


def _pem(listener: str, certificate: str, key: str, trusted: str) -> dict[str, str]:
    def one_line(text: str) -> str:
        return text.replace("\n", "\\n")

    prefix = f"listener.name.{listener}.ssl"
    return {
        f"{prefix}.keystore.type": "PEM",
        f"{prefix}.keystore.certificate.chain": one_line(certificate),
        f"{prefix}.keystore.key": one_line(key),
        f"{prefix}.truststore.type": "PEM",
        f"{prefix}.truststore.certificates": one_line(trusted),
    }


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def server(authority: Authority) -> Iterator[SecureKafka]:
    made = SecureKafka(authority)
    try:
        made.start()
        admin = made.admin()
        for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
            info = ScramCredentialInfo(mechanism, 4096)
            upsertion = UserScramCredentialUpsertion("ana", info, SECRET.encode())
            for done in admin.alter_user_scram_credentials([upsertion]).values():
                done.result(15)
        yield made
    finally:
        made.close()


@pytest.fixture
def topic(server: SecureKafka) -> Iterator[str]:
    yield server.create_topic()
    admin = server.admin()
    for done in admin.delete_acls([_any_acl()]).values():
        done.result(15)


def _any_acl():
    from confluent_kafka.admin import AclBindingFilter

    return AclBindingFilter(
        ResourceType.ANY, None, ResourcePatternType.ANY, None, None, AclOperation.ANY, AclPermissionType.ANY
    )


def grant(server: SecureKafka, *rights: tuple[ResourceType, str, AclOperation]) -> None:
    bindings = [
        AclBinding(kind, name, ResourcePatternType.PREFIXED, "User:ana", "*", operation, AclPermissionType.ALLOW)
        for kind, name, operation in rights
    ]
    admin = server.admin()
    for done in admin.create_acls(bindings).values():
        done.result(15)


def sasl(server: SecureKafka, topic: str, mechanism: str = "PLAIN", password: str = SECRET, **changes: object):
    security = {
        "protocol": "SASL_PLAINTEXT",
        "mechanism": mechanism,
        "username": "ana",
        "password": SecretStr(password),
    }
    return kafka_sink(server.at("SASL"), topic, security=security, **changes)


def everything(topic: str) -> list[tuple[ResourceType, str, AclOperation]]:
    return [
        (ResourceType.TOPIC, topic, AclOperation.WRITE),
        (ResourceType.TRANSACTIONAL_ID, "rowferry.", AclOperation.WRITE),
        (ResourceType.GROUP, "rowferry.", AclOperation.READ),
        (ResourceType.TOPIC, topic, AclOperation.READ),
    ]


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_a_user_with_the_four_rights_delivers(server: SecureKafka, topic: str, mechanism: str):
    grant(server, *everything(topic))
    sink = sasl(server, topic, mechanism)
    assert [f.code for f in await sink.check() if f.severity == "error"] == []
    await sink.prepare_target()
    writer = sink.writer(OWNER)
    await writer.open()
    assert await writer.visible([]) is None
    await writer.anchor(0)
    await deliver(writer, 1, values(1, 10))
    await writer.close()
    assert [record.value for record in await read_settled(server, topic)] == values(1, 10)
    await sink.clean_up([OWNER])  # the group may not be deleted by this user: it is left to expire


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
async def test_a_wrong_password_is_refused_and_never_told(
    server: SecureKafka, topic: str, mechanism: str, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    sink = sasl(server, topic, mechanism, password="wr0ng-passw0rd")
    writer = sink.writer(OWNER)
    with pytest.raises(SinkRefused) as caught:
        await writer.open()
    await writer.close()
    assert caught.value.code == "authentication_failed"
    assert "'ana'" in caught.value.message
    findings = await sink.check()
    assert [(f.pointer, f.code) for f in findings] == [("/sink/security", "authentication_failed")]
    told = caplog.text + repr(caught.value) + repr(findings) + repr(sink.spec)
    assert "wr0ng-passw0rd" not in told


async def test_a_right_password_is_not_logged_either(server: SecureKafka, topic: str, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    await sasl(server, topic).check()
    assert SECRET not in caplog.text


async def test_a_password_in_clear_text_is_a_warning(server: SecureKafka, topic: str):
    grant(server, *everything(topic))
    found = await sasl(server, topic).check()
    assert [(f.severity, f.code) for f in found] == [("warning", "password_in_clear")]
    assert await sasl(server, topic, "SCRAM-SHA-512").check() == []


@pytest.mark.parametrize(
    ("missing", "pointer", "named"),
    [
        (0, "/sink/topic", "Write and Read on topic"),
        (3, "/sink/topic", "Write and Read on topic"),
        (1, "/sink/transactional_id_prefix", "Write on transactional id 'rowferry."),
        (2, "/sink/group_prefix", "Read on group 'rowferry."),
    ],
)
async def test_the_missing_right_is_named_by_the_check_and_by_the_writer(
    server: SecureKafka, topic: str, missing: int, pointer: str, named: str
):
    rights = everything(topic)
    kind, name, _ = rights.pop(missing)
    # Describe alone lets us see the thing, and is not enough to write.
    grant(server, *rights, (kind, name, AclOperation.DESCRIBE))
    sink = sasl(server, topic, "SCRAM-SHA-256")
    errors = [f for f in await sink.check() if f.severity == "error"]
    assert [(f.pointer, f.code) for f in errors] == [(pointer, "right_missing")]
    assert named in errors[0].message
    assert "'ana'" in errors[0].message
    writer = sink.writer(OWNER)
    with pytest.raises(SinkRefused) as caught:
        await open_and_deliver(writer)
    assert caught.value.code == "right_missing"
    assert named in caught.value.message
    await writer.discard()
    await writer.close()
    assert read_topic(server.bootstrap, topic) == []


async def test_a_topic_that_may_not_be_seen_or_made(server: SecureKafka):
    sink = sasl(server, "hidden", topic_settings={"create": True})
    with pytest.raises(SinkRefused) as caught:
        await sink.prepare_target()
    assert caught.value.code == "right_missing"


async def open_and_deliver(writer: Writer) -> None:
    await writer.open()
    await deliver(writer, 1, values(1, 10))


def tls(server: SecureKafka, topic: str, listener: str, **security: object):
    return kafka_sink(server.at(listener), topic, security={"protocol": "SSL"} | security)


async def test_tls_with_a_client_certificate(server: SecureKafka, authority: Authority, topic: str):
    certificate, key = authority.issue("client")
    sink = tls(server, topic, "TLS", ca=authority.pem, certificate=certificate, private_key=SecretStr(key))
    assert await sink.check() == []
    writer = sink.writer(OWNER)
    await writer.open()
    await deliver(writer, 1, values(1, 10))
    await writer.close()
    assert [record.value for record in await read_settled(server, topic)] == values(1, 10)
    await sink.clean_up([OWNER])


@pytest.mark.parametrize(
    ("listener", "trusted", "code", "said"),
    [
        ("ALIEN", "ours", "certificate_refused", "127.0.0.1"),
        ("TLS", "other", "certificate_refused", "security.ca"),
        ("TLS", "default", "certificate_refused", "security.ca"),
        ("TLS", "ours", "tls_failed", "security.certificate"),
    ],
)
async def test_tls_that_is_refused_says_by_whom(
    server: SecureKafka, authority: Authority, topic: str, listener: str, trusted: str, code: str, said: str
):
    pem = {"ours": authority.pem, "other": Authority().pem, "default": None}[trusted]
    writer = tls(server, topic, listener, ca=pem).writer(OWNER)
    with pytest.raises(SinkRefused) as caught:
        await writer.open()
    await writer.close()
    assert caught.value.code == code
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("security", "said"),
    [
        ({"ca": "no pem"}, "security.ca"),
        ({"certificate": "no pem", "private_key": SecretStr("the-k3y")}, "security.private_key"),
    ],
)
async def test_a_pem_that_can_not_be_read_is_named(
    server: SecureKafka, topic: str, security: dict[str, object], said: str
):
    with pytest.raises(SinkRefused) as caught:
        await tls(server, topic, "TLS", **security).writer(OWNER).open()
    assert caught.value.code == "security_invalid"
    assert said in caught.value.message
    assert "the-k3y" not in caught.value.message


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL"])
async def test_the_wrong_protocol_for_a_listener_is_an_error_in_time(server: SecureKafka, topic: str, protocol: str):
    at = server.at("SASL") if protocol == "PLAINTEXT" else server.bootstrap
    writer = kafka_sink(at, topic, security={"protocol": protocol}).writer(OWNER)
    with pytest.raises(SinkError) as caught:
        await writer.open()
    await writer.close()
    assert "security.protocol" in caught.value.message
