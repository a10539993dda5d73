"""Where rows go. A leaf: nothing in here imports the service or the workers."""

from __future__ import annotations
