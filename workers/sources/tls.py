"""What a datasource's `tls.mode` means."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from service.domain.errors import Permanent
from sinks.guarded import NamedContext

if TYPE_CHECKING:
    from service.domain.datasource import Datasource


def tls_context(datasource: Datasource) -> ssl.SSLContext | None:
    """What the mode means to libpq: `require` without an authority encrypts and trusts anybody."""
    if datasource.tls_mode == "disable":
        return None
    context = NamedContext(datasource.host)
    context.check_hostname = datasource.tls_mode == "verify-full"
    verified = datasource.tls_mode.startswith("verify") or (datasource.tls_mode == "require" and datasource.tls_ca)
    if not verified:
        context.verify_mode = ssl.CERT_NONE
        return context
    context.verify_mode = ssl.CERT_REQUIRED
    if datasource.tls_ca:
        try:
            context.load_verify_locations(cadata=datasource.tls_ca)
        except (ssl.SSLError, ValueError) as error:
            raise Permanent("tls_failed", f"datasource {datasource.name!r}: tls.ca holds no certificate") from error
    else:
        context.load_default_certs()
    return context
