"""S3's error codes and botocore's exceptions as the errors of `sinks.base`; nothing of botocore leaves the sink.

https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import (  # type: ignore[import-untyped]
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
    SSLError,
)

from sinks.base import Fenced, SinkError, SinkRefused, SinkUnavailable, TargetGone

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

RIGHTS: Final[Mapping[str, str]] = {
    "CreateMultipartUpload": "s3:PutObject (with tags also s3:PutObjectTagging, with aws:kms also kms:GenerateDataKey)",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject (with aws:kms also kms:Decrypt)",
    "PutObject": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "ListParts": "s3:ListMultipartUploadParts",
    "HeadObject": "s3:GetObject and s3:ListBucket (without the second a missing object looks like a forbidden one)",
    "HeadBucket": "s3:ListBucket",
    "ListObjectsV2": "s3:ListBucket",
    "DeleteObject": "s3:DeleteObject",
    "GetObject": "s3:GetObject and s3:ListBucket (without the second a missing object looks like a forbidden one)",
}
"""Which right a call needs: what to grant is said with its refusal."""

_AUTHENTICATION: Final = frozenset(
    {
        *("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "InvalidSecurity"),
        *("TokenRefreshRequired", "AuthFailure", "NotSignedUp", "UnrecognizedClientException"),
    }
)
_REGION: Final = frozenset(
    {
        *("PermanentRedirect", "TemporaryRedirect", "Redirect", "IllegalLocationConstraintException"),
        *("AuthorizationHeaderMalformed", "301", "307", "308"),
    }
)
_DENIED: Final = frozenset({"AccessDenied", "AllAccessDisabled", "AccountProblem", "403"})
_BUSY: Final = frozenset(
    {
        *("SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "OperationAborted", "Throttling"),
        *("ThrottlingException", "RequestLimitExceeded", "TooManyRequests", "BandwidthLimitExceeded", "Busy"),
    }
)
_NO_SPACE: Final = frozenset({"XMinioStorageFull", "QuotaExceeded", "InsufficientStorage", "EntityQuotaExceeded"})
_TORN: Final = frozenset({"BadDigest", "XAmzContentSHA256Mismatch", "InvalidPart", "IncompleteBody", "InvalidDigest"})
_NOT_KNOWN_HERE: Final = frozenset({"NotImplemented", "501", "405", "MethodNotAllowed"})


@dataclass(frozen=True, slots=True)
class Place:
    """What a message has to name. Holds no secret."""

    bucket: str
    region: str
    endpoint_url: str | None = None
    access_key_id: str | None = None

    @property
    def store(self) -> str:
        """Which store was asked."""
        return f"endpoint_url {self.endpoint_url!r}" if self.endpoint_url else f"S3 in region {self.region!r}"

    @property
    def who(self) -> str:
        """As whom."""
        return f"access_key_id {self.access_key_id!r}" if self.access_key_id else "the host's own credentials"


def code_of(error: ClientError) -> str:
    """S3's word for it; a reply without a body has its HTTP status for a code."""
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: ClientError) -> int:
    """The HTTP status."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def unsupported(error: ClientError) -> bool:
    """Whether the store does not know what it was asked for: not a refusal of this request but of its kind."""
    return code_of(error) in _NOT_KNOWN_HERE or status_of(error) in {405, 501}


def from_exception(place: Place, operation: str, error: BaseException) -> SinkError:
    """What an exception of a call means to the runner."""
    if isinstance(error, ClientError):  # the store's word, whatever was being handled when it came
        return _from_reply(place, operation, error)
    ours = next((one for one in _chain(error) if isinstance(one, SinkError)), None)
    if ours is not None:  # of the guard: the client wraps whatever happens while it connects
        return ours
    if isinstance(error, (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError)):
        return SinkRefused(
            "credentials_missing",
            f"bucket {place.bucket!r} is to be written with the host's own credentials, and the host has none; give "
            "sink.access_key_id and sink.secret_access_key, or name a stored credential in sink.credential",
        )
    if _is_tls(error):
        return SinkRefused(
            "tls_failed",
            f"no TLS with {place.store}, or its certificate is not trusted. Check the scheme of sink.endpoint_url, and "
            "that the host trusts the store's authority.",
        )
    return unreachable(place, operation, error)


def unreachable(place: Place, operation: str, error: BaseException) -> SinkUnavailable:
    """The store did not answer, or hung up."""
    return SinkUnavailable(
        "sink_unreachable",
        f"{operation}: {place.store} did not answer for bucket {place.bucket!r}: {_cause(error)}. Check that the store "
        "runs and that sink.endpoint_url and sink.region are its own.",
    )


def keys_missing(place: Place) -> SinkRefused:
    """No keys are given, and the service's own may not be used for this bucket."""
    return SinkRefused(
        "credentials_required",
        f"sink.bucket {place.bucket!r} needs sink.access_key_id and sink.secret_access_key, or a stored credential in "
        "sink.credential; the host's own credentials are only for buckets that ROWFERRY_AMBIENT_S3_BUCKETS names",
    )


