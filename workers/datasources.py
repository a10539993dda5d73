"""Datasources as a source takes them: looked up, with their passwords, as the user that a definition names."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from config.references import ReferenceRefused
from service.domain.datasource import Datasource
from service.domain.errors import Permanent
from workers.salts import Credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from config.references import References
    from service.domain.named import StoredDatasource
    from service.domain.spec import SourceSpec

CREDENTIALS_PASSWORD = "/source/credentials/password"  # noqa: S105  a pointer


class NamedThings(Credentials, Protocol):
    """The part of the registry that a worker reads."""

    async def datasource(self, account: str, name: str) -> StoredDatasource | None:
        """With the password decrypted, references unresolved."""


class Datasources:
    """The datasources of every account."""

    def __init__(self, things: NamedThings, references: References, learn_secret: Callable[[str], None]) -> None:
        """`learn_secret` hears every password before it is used, so that no log line can hold it."""
        self._things, self._references, self._learn_secret = things, references, learn_secret

    async def of(self, account: str, source: SourceSpec, secrets: Mapping[str, str]) -> Datasource:
        """What a definition reads from, and as whom. Raises Permanent `datasource_unknown`, `reference_unresolved`."""
        stored = await self._things.datasource(account, source.datasource)
        if stored is None:
            raise Permanent(
                "datasource_unknown",
                f"source.datasource {source.datasource!r} does not exist; create it with "
                f"PUT /v1/datasources/{source.datasource}",
            )
        resolved = await self._with_barrier(account, self.resolved(stored), stored.definition.get("barrier"))
        return self._as_asked(resolved, source, secrets)

    def _as_asked(self, datasource: Datasource, source: SourceSpec, secrets: Mapping[str, str]) -> Datasource:
        """The datasource as the definition's own user, where it names one."""
        if source.credentials is None:
            return datasource
        password = secrets.get(CREDENTIALS_PASSWORD)
        if password:
            self._learn_secret(password)
        return replace(datasource, user=source.credentials.user, password=password)

    async def _with_barrier(self, account: str, datasource: Datasource, barrier: object) -> Datasource:
        """A standby with the primary that knows who writes."""
        if not isinstance(barrier, str):
            return datasource
        primary = await self._things.datasource(account, barrier)
        if primary is None:
            raise Permanent(
                "datasource_unknown",
                f"datasource {datasource.name!r} names {barrier!r} in `barrier`, which does not exist; create it with "
                f"PUT /v1/datasources/{barrier}",
            )
        return replace(datasource, barrier=self.resolved(primary))

    def resolved(self, stored: StoredDatasource) -> Datasource:
        """The datasource with its real password. Raises Permanent `reference_unresolved`."""
        password = stored.password
        try:
            password = None if password is None else self._references.resolve(password)
        except ReferenceRefused as error:
            raise Permanent(error.code, f"datasource {stored.name!r}: {error.message}") from None
        if password:
            self._learn_secret(password)
        return Datasource.of(stored.account, stored.name, stored.definition, password)
