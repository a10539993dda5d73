"""The columns of a generation, stored and read again."""

from __future__ import annotations

import json

import pytest

from sinks.formats import columns
from sinks.formats.columns import Column

GIVEN = (
    Column("id", "bigint", not_null=True),
    Column("price", "numeric(12,2)"),
    Column("moods", "public.mood[]", dimensions=2, enum=True),
)


def test_columns_survive_being_stored_as_json() -> None:
    assert columns.from_json(json.loads(json.dumps(columns.to_json(GIVEN)))) == GIVEN


def test_a_generation_planned_without_columns_has_none() -> None:
    assert columns.from_json(None) == ()


def test_fields_of_a_later_version_are_left_out() -> None:
    assert columns.from_json([{"name": "id", "type": "bigint", "later": 1}]) == (Column("id", "bigint"),)


@pytest.mark.parametrize("stored", ["id", ["id"], [{"name": "id"}], {"name": "id", "type": "bigint"}])
def test_what_is_no_list_of_columns_is_refused(stored: object) -> None:
    with pytest.raises(ValueError, match="column"):
        columns.from_json(stored)
