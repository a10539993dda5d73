"""The sinks as a job's definition writes them: what the API validates, stores and documents."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]


class SinkSpec(BaseModel):
    """Base of every sink definition: unknown fields are errors, values are never coerced from other types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class KafkaSecurity(SinkSpec):
    """How to connect: `PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`, with PEM texts for TLS."""

    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    username: str | None = None
    password: SecretStr | None = None
    ca: str | None = Field(default=None, description="PEM of the authorities to trust")
    certificate: str | None = Field(default=None, description="PEM of the client certificate chain")
    private_key: SecretStr | None = Field(default=None, description="PEM of the client key, not encrypted")

    @model_validator(mode="after")
    def _complete(self) -> KafkaSecurity:
        sasl = self.protocol.startswith("SASL")
        if sasl and not self.mechanism:
            raise ValueError(f"protocol {self.protocol} needs mechanism: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")
        if sasl and not self.username:
            raise ValueError(f"protocol {self.protocol} needs username")
        if not sasl and (self.mechanism or self.username or self.password):
            raise ValueError(f"mechanism, username and password need a SASL protocol, not {self.protocol}")
        return self


class TopicSettings(SinkSpec):
    """Create the topic when it is missing, with these settings; an existing topic is never changed."""

    create: bool = False
    partitions: int = Field(default=1, ge=1, le=10_000)
    replication_factor: int = Field(default=-1, ge=-1, le=32_767, description="-1: the broker's default")
    config: dict[str, str] = Field(default_factory=dict)


def _brokers(value: str) -> str:
    for broker in value.split(","):
        host, _, port = broker.strip().rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"{broker.strip()!r} is not host:port; give host:port, several separated by commas")
    return value


def _topic(value: str) -> str:
    if not re.fullmatch(r"[a-zA-Z0-9._-]{1,249}", value) or value in {".", ".."}:
        raise ValueError("a topic has 1 to 249 letters, digits, dots, underscores or hyphens")
    return value


class KafkaSinkSpec(SinkSpec):
    """Rows as records of one topic."""

    kind: Literal["kafka"]
    bootstrap_servers: Annotated[str, AfterValidator(_brokers)]
    topic: Annotated[str, AfterValidator(_topic)]
    key: list[str] | None = Field(default=None, min_length=1, description="columns of the message key")
    headers: dict[str, str] = Field(default_factory=dict, description="constant headers of every record")
    delivery: Literal["exactly_once", "at_least_once"] = "exactly_once"
    compression: Compression = "none"
    topic_settings: TopicSettings = TopicSettings()
    security: KafkaSecurity = KafkaSecurity()
    credential: str | None = Field(default=None, description="name of a stored credential")
    transaction_timeout_seconds: float = Field(default=60.0, ge=10, le=900)
    transactional_id_prefix: str = Field(default="rowferry", pattern=r"^[A-Za-z0-9._-]{1,100}$")
    group_prefix: str = Field(default="rowferry", pattern=r"^[A-Za-z0-9._-]{1,100}$")

    @model_validator(mode="after")
    def _key_pair(self) -> KafkaSinkSpec:
        """A private key may come from a stored credential."""
        certificate, private_key = self.security.certificate, self.security.private_key
        if certificate is None and private_key is not None:
            raise ValueError("security.private_key needs security.certificate")
        if certificate is not None and private_key is None and self.credential is None:
            raise ValueError("security.certificate needs security.private_key, or a credential that holds it")
        return self


class FileSinkSpec(SinkSpec):
    """Rows as files below the account's own folder."""

    kind: Literal["file"]
    path: str = Field(min_length=1, max_length=1024, description="folder, relative to the account's folder")


class DonothingSinkSpec(SinkSpec):
    """Rows are read, counted and dropped."""

    kind: Literal["donothing"]


class FormatSpec(SinkSpec):
    """How a row is written. Kafka takes only `compression: none` here: its batches have `sink.compression`."""

    kind: Literal["json"] = "json"
    compression: Literal["none", "gzip", "zstd"] = "none"


AnySinkSpec = Annotated[KafkaSinkSpec | FileSinkSpec | DonothingSinkSpec, Field(discriminator="kind")]
