"""What Elasticsearch and OpenSearch answer, as the errors of `sinks.base`.

An error is told by its `type`, not by its text, but for the two that share `illegal_argument_exception`:
https://www.elastic.co/docs/reference/elasticsearch/rest-apis/api-conventions
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from sinks.base import SinkError, SinkRefused, SinkUnavailable, TargetGone

LONGEST_REASON: Final = 500

_MAPPING: Final = frozenset(
    {
        "mapper_parsing_exception",
        "document_parsing_exception",
        "strict_dynamic_mapping_exception",
        "parsing_exception",
        "x_content_parse_exception",
    }
)
_ROUTING: Final = "routing_missing_exception"


@dataclass(frozen=True, slots=True)
class Names:
    """What a message has to name."""

    url: str
    index: str
    principal: str
    pipeline: str | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """The `error` of an answer or of an item."""

    type: str
    reason: str

    @classmethod
    def of(cls, error: Any) -> Told:
        """From whatever stands there: an object, a text, nothing."""
        if not isinstance(error, Mapping):
            return cls("", str(error or "no reason given")[:LONGEST_REASON])
        reason = str(error.get("reason") or "")
        cause = error.get("caused_by")
        if isinstance(cause, Mapping) and cause.get("reason") and str(cause["reason"]) not in reason:
            reason = f"{reason}: {cause['reason']}"
        return cls(str(error.get("type") or ""), " ".join(reason.split())[:LONGEST_REASON])


def refusal(names: Names, doing: str, status: int, told: Told) -> SinkError:
    """What an answer that is no success means to the runner."""
    known = _of_index(names, doing, status, told) or _of_rights(names, doing, status, told)
    if known is not None:
        return known
    if status == 429:
        return too_busy(names, doing, told.reason)
    if status >= 500:
        return SinkUnavailable(
            "sink_unavailable", f"{doing}: {names.url} answers {status}: {told.reason or told.type}."
        )
    if "pipeline with id" in told.reason:
        return pipeline_missing(names, doing)
    return SinkRefused("sink_refused", f"{doing}: {names.url} answers {status} {told.type}: {told.reason}")


def _of_index(names: Names, doing: str, status: int, told: Told) -> SinkError | None:
    if told.type == "cluster_block_exception":
        if "TOO_MANY_REQUESTS/12" in told.reason:
            return SinkUnavailable(
                "no_space",
                f"{doing}: index {names.index!r} takes no documents because a disk of the cluster is over its "
                "flood-stage watermark. Free space: the block then goes by itself.",
            )
        return index_read_only(names, doing, told.reason) if status == 403 else None
    if told.type == "index_closed_exception":
        return index_closed(names, doing)
    return index_missing(names, doing) if told.type == "index_not_found_exception" else None


def _of_rights(names: Names, doing: str, status: int, told: Told) -> SinkError | None:
    if status == 401:
        return SinkRefused(
            "authentication_failed",
            f"{doing}: {names.url} does not accept {names.principal}. Check sink.username and sink.password, "
            "sink.api_key, or the credential.",
        )
    if status == 403:
        return SinkRefused(
            "right_missing",
            f"{doing}: {names.principal} lacks a right on index {names.index!r}: {told.reason}. Grant "
            "view_index_metadata, write and create_index; with strategy replace also manage, on the index and on its "
            "name followed by a hyphen and a star.",
        )
    return None


def row_code(told: Told) -> str:
    """The code of a row that was refused by itself."""
    if told.type in _MAPPING or lost_a_race(told) or "mapping" in told.reason or "Limit of total fields" in told.reason:
        return "mapping_conflict"
    return "routing_missing" if told.type == _ROUTING else "document_refused"


def lost_a_race(told: Told) -> bool:
    """Two documents gave a new field different types at one moment, and the other's was taken. What the field is now
    may well take this one (a number with decimals for a field of whole numbers): nobody knows before it comes again."""
    return told.type == "illegal_argument_exception" and "cannot be changed from type" in told.reason


def concerns_all(status: int, told: Told) -> bool:
    """Whether an item's error is not its row's: every other row would meet it too."""
    return (
        status in {401, 403, 404, 429}
        or status >= 500
        or told.type in {"index_closed_exception", "cluster_block_exception"}
        or "pipeline with id" in told.reason
    )


def too_busy(names: Names, doing: str, reason: str) -> SinkUnavailable:
    """The cluster has no room in its queues or its memory."""
    return SinkUnavailable("too_many_requests", f"{doing}: {names.url} is too busy: {reason or 'it answers 429'}")


def index_missing(names: Names, doing: str) -> TargetGone:
    """The index was there when the generation began."""
    return TargetGone(
        "index_missing",
        f"{doing}: index {names.index!r} does not exist (any more). What was delivered is gone with it: start from the "
        "beginning, which makes the index again.",
    )


def index_recreated(names: Names, expected: str, found: str) -> TargetGone:
    """Another index under the same name."""
    return TargetGone(
        "index_recreated",
        f"index {names.index!r} was deleted and made again (uuid {expected} became {found}): the documents delivered "
        "before are not in it. Start from the beginning, or PUT a checkpoint to go on from there.",
    )


def index_closed(names: Names, doing: str) -> SinkRefused:
    """Somebody closed it."""
    return SinkRefused(
        "index_closed", f"{doing}: index {names.index!r} is closed. Open it with POST /{names.index}/_open, then start."
    )


def index_read_only(names: Names, doing: str, reason: str) -> SinkRefused:
    """A block that somebody set."""
    return SinkRefused(
        "index_read_only",
        f"{doing}: index {names.index!r} takes no documents: {reason} Take the block off with "
        f"PUT /{names.index}/_settings, index.blocks.read_only and index.blocks.write false; then start.",
    )


def pipeline_missing(names: Names, doing: str) -> SinkRefused:
    """The pipeline is not there (any more)."""
    return SinkRefused(
        "pipeline_missing",
        f"{doing}: sink.pipeline {names.pipeline!r} does not exist. Create it with PUT /_ingest/pipeline, or leave "
        "sink.pipeline out.",
    )


def from_exception(names: Names, doing: str, error: Exception) -> SinkError:
    """What an exception of a connection means to the runner."""
    if isinstance(error, SinkError):
        return error
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return SinkRefused(
            "certificate_refused",
            f"{doing}: the certificate of {names.url} is not trusted. Put its authority into sink.ca and use a host "
            "name that it certifies.",
        )
    if isinstance(error, aiohttp.ClientConnectorSSLError | ssl.SSLError):
        return SinkRefused("tls_failed", f"{doing}: no TLS with {names.url}. Check that it listens for https.")
    return SinkUnavailable(
        "sink_unreachable", f"{doing}: {names.url} did not answer: {_cause(error)}. Check that it runs, and sink.url."
    )


def _cause(error: Exception) -> str:
    # Texts of the client are left out: they may quote what the definition or the server said.
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "the connection was closed" if isinstance(error, aiohttp.ClientError) else type(error).__name__
