"""The HTTP side of Rowferry: what should happen, and what did."""

from __future__ import annotations

__version__ = "0.1.0"
