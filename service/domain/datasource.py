"""A named Postgres connection, resolved: the password is the real one."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Datasource:
    """How to reach a source database. Its `repr` leaves the password out."""

    account: str
    name: str
    host: str
    port: int
    database: str
    user: str
    password: str | None = field(repr=False, default=None)
    tls_mode: str = "prefer"
    """`disable`, `prefer`, `require`, `verify-ca` or `verify-full`, as libpq."""
    tls_ca: str | None = None
    """PEM of the authorities to trust."""
    time_zone: str | None = None
    properties: dict[str, str] = field(default_factory=dict)
    """Session settings, but for those that the reader pins."""
    private: dict[str, str] = field(default_factory=dict, repr=False)
    """Settings of this job's sessions alone, which nobody may see: the salts of masks."""
    max_connections: int | None = None
    """Over all jobs; None is the service's setting."""
    barrier: Datasource | None = None
    """The primary, where this is a standby: who writes, and how far, can be seen there alone."""
