"""The sinks as a job's definition writes them: what the API validates, stores and documents."""

from __future__ import annotations

import re
import ssl
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, model_validator

from sinks import hdfs_address, naming
from sinks.s3_prefix import check_prefix

Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]


class SinkSpec(BaseModel):
    """Base of every sink definition: unknown fields are errors, values are never coerced from other types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


SECRETS_APART: Final = "secrets_apart"
"""Key of the validation context: what is looked at is a stored definition, whose secrets lie elsewhere."""


def _holds_secrets(info: ValidationInfo) -> bool:
    return not (info.context or {}).get(SECRETS_APART)


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
    def _key_pair(self, info: ValidationInfo) -> KafkaSinkSpec:
        """A private key may come from a stored credential."""
        certificate, private_key = self.security.certificate, self.security.private_key
        if certificate is None and private_key is not None:
            raise ValueError("security.private_key needs security.certificate")
        if certificate is not None and private_key is None and self.credential is None and _holds_secrets(info):
            raise ValueError("security.certificate needs security.private_key, or a credential that holds it")
        return self


class FileSinkSpec(SinkSpec):
    """Rows as files below the account's own folder."""

    kind: Literal["file"]
    path: str = Field(
        min_length=1,
        max_length=1024,
        description="folder, relative to the account's; may hold {job}, {job_id}, {run}, {generation}, {date:%Y/%m/%d}",
    )


def _search_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        known = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    # The value is not shown: it may hold a password.
    if not known or any(character.isspace() for character in value):
        raise ValueError("give http:// or https://, host, and port where it is not the scheme's own")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a url here holds no user and password; give them in username and password, or in api_key")
    if parts.query or parts.fragment:
        raise ValueError("a url here has no query and no fragment; remove what follows ? or #")
    return value.rstrip("/")


def _index_name(value: str) -> str:
    if len(value.encode()) > 200 or not re.fullmatch(r"[^\s\\/*?\"<>|,#:A-Z._+-][^\s\\/*?\"<>|,#:A-Z]*", value):
        raise ValueError(
            'an index has 1 to 200 bytes, no capital letter, no blank and none of \\ / * ? " < > | , # : and does '
            "not begin with a dot, an underscore, a hyphen or a plus sign"
        )
    return value


def _authorities(value: str) -> str:
    try:
        ssl.create_default_context(cadata=value)
    except (ssl.SSLError, ValueError) as error:
        raise ValueError("no certificate can be read from it; give the PEM text of the authorities to trust") from error
    return value


class ElasticsearchSinkSpec(SinkSpec):
    """Rows as documents of one index of Elasticsearch 8 or OpenSearch, `_id` is the row's key."""

    kind: Literal["elasticsearch"]
    url: Annotated[str, AfterValidator(_search_url)]
    index: Annotated[str, AfterValidator(_index_name)] = Field(description="with strategy `replace` the alias")
    strategy: Literal["incremental", "replace"] = "incremental"
    staging_prefix: Annotated[str | None, AfterValidator(lambda value: value and _index_name(value))] = Field(
        default=None, description="with strategy `replace`: generations go to `<staging_prefix>-<index>-<generation>`"
    )
    pipeline: str | None = Field(default=None, min_length=1, description="ingest pipeline that every document takes")
    pipeline_definition: dict[str, Any] | None = Field(
        default=None, description="an ingest pipeline of the job's own, kept by the server as long as the job is there"
    )
    id: list[str] | None = Field(
        default=None, min_length=1, max_length=8, description="of source.key, the columns of `_id`; all if left out"
    )
    routing: str | None = Field(default=None, min_length=1, description="column whose text routes a document")
    mapping: dict[str, dict[str, Any]] | None = Field(
        default=None, description="`mappings` and `settings` of an index that the job creates"
    )
    username: str | None = Field(default=None, min_length=1)
    password: SecretStr | None = None
    api_key: SecretStr | None = Field(default=None, description="as the server gave it, encoded")
    ca: Annotated[str | None, AfterValidator(lambda value: value and _authorities(value))] = Field(
        default=None, description="PEM of the authorities to trust"
    )
    credential: str | None = Field(default=None, description="name of a stored credential")

    @model_validator(mode="after")
    def _complete(self, info: ValidationInfo) -> ElasticsearchSinkSpec:
        if self.mapping is not None and not self.mapping.keys() <= {"mappings", "settings"}:
            raise ValueError('mapping holds "mappings" and "settings" only; put "properties" below "mappings"')
        if self.pipeline is not None and self.pipeline_definition is not None:
            raise ValueError("pipeline names one that is there; leave it out, or pipeline_definition")
        if self.api_key is not None and (self.username is not None or self.password is not None):
            raise ValueError("api_key stands alone; leave out username and password, or api_key")
        if self.password is not None and self.username is None:
            raise ValueError("password needs username")
        if self.username is not None and self.password is None and self.credential is None and _holds_secrets(info):
            raise ValueError("username needs password, or a credential that holds it")
        if self.ca is not None and not self.url.startswith("https:"):
            raise ValueError("ca needs a url with https://")
        return self


def _endpoint_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        known = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    # The value is not shown: it may hold a password.
    if not known or any(character.isspace() for character in value):
        raise ValueError("give http:// or https://, host, and port where it is not the scheme's own")
    if parts.username is not None or parts.query or parts.fragment or parts.path.strip("/"):
        raise ValueError("give scheme, host and port only; bucket, prefix and keys have fields of their own")
    return value.rstrip("/")


def _bucket(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]", value) or ".." in value:
        raise ValueError(
            "a bucket has 3 to 255 letters, digits, dots, hyphens or underscores, letters or digits at both ends, and "
            "is named without s3:// and without a path"
        )
    return value


def _tags(value: dict[str, str]) -> dict[str, str]:
    for name, text in value.items():
        if not 1 <= len(name) <= 128 or len(text) > 256 or not re.fullmatch(r"[\w\s+\-=.:/@]*", name + text):
            raise ValueError(
                f"tag {name[:40]!r}: a name has 1 to 128, a value up to 256 letters, digits, blanks or + - = . _ : / @"
            )
    return value


class S3Encryption(SinkSpec):
    """How the store encrypts what it keeps."""

    algorithm: Literal["AES256", "aws:kms", "aws:kms:dsse"]
    kms_key_id: str | None = Field(default=None, min_length=1, max_length=2048)

    @model_validator(mode="after")
    def _key_of_kms(self) -> S3Encryption:
        if self.kms_key_id is not None and self.algorithm == "AES256":
            raise ValueError("kms_key_id needs algorithm aws:kms or aws:kms:dsse")
        return self


class S3SinkSpec(SinkSpec):
    """Rows as objects of one bucket, of S3 or of a store that speaks its protocol."""

    kind: Literal["s3"]
    bucket: Annotated[str, AfterValidator(_bucket)]
    prefix: Annotated[str, AfterValidator(check_prefix)] = Field(
        default="", description="may hold {job}, {job_id}, {run}, {generation} and {date:%Y/%m/%d}"
    )
    region: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="us-east-1 if left out")
    endpoint_url: Annotated[str, AfterValidator(_endpoint_url)] | None = Field(
        default=None, description="of another store than AWS"
    )
    path_style: bool | None = Field(
        default=None, description="bucket in the path instead of the host; left out: with an endpoint_url"
    )
    access_key_id: str | None = Field(default=None, pattern=r"^[\x21-\x7e]{1,256}$")
    secret_access_key: SecretStr | None = None
    session_token: SecretStr | None = Field(default=None, description="of temporary keys")
    credential: str | None = Field(default=None, description="name of a stored credential")
    name: Annotated[str, AfterValidator(naming.check_own_name)] | None = Field(
        default=None,
        description="how objects are called, for jobs with one split: holds {job_id}, then {number}, which counts over "
        "the life of the job",
    )
    file_password: SecretStr | None = Field(
        default=None, description="of archives (format.compression zip): they are encrypted with AES-256"
    )
    storage_class: str | None = Field(default=None, pattern=r"^[A-Z0-9_]{1,64}$")
    encryption: S3Encryption | None = None
    tags: Annotated[dict[str, str], AfterValidator(_tags)] = Field(default_factory=dict, max_length=10)

    @model_validator(mode="after")
    def _names_of_the_job(self) -> S3SinkSpec:
        if self.name is not None and "{job_id}" not in self.name.partition("{number}")[0]:
            raise ValueError("name must hold {job_id}: by it the uploads of a job are told from those of others")
        return self


class HdfsSinkSpec(SinkSpec):
    """Rows as files of one HDFS folder, over WebHDFS."""

    kind: Literal["hdfs"]
    url: Annotated[str, AfterValidator(hdfs_address.check_url)] = Field(
        max_length=2048, description="HTTP addresses of the NameNodes, separated by commas: http://nn1:9870,nn2:9870"
    )
    path: Annotated[str, AfterValidator(hdfs_address.check_path)] = Field(
        min_length=1, max_length=1024, description="absolute folder; made where it is missing"
    )
    user: str = Field(
        default="rowferry", pattern=r"^[A-Za-z_][A-Za-z0-9._-]{0,254}[$]?$", description="who writes, by name alone"
    )
    name: Annotated[str, AfterValidator(naming.check_own_name)] | None = Field(
        default=None, description="how files are called: may hold {job_id} and {split}, ends in {number}"
    )
    replication: int | None = Field(default=None, ge=1, le=512, description="copies of each block; none: the cluster's")

    def addresses(self) -> list[str]:
        """Each NameNode's address, with scheme and port."""
        return hdfs_address.addresses(self.url)


class DonothingSinkSpec(SinkSpec):
    """Rows are read, counted and dropped."""

    kind: Literal["donothing"]


AnySinkSpec = Annotated[
    KafkaSinkSpec | FileSinkSpec | S3SinkSpec | HdfsSinkSpec | ElasticsearchSinkSpec | DonothingSinkSpec,
    Field(discriminator="kind"),
]
