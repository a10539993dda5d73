"""The page of types says what is."""

from __future__ import annotations

from tests.integration import types_page


async def test_the_page_of_types_is_what_postgres_and_the_formats_make(database: str) -> None:
    made = await types_page.text(database)
    assert types_page.PAGE.read_text(encoding="utf-8") == made, "run python -m tests.integration.types_page"
