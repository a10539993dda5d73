"""The control database over asyncpg: a module for each side that asks, SQL in `queries/`, schema in `migrations/`."""

from __future__ import annotations
