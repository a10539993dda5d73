"""The statements the reader sends to a source, by name: `load("relation")` is `relation.sql`.

Comments in the files are for people; the server gets them too, where they help whoever looks at pg_stat_activity.
Arrays go and come as text[] or oid[]: of any other array asyncpg first asks the server what it is, in a statement that
takes longer than all of these.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import Final

_PART: Final = re.compile(r"^--> (\w+)$", re.MULTILINE)


@cache
def load(name: str) -> str:
    """The text of one statement; where it has a line `--> name`, that file's text stands there."""
    text = resources.files(__package__).joinpath(f"{name}.sql").read_text(encoding="utf-8").strip()
    return _PART.sub(lambda part: load(part[1]), text)
