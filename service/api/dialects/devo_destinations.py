"""Destinations of Devo's job requests as sinks: their parameters, with the documented bounds and codes.

Parameters that Devo does not document are left alone, but for those that would change whom a job trusts: ignoring such
a one would send rows where the caller did not mean them to go.
"""

from __future__ import annotations

import re
import secrets
import string
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from service.api.dialects.devo_answers import Code, invalid, setting_wrong

if TYPE_CHECKING:
    from collections.abc import Mapping

    from config.settings import Settings

MEGABYTE: Final = 1024 * 1024
_TRUST: Final = ("security.", "sasl.", "ssl.")
_CHUNK_SECONDS: Final = 600
_MARGIN_SECONDS: Final = 30.0
_ALPHANUMERIC: Final = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class Destination:
    """What a request's `destination` means."""

    kind: str
    """Devo's word."""
    name: str
    sink: Mapping[str, Any]
    form: Mapping[str, Any] = field(default_factory=dict)
    chunk: Mapping[str, Any] = field(default_factory=dict)
    files: str | None = None
    """What stands before the name of each file, as the caller knows it."""


def read(given: object, mode: str, settings: Settings) -> Destination:
    """The destination of a request. Raises Failure, naming the parameter."""
    if not isinstance(given, dict) or not isinstance(given.get("type"), str):
        raise invalid('destination is no object with a type: {"type": "kafka", "params": {…}}')
    kind, params = given["type"], given.get("params")
    if kind not in _KINDS:
        known = ", ".join(sorted(_KINDS))
        raise setting_wrong(f"destination.type {kind[:60]!r} is not supported here; the types are {known}")
    if not isinstance(params, dict | None):
        raise setting_wrong("destination.params is no object")
    return _KINDS[kind](Parameters(kind, params or {}), mode, settings)


class Parameters:
    """The `params` of one destination."""

    def __init__(self, kind: str, values: Mapping[str, Any]) -> None:
        self.kind = kind
        self._values = values

    def name(self) -> str:
        """`friendlyName`, or one that nobody has. What it may look like is the definition's to say."""
        given = self.optional("friendlyName")
        return given or f"{self.kind}_{''.join(secrets.choice(_ALPHANUMERIC) for _ in range(10))}"

    def text(self, name: str, code: int = 205) -> str:
        """A text that must be there and not empty."""
        value = self._values.get(name)
        if not isinstance(value, str) or not value.strip():
            raise setting_wrong(f"destination.params.{name} must be a non-empty string", code)
        return value

    def optional(self, name: str, code: int = 205) -> str | None:
        """A text that may be missing or null, but not empty."""
        return None if self._values.get(name) is None else self.text(name, code)

    def number(self, name: str, default: int, least: int, most: int) -> int:
        """A whole number, or the text of one."""
        value = self._values.get(name)
        if value is None:
            return default
        if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit() and len(value) < 20:
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            shown = repr(self._values[name])[:60]
            raise setting_wrong(f"destination.params.{name} {shown} is no whole number from {least} to {most}")
        return value

    def has(self, name: str) -> bool:
        """Whether it was given at all."""
        return self._values.get(name) is not None

    def refuse_trust(self) -> None:
        """What says whom to trust, or as whom to come, is not taken here."""
        for name in self._values:
            if name.startswith(_TRUST):
                said = f"destination.params.{name[:60]} is not supported here"
                raise setting_wrong(f"{said}; define such a job with POST /v1/jobs")


def _kafka(params: Parameters, _mode: str, _settings: Settings) -> Destination:
    # The request's own mode says nothing here: the Python client sends that of its last rows.
    params.refuse_trust()
    form = params.optional("mode") or "json"
    if form != "json":
        raise setting_wrong(
            f"destination.params.mode {form[:40]!r} does not go with kafka; a record is one JSON object"
        )
    most = params.number("maxBytesPerCommit", MEGABYTE, 1024, 10 * MEGABYTE)
    waits = params.number("maxTimeWithoutCommit", 10_000, 1000, _CHUNK_SECONDS * 1000) / 1000
    sink = {
        "kind": "kafka",
        "bootstrap_servers": params.text("bootstrap.servers"),
        "topic": params.text("topic"),
        "transaction_timeout_seconds": max(60.0, waits + _MARGIN_SECONDS),
    }
    return Destination("kafka", params.name(), sink, chunk={"bytes": most, "seconds": waits})


