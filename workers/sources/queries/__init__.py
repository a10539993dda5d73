"""The statements the reader sends to a source, by name: `load("relation")` is `relation.sql`.

Comments in the files are for people; the server gets them too, where they help whoever looks at pg_stat_activity.
Arrays go and come as text[] or oid[]: of any other array asyncpg first asks the server what it is, in a statement that
takes longer than all of these.
"""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def load(name: str) -> str:
    """The text of one statement."""
    return resources.files(__package__).joinpath(f"{name}.sql").read_text(encoding="utf-8").strip()
