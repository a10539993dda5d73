"""The path of a file sink: which templates may be, and what they become."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from service.api.models import JobDefinition
from sinks.base import Owner
from sinks.file_path import check_path, expand, known, shared
from sinks.naming import check_path as check_expanded
from sinks.registry import DefinitionRefused, parse

OWNER = Owner("default", "0199a1b2", "orders", "r7", 12, "0", 5)
NOW = datetime(2026, 3, 9, 23, 59, tzinfo=UTC)

TEMPLATES = {
    # template: expanded, what all files of the job lie below, known without a job
    "a": ("a", "a", "a"),
    "a/b": ("a/b", "a/b", "a/b"),
    "a/{job}": ("a/orders", "a/orders", "a"),
    "{job_id}": ("0199a1b2", "0199a1b2", ""),
    "a/{job}/{date:%Y/%m/%d}/{run}": ("a/orders/2026/03/09/r7", "a/orders", "a"),
    "a/dt={date}/x": ("a/dt=2026-03-09/x", "a", "a"),
    "g{generation}-{date:%j}": ("g0012-068", "", ""),
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_becomes_a_folder_below_what_is_shared(template: str) -> None:
    folder, common, before = TEMPLATES[template]
    assert check_path(template) == template
    assert expand(template, OWNER, NOW) == folder
    assert shared(template, OWNER) == common
    assert known(template) == before
    assert folder.startswith(common)
    assert check_expanded(folder) == folder


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("a/{jobs}", "unknown variable {jobs}"),
        ("a/{date:%s}", "date code %s"),
        ("a/{job", "brace without its partner"),
        ("a/{date:%Y//%m}", "empty part in its date"),
        ("../{job}", "'..'"),
        ("a/{date:../%Y}", "'..'"),
        ("a/.{job}", "leading dot"),
        ("{date:.%Y}/a", "leading dot"),
        ("/{job}", "absolute"),
        ("a//{job}", "empty component"),
        ("a/{job}/", "ends with a slash"),
        ("a/{job}{job}{job}", "more than 255 bytes"),
        ("", "empty"),
    ],
)
def test_what_can_not_be_is_refused_at_its_field_before_anything(template: str, said: str) -> None:
    with pytest.raises(ValueError, match="path") as refused:
        check_path(template)
    assert said in str(refused.value)
    if template:
        with pytest.raises(DefinitionRefused) as told:
            parse({"kind": "file", "path": template})
        assert (told.value.pointer, told.value.code) == ("/sink/path", "path_not_allowed")


def test_a_definition_may_have_a_template() -> None:
    given: dict[str, Any] = {
        "name": "a", "source": {"datasource": "d", "table": "t"}, "sink": {"kind": "file", "path": "x/{job}/{date}"}
    }  # fmt: skip
    assert JobDefinition.model_validate(given).sink.path == "x/{job}/{date}"  # type: ignore[union-attr]
