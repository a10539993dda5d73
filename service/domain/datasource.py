"""A named Postgres connection, resolved: the password is the real one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


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

    @classmethod
    def of(cls, account: str, name: str, definition: Mapping[str, Any], password: str | None) -> Datasource:
        """A definition as stored, with its real password. The primary that it may name is the caller's to look up."""
        tls = definition.get("tls") or {}
        return cls(
            account=account,
            name=name,
            host=definition["host"],
            port=definition.get("port", 5432),
            database=definition["database"],
            user=definition["user"],
            password=password,
            tls_mode=tls.get("mode", "prefer"),
            tls_ca=tls.get("ca"),
            time_zone=definition.get("time_zone"),
            properties=dict(definition.get("properties") or {}),
            max_connections=definition.get("max_connections"),
        )
