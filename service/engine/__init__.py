"""Who works on a step, and who notices when somebody died."""

from __future__ import annotations
