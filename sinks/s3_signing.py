"""How a part is signed where its content is a part of the signature (plain http): by the SHA-256 that is known already.

botocore hashes the body again, in the event loop, which other jobs wait for. The digest was made in the thread that
packed the part. A store that was seen to compare the checksum's header, which is signed, needs no second digest of the
same bytes: the content is then left out of the signature, as it is over https.
https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from botocore.auth import AUTH_TYPE_MAPS, UNSIGNED_PAYLOAD, S3SigV4Auth  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME: Final = "rowferry-part-s3v4"
_OURS: Final = frozenset({None, "v4", "s3v4"})


class PartAuth(S3SigV4Auth):  # type: ignore[misc]  # botocore has no types
    """Signature version 4 of a request whose body is a `s3_parts.Body`; of any other as it always is."""

    def payload(self, request: Any) -> str:
        """What stands for the content: in hexadecimal digits, or the word for content that is not signed."""
        known = getattr(request.body, "sha256", None)
        if isinstance(known, str) and self._should_sha256_sign_payload(request):
            return str(UNSIGNED_PAYLOAD) if request.body.compared else known
        return str(super().payload(request))


AUTH_TYPE_MAPS[_NAME] = PartAuth


def sign_parts(client: Any) -> None:
    """From now on the client's parts are signed so, where nothing asks for another way of signing."""
    # Before botocore's own choice, which would end the asking.
    client.meta.events.register_first("choose-signer.s3.UploadPart", _choose)


def _choose(context: Mapping[str, Any], signature_version: object, **_: Any) -> str | None:
    plain = context.get("auth_type") in _OURS and signature_version in {"v4", "s3v4"}
    return _NAME if plain else None