def _s3(params: Parameters, _mode: str, settings: Settings) -> Destination:
    bucket = _bucket(params, settings)
    packing = params.optional("format", Code.FORMAT) or "zip"
    if packing not in _PACKINGS:
        raise setting_wrong(f"destination.params.format {packing[:40]!r} is none of zip, gzip, plain", Code.FORMAT)
    password = params.optional("file.password", Code.PASSWORD_EMPTY)
    if password is not None and packing != "zip":
        said = f"destination.params.file.password does not go with format {packing}; only a zip takes one"
        raise setting_wrong(said, Code.PASSWORD_WITHOUT_ZIP)
    folder, slash, begin = (params.optional("s3.fileName") or "").rpartition("/")
    sink = {
        "kind": "s3",
        **bucket,
        "endpoint_url": settings.devo_s3_endpoint_url,
        "prefix": folder + slash,
        "name": f"{begin}apiv2_{{job_id}}_{{number}}",
        "file_password": password,
    }
    return Destination(
        "s3",
        params.name(),
        {name: value for name, value in sink.items() if value is not None},
        {"kind": "csv", "compression": _PACKINGS[packing]},
        {"bytes": settings.devo_s3_object_bytes, "seconds": _CHUNK_SECONDS},
        f"s3://{bucket['bucket']}/",
    )


def _bucket(params: Parameters, settings: Settings) -> dict[str, Any]:
    """Where to, and as whom: all four settings, or none of them where the service has a bucket of its own."""
    given = [name for name, _, _ in _BUCKET if params.has(name)]
    if not given and settings.devo_s3_default_bucket is not None:
        return {"bucket": settings.devo_s3_default_bucket}
    missing = [name for name, _, _ in _BUCKET if name not in given]
    if missing:
        raise setting_wrong(f"destination.params.{missing[0]} is missing; a bucket needs all four settings")
    return {field: params.text(name, code) for name, field, code in _BUCKET}


def _hdfs(params: Parameters, mode: str, settings: Settings) -> Destination:
    cluster = params.text("fs.defaultFS").rstrip("/")
    if not _CLUSTER.fullmatch(cluster):
        raise setting_wrong(f"destination.params.fs.defaultFS {cluster[:80]!r} is not hdfs://host:port")
    address = settings.devo_webhdfs.get(cluster)
    if address is None:
        said = f"destination.params.fs.defaultFS {cluster[:80]!r}: this service knows no WebHDFS address of it"
        raise setting_wrong(f"{said}; ROWFERRY_DEVO_WEBHDFS names those it knows")
    form: dict[str, Any] = {"kind": "csv" if mode in {"csv", "tsv"} else "json"}
    if mode == "tsv":
        form["delimiter"] = "\t"
    elif mode not in {"csv", "json", "json/simple", "json/compact", "json/simple/compact"}:
        raise setting_wrong(f"mode {mode!r} does not go with hdfs; files hold lines of json, csv or tsv")
    sink: dict[str, Any] = {
        "kind": "hdfs",
        "url": address,
        "path": params.text("full path").rstrip("/"),
        "name": f"{params.text('file')}_{{split}}_{{number}}.data",
    }
    if params.has("dfs.replication"):
        sink["replication"] = params.number("dfs.replication", 1, 1, 512)
    chunk = {"bytes": settings.devo_s3_object_bytes, "seconds": _CHUNK_SECONDS}
    return Destination("hdfs", params.name(), sink, form, chunk, cluster)


def _donothing(params: Parameters, _mode: str, _settings: Settings) -> Destination:
    return Destination("donothing", params.name(), {"kind": "donothing"})


_KINDS: Final = {"kafka": _kafka, "s3": _s3, "hdfs": _hdfs, "donothing": _donothing}
_PACKINGS: Final = {"zip": "zip", "gzip": "gzip", "plain": "none"}
_CLUSTER: Final = re.compile(r"hdfs://[A-Za-z0-9._-]+(:\d{1,5})?")
_BUCKET: Final = (
    ("aws.bucket", "bucket", Code.BUCKET),
    ("aws.accesskey", "access_key_id", Code.ACCESS_KEY),
    ("aws.secretkey", "secret_access_key", Code.SECRET_KEY),
    ("aws.region", "region", Code.REGION),
)
