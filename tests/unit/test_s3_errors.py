"""What each answer of a store means to the runner: class, code, remedy; and no word of botocore's own."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from botocore.exceptions import (  # type: ignore[import-untyped]
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    ReadTimeoutError,
)

from sinks.base import Fenced, SinkError, SinkRefused, SinkUnavailable, TargetGone
from sinks.s3_errors import RIGHTS, Place, from_exception

PLACE = Place("rows", "eu-west-1", "http://store.example:9000", "AKIDEXAMPLE")
URL = "http://store.example:9000/rows/key?X-Signature=hidden"


def reply(code: str, status: int = 400, operation: str = "UploadPart", **more: Any) -> SinkError:
    headers = more.pop("headers", {})
    answer = {
        "Error": {"Code": code, "Message": "hidden"} | more,
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers},
    }
    return from_exception(PLACE, operation, ClientError(answer, operation))


@pytest.mark.parametrize(
    ("code", "status", "kind", "ours"),
    [
        ("NoSuchBucket", 404, TargetGone, "bucket_missing"),
        ("NoSuchUpload", 404, Fenced, "upload_gone"),
        ("InvalidAccessKeyId", 403, SinkRefused, "authentication_failed"),
        ("SignatureDoesNotMatch", 403, SinkRefused, "authentication_failed"),
        ("ExpiredToken", 400, SinkRefused, "authentication_failed"),
        ("AccessDenied", 403, SinkRefused, "right_missing"),
        ("403", 403, SinkRefused, "right_missing"),
        ("RequestTimeTooSkewed", 403, SinkUnavailable, "clock_skewed"),
        ("PermanentRedirect", 301, SinkRefused, "region_wrong"),
        ("AuthorizationHeaderMalformed", 400, SinkRefused, "region_wrong"),
        ("301", 301, SinkRefused, "region_wrong"),
        ("PreconditionFailed", 412, SinkUnavailable, "name_taken"),
        ("ConditionalRequestConflict", 409, SinkUnavailable, "name_taken"),
        ("SlowDown", 503, SinkUnavailable, "sink_busy"),
        ("ServiceUnavailable", 503, SinkUnavailable, "sink_busy"),
        ("InternalError", 500, SinkUnavailable, "sink_busy"),
        ("TooManyRequests", 429, SinkUnavailable, "sink_busy"),
        ("RequestTimeout", 400, SinkUnavailable, "sink_busy"),
        ("502", 502, SinkUnavailable, "sink_busy"),
        ("XMinioStorageFull", 507, SinkUnavailable, "no_space"),
        ("QuotaExceeded", 403, SinkUnavailable, "no_space"),
        ("BadDigest", 400, SinkUnavailable, "checksum_refused"),
        ("InvalidStorageClass", 400, SinkRefused, "storage_class_refused"),
        ("KMS.NotFoundException", 400, SinkRefused, "encryption_refused"),
        ("InvalidEncryptionAlgorithmError", 400, SinkRefused, "encryption_refused"),
        ("NotImplemented", 501, SinkRefused, "sink_refused"),
        ("EntityTooLarge", 400, SinkRefused, "sink_refused"),
    ],
)
def test_a_reply_becomes_an_error_of_ours(code: str, status: int, kind: type[SinkError], ours: str):
    error = reply(code, status)
    assert type(error) is kind
    assert error.code == ours
    assert "rows" in error.message
    assert "hidden" not in error.message


@pytest.mark.parametrize("operation", RIGHTS)
def test_a_missing_right_is_named_with_who_lacks_it(operation: str):
    message = reply("AccessDenied", 403, operation).message
    assert RIGHTS[operation] in message
    assert "AKIDEXAMPLE" in message


@pytest.mark.parametrize("where", [{"headers": {"x-amz-bucket-region": "ap-south-1"}}, {"Region": "ap-south-1"}])
def test_a_wrong_region_tells_the_right_one(where: dict[str, Any]):
    message = reply("PermanentRedirect", 301, **where).message
    assert "'ap-south-1'" in message
    assert "'eu-west-1'" in message


@pytest.mark.parametrize(
    ("error", "kind", "ours"),
    [
        (EndpointConnectionError(endpoint_url=URL), SinkUnavailable, "sink_unreachable"),
        (ReadTimeoutError(endpoint_url=URL), SinkUnavailable, "sink_unreachable"),
        (ConnectionClosedError(endpoint_url=URL), SinkUnavailable, "sink_unreachable"),
        (HTTPClientError(error=ConnectionResetError()), SinkUnavailable, "sink_unreachable"),
        (TimeoutError(), SinkUnavailable, "sink_unreachable"),
        (NoCredentialsError(), SinkRefused, "credentials_missing"),
        (ssl.SSLCertVerificationError("hidden"), SinkRefused, "tls_failed"),
    ],
)
def test_no_reply_becomes_an_error_of_ours(error: Exception, kind: type[SinkError], ours: str):
    found = from_exception(PLACE, "UploadPart", error)
    assert type(found) is kind
    assert found.code == ours
    assert "hidden" not in found.message


def test_an_error_of_ours_stays_itself():
    error = SinkRefused("destination_refused", "s3 destination is not allowed here")
    assert from_exception(PLACE, "UploadPart", error) is error
