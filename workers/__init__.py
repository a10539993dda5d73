"""The data side of Rowferry: read, cut, hand over, settle."""

from __future__ import annotations
