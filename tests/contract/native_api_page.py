"""Reads the tables and examples of docs/native-api.md, so that tests can compare them with the code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[2] / "docs" / "native-api.md"
TEXT = PAGE.read_text(encoding="utf-8")
_CODE = re.compile(r"`([^`]+)`")
_ROLES = {"v": "viewer", "o": "operator", "a": "admin", "-": "public"}


def section(title: str) -> str:
    """The text of one `##` section."""
    return TEXT.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def table(text: str) -> list[list[str]]:
    """The cells of the first table's rows, without its head."""
    rows = []
    for line in text.splitlines():
        if line.startswith("|"):
            rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))])
        elif rows:
            break
    return rows[2:]


def code(text: str) -> list[str]:
    """What stands in backticks."""
    return _CODE.findall(text)


def example(title: str) -> dict[str, Any]:
    """The JSON of a section."""
    block = section(title).split("```json\n", 1)[1].split("```", 1)[0]
    found: dict[str, Any] = json.loads(block.replace("{…}", "{}"))
    return found


def routes() -> dict[tuple[str, str], str]:
    """(method, path) -> role, for every request of the page."""
    found: dict[tuple[str, str], str] = {}
    for request, role, _answer in table(section("Requests")):
        asked = _requests(request)
        roles = [one.strip() for one in role.split(",")]
        for place, (method, path) in enumerate(asked):
            word = role.split("/")[0 if method == "GET" else 1] if "/" in role else roles[min(place, len(roles) - 1)]
            found[method, path] = _ROLES[word]
    return found


def answer_of(request: str) -> str:
    """The last cell of the row that begins with this request."""
    return next(row[2] for row in table(section("Requests")) if row[0].startswith(f"`{request}"))


def settings() -> set[str]:
    """Every setting of the table."""
    found = set()
    for row in table(section("Settings")):
        for name in code(row[0]):
            found.add("ROWFERRY" + name if name.startswith("_") else name)
    return found


def _requests(cell: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    pending: list[str] = []
    methods, first, last = ["GET"], "", ""
    for span in code(cell):
        match = re.fullmatch(r"(?:([A-Z]+(?:/[A-Z]+)*)\s*)?(\S*)", span)
        assert match is not None, span
        methods = match[1].split("/") if match[1] else methods
        path = match[2].partition("?")[0]
        if not path:
            pending += methods
            continue
        if path == "…":
            path = first
        elif path.startswith("…"):
            path = last.rpartition("/")[0] + path[1:]
        elif path.startswith(":"):
            path = last.rpartition(":")[0] + path
        elif last and not match[1]:
            path = last.rpartition("/")[0] + path
        first, last = first or path, path
        found += [(method, _plain(path)) for method in [*pending, *methods]]
        pending = []
    return found


def _plain(path: str) -> str:
    return "/v1/jobs/{job}" if path == "/v1/jobs/{name}" else path
