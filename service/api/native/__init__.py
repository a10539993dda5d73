"""The handlers of /v1, one module a resource."""

from __future__ import annotations
