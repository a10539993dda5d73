"""Named statements from `queries/*.sql`.

A statement begins with a line `-- name: <name>`; comment lines after it say what it is for and are not sent.
"""

from __future__ import annotations

import re
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME = re.compile(r"^-- name: ([a-z_]+)$")


def parse(text: str) -> dict[str, str]:
    """The statements by name. Raises ValueError for text before the first name, a name used twice, or one without a
    statement."""
    found: dict[str, list[str]] = {}
    lines: list[str] | None = None
    for line in text.splitlines():
        if match := _NAME.match(line):
            if match[1] in found:
                raise ValueError(f"the query {match[1]!r} stands twice")
            lines = found[match[1]] = []
        elif line.strip() and not line.lstrip().startswith("--"):
            if lines is None:
                raise ValueError(f"no '-- name:' before {line!r}")
            lines.append(line)
    if empty := [name for name, body in found.items() if not body]:
        raise ValueError(f"no statement under {empty}")
    return {name: "\n".join(body).rstrip().removesuffix(";") for name, body in found.items()}


def load(module: str) -> Mapping[str, str]:
    """The statements of `queries/<module>.sql`."""
    return parse(resources.files(__package__).joinpath("queries", f"{module}.sql").read_text(encoding="utf-8"))
