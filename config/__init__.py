"""Settings, logs, and what both the service and its workers are told from outside. Imports nothing of ours."""

from __future__ import annotations
