"""Jobs, runs, splits, states and the one transition table. Imports nothing of ours."""

from __future__ import annotations
