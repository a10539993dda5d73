"""The pages are what the code says, and every link in them leads somewhere."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, TypeGuard

import pytest

from docs.make import FOLDER, pages

if TYPE_CHECKING:
    from pathlib import Path

ROOT = FOLDER.parent
WRITTEN = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(FOLDER.rglob("*.md"))]
THERE = {page.name for page in (*WRITTEN, *(ROOT / "tests").rglob("*.md"))}


@pytest.mark.parametrize("name", sorted(pages()))
def test_a_generated_page_is_up_to_date(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == pages()[name], "run `make docs`"


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_heading_finds_it(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target, heading in re.findall(r"\]\(([^)#\s:]*)#([^)\s]+)\)", text):
        assert heading in _headings(page.parent / target if target else page), f"{target}#{heading}"


def _headings(page: Path) -> set[str]:
    """As GitHub makes anchors: lower case, hyphens for blanks, and of the rest no punctuation."""
    found = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in found}


def test_no_module_names_a_page_that_is_not_there() -> None:
    folders = ("service", "workers", "sinks", "config", "tests", "bench", "demo")
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        named = set(re.findall(r"\b([\w.-]+\.md)\b", path.read_text(encoding="utf-8")))
        assert named <= THERE, path


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_names_one_that_is_not_there(page: Path) -> None:
    named = set(re.findall(r"\b([\w.-]+\.md)\b", page.read_text(encoding="utf-8")))
    assert named <= THERE


ERRORS = (FOLDER / "errors.md").read_text(encoding="utf-8")
# What makes an error, a finding or an answer; its code is the first text among its arguments that looks like one.
MAKERS = {
    *("Permanent", "Transient", "RowsRejected", "Conflict", "Cause", "Problem", "Finding", "Refused"),
    *("SinkRefused", "SinkUnavailable", "PositionConflict", "Fenced", "Restage", "RowRejected"),
    *("DefinitionRefused", "SecretRefused", "SqlError", "invalid", "error"),
}
CODE = re.compile(r"[a-z]+(?:_[a-z]+)+|timeout|forbidden|unauthorized|invalid|fenced|stopped|aborted")


def _literals() -> set[str]:
    return {node.value for tree in _trees() for node in ast.walk(tree) if _is_code(node)}


def _made() -> set[str]:
    found = set()
    for tree in _trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                codes = [one.value for one in node.args[:4] if _is_code(one)] if name in MAKERS else []
                found |= set(codes[:1])
    return found


def _trees() -> list[ast.Module]:
    folders = ("service", "workers", "sinks", "config")
    return [ast.parse(path.read_text(encoding="utf-8")) for one in folders for path in (ROOT / one).rglob("*.py")]


def _is_code(node: ast.AST) -> TypeGuard[ast.Constant]:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and CODE.fullmatch(node.value) is not None


def test_every_error_code_has_its_remedy_and_no_other_is_told() -> None:
    told = set()
    for line in ERRORS.splitlines():
        if line.startswith("| `"):
            told |= set(re.findall(r"`([a-z_]+)`", line.split("|")[1]))
    inner = ERRORS.partition("## Never seen outside")[2]
    told |= set(re.findall(r"`([a-z_]+)`", inner))
    assert _made() - told == set(), "say in docs/errors.md what it means and what to do"
    assert told - _literals() == set(), "no such code"


@pytest.mark.parametrize(
    "page", [FOLDER / "guarantees.md", *sorted((FOLDER / "decisions").glob("*.md"))], ids=lambda page: page.name
)
def test_every_test_and_module_that_a_page_names_is_there(page: Path) -> None:
    named = re.findall(r"`((?:tests|service|workers|sinks|config|docs)/[\w./-]+)`", page.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []
