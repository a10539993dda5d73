"""The job store over asyncpg: what `service.domain.ports` promises, in one control database."""

from __future__ import annotations
