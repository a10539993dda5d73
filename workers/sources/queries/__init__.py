"""The statements the reader sends to a source, by name: `load("relation")` is `relation.sql`.

Comments in the files are for people; the server gets them too, where they help whoever looks at pg_stat_activity.
"""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def load(name: str) -> str:
    """The text of one statement."""
    return resources.files(__package__).joinpath(f"{name}.sql").read_text(encoding="utf-8").strip()
