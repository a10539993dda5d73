"""The pages are what the code says, and every link in them leads somewhere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from docs.make import FOLDER, pages

if TYPE_CHECKING:
    from pathlib import Path

ROOT = FOLDER.parent
WRITTEN = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(FOLDER.rglob("*.md"))]


@pytest.mark.parametrize("name", sorted(pages()))
def test_a_generated_page_is_up_to_date(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == pages()[name], "run `make docs`"


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target
