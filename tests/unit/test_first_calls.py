"""What README and operations.md tell a reader to send is what the service takes."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import pytest

from docs.make import FOLDER
from service.api.app import TABLE
from service.api.models import DatasourceByUrl, JobDefinition

PAGES: Final = {name: (FOLDER.parent / name).read_text("utf-8") for name in ("README.md", "docs/operations.md")}


def calls(page: str) -> list[tuple[str, str, Any]]:
    """Method, path and body of every curl in the blocks of a page."""
    found = []
    for block in re.findall(r"```\n(.*?)```", PAGES[page], re.DOTALL):
        for call in re.findall(r"^curl (.*?)(?=^\S|\Z)", block, re.DOTALL | re.MULTILINE):
            method = re.search(r"-X (\w+)", call)
            url = re.search(r"(?:\$U|http://127\.0\.0\.1:8080)(/[^\s\"]*)", call)
            assert url is not None, call
            path = url[1] if "127.0.0.1:8080" in call.split("-d")[0] else f"/v1{url[1]}"
            body = re.search(r"-d '(.*)'", call, re.DOTALL)
            found.append((method[1] if method else "GET", path, json.loads(body[1]) if body else None))
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_call_goes_to_a_route_with_parameters_that_it_takes(page: str) -> None:
    assert len(calls(page)) >= 4
    for method, path, _ in calls(page):
        place, _, query = path.partition("?")
        routes = [
            route
            for route in TABLE
            if route.method == method and re.fullmatch(re.sub(r"\{\w+\}", "[^/:]+", route.path), place)
        ]
        assert routes, (method, place)
        for name in re.findall(r"(\w+)=", query):
            assert routes[0].query is not None, path
            assert name in routes[0].query.model_fields, path


def test_the_definitions_of_the_readme_are_taken() -> None:
    bodies = {path: body for _, path, body in calls("README.md") if body is not None}
    assert DatasourceByUrl.model_validate(bodies["/v1/datasources/shop"])
    assert JobDefinition.model_validate(bodies["/v1/jobs"]).name == "orders-to-kafka"
