"""Looks at a datasource by itself, before any job reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.domain.inspection import Finding
from workers.sources import catalog
from workers.sources.outlook import unseen_holders
from workers.sources.resolver import too_powerful
from workers.sources.session import Session

if TYPE_CHECKING:
    from service.domain.datasource import Datasource
    from sinks.guarded import Guard
    from workers.sources.budget import ConnectionBudget


async def check_datasource(
    datasource: Datasource,
    *,
    connections: ConnectionBudget,
    guard: Guard | None = None,
) -> list[Finding]:
    """Connect and look: version, standby, what the role may do beyond reading, and what it may not see. Raises what
    connecting raises."""
    session = Session(datasource, application_name="rowferry check", connections=connections, guard=guard)
    try:
        return await _datasource_findings(session, datasource)
    finally:
        await session.close()


async def _datasource_findings(session: Session, datasource: Datasource) -> list[Finding]:
    version = await session.fetchval("SELECT current_setting('server_version')")
    findings = [Finding("", "info", "server_version", f"PostgreSQL {version}")]
    if power := await catalog.powers(session):
        findings.append(too_powerful("/user", datasource, power))
    if await session.fetchval("SELECT pg_is_in_recovery()"):
        findings.append(
            Finding(
                "/host",
                "warning",
                "standby",
                "this server is a standby: safety commit needs to ask its primary",
                "name the datasource of its primary in `barrier`, or use safety delay",
            )
        )
    findings += await unseen_holders(session, "/user")
    return findings