def bucket_missing(place: Place) -> TargetGone:
    """The bucket is not there, and a job makes none."""
    return TargetGone(
        "bucket_missing",
        f"sink.bucket {place.bucket!r} does not exist at {place.store}. Create it, or correct name or endpoint.",
    )


def no_s3(place: Place, operation: str) -> SinkRefused:
    """Something answers that does not speak S3's language."""
    return SinkRefused(
        "no_s3",
        f"{operation}: what answers at {place.store} is no S3 store. Give sink.endpoint_url the address of the store's "
        "S3 interface, not that of its console, of a proxy or of another service.",
    )


def _from_reply(place: Place, operation: str, error: ClientError) -> SinkError:
    said = f"{operation} in bucket {place.bucket!r}: {code_of(error) or status_of(error)}"
    for judge in (_how_it_goes, _who_asks, _what_is_asked, _what_is_wanted):
        found = judge(place, operation, error, said)
        if found is not None:
            return found
    if not code_of(error).strip("0123456789"):  # without a word of S3's
        return no_s3(place, operation)
    text = f"{said}: {place.store} refuses {operation} with {code_of(error) or status_of(error)}."
    return SinkRefused("sink_refused", text)


def _who_asks(place: Place, operation: str, error: ClientError, said: str) -> SinkError | None:
    code, status = code_of(error), status_of(error)
    if code == "RequestTimeTooSkewed":
        text = f"{said}: the clocks of this host and the store are minutes apart; set the host's clock (NTP)"
        return SinkUnavailable("clock_skewed", text)
    if code in _AUTHENTICATION:
        return SinkRefused(
            "authentication_failed",
            f"{said}: {place.store} does not accept {place.who} with this secret. Check sink.access_key_id and "
            "sink.secret_access_key, or the credential.",
        )
    if code in _DENIED or status == 403:
        right = RIGHTS.get(operation, operation)
        return SinkRefused("right_missing", f"{said}: {place.who} lacks the right {right} on bucket {place.bucket!r}.")
    return None


def _what_is_asked(place: Place, operation: str, error: ClientError, said: str) -> SinkError | None:
    code, status = code_of(error), status_of(error)
    if code == "NoSuchBucket" or (operation == "HeadBucket" and status == 404):
        return bucket_missing(place)
    if code == "NoSuchUpload":
        return Fenced(
            "upload_gone",
            f"{said}: the upload was aborted by another owner of the split or by a rule of the bucket, or completed",
        )
    if code in _REGION or status in {301, 307, 308}:
        return _region_wrong(place, error)
    if status == 412 or code in {"PreconditionFailed", "ConditionalRequestConflict"}:
        text = f"{said}: the name is taken; what is there is compared with the prepared tries at the next open"
        return SinkUnavailable("name_taken", text)
    return None


def _how_it_goes(place: Place, operation: str, error: ClientError, said: str) -> SinkError | None:
    del operation
    code, status = code_of(error), status_of(error)
    if code in _NO_SPACE or status == 507:
        return SinkUnavailable("no_space", f"{said}; free space or raise the quota, the job goes on by itself")
    if code in _TORN:
        return SinkUnavailable("checksum_refused", f"{said}: what arrived is not what was sent; it is sent again")
    if code in _BUSY or status in {408, 429} or (status >= 500 and status not in {501, 505}):
        return SinkUnavailable("sink_busy", f"{said}: {place.store} asks to wait; the job tries again by itself")
    return None


def _what_is_wanted(place: Place, operation: str, error: ClientError, said: str) -> SinkError | None:
    del place, operation
    code = code_of(error)
    if code == "InvalidStorageClass":
        text = f"{said}: the store does not have this sink.storage_class; choose another or leave it out"
        return SinkRefused("storage_class_refused", text)
    if code.startswith("KMS") or "Encryption" in code:
        text = f"{said}: the store refuses sink.encryption; check algorithm and key, or leave it out"
        return SinkRefused("encryption_refused", text)
    return None


def _region_wrong(place: Place, error: ClientError) -> SinkRefused:
    reply: dict[str, Any] = dict(error.response)
    headers = reply.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = headers.get("x-amz-bucket-region") or reply.get("Error", {}).get("Region")
    remedy = f"set sink.region to {region!r}" if region else "set sink.region to the one the bucket lies in"
    return SinkRefused(
        "region_wrong", f"bucket {place.bucket!r} does not lie in sink.region {place.region!r} at this store; {remedy}"
    )


def _is_tls(error: BaseException) -> bool:
    return any(isinstance(one, (ssl.SSLError, SSLError)) for one in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _cause(error: BaseException) -> str:
    # Texts of botocore are left out: they quote addresses with everything that was put into them.
    if isinstance(error, (TimeoutError, ReadTimeoutError, ConnectTimeoutError)):
        return "no answer in time"
    if isinstance(error, EndpointConnectionError):
        return "no connection"
    inner = error.__cause__ or error.__context__ or error
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    return "the connection was closed" if isinstance(error, HTTPClientError) else type(error).__name__
