"""What native-api.md describes and this version does not have yet: the one list.

A route answers 404, anything in a body 422, both with code `not_available`; none of it stands in /v1/info or
/openapi.json. tests/contract/test_native_api_page.py subtracts this list from the page, and fails when something on it
exists after all.
"""

from __future__ import annotations

from typing import Any, Final

from service.api.problems import FieldError, Problem

ROUTES: Final[tuple[tuple[str, str, str], ...]] = ()
"""Method, path, role. The role is asked for all the same: a stranger learns nothing."""

SINKS: Final[frozenset[str]] = frozenset()
FORMATS: Final[frozenset[str]] = frozenset()
FIELDS: Final[frozenset[str]] = frozenset()
OPTIONS: Final[frozenset[str]] = frozenset()
SETTINGS: Final[frozenset[str]] = frozenset()
"""Unknown until the dialect, the sink or the engine they belong to exists."""

ENGINES: Final = frozenset({"temporal"})


def route() -> Problem:
    """The answer of every route above."""
    return Problem(404, "not_available", "this route is not available in this version; GET /openapi.json lists what is")


def refuse(definition: Any, *, at: str = "") -> None:
    """Look through a definition as given (or a merge patch of one). Raises Problem 422 naming everything in it that is
    not available; what is unknown altogether, or of another type, is somebody else's to say."""
    found: list[FieldError] = []

    def add(pointer: str, value: object, hint: str) -> None:
        name = pointer[1:].replace("/", ".")
        shown = f" {value!r}" if isinstance(value, str | int | float) else ""
        found.append(
            FieldError(at + pointer, f"{name}{shown} is not available in this version", hint, code="not_available")
        )

    root = _mapping(definition)
    for pointer in sorted(FIELDS):
        if pointer[1:] in root:
            add(pointer, None, f"leave {pointer[1:]} out")
    for part, kinds in (("sink", SINKS), ("format", FORMATS)):
        kind = _mapping(root.get(part)).get("kind")
        if isinstance(kind, str) and kind in kinds:
            add(f"/{part}/kind", kind, "GET /v1/info lists what is available")
    options = _mapping(root.get("options"))
    for name in sorted(OPTIONS & options.keys()):
        add(f"/options/{name}", None, f"leave options.{name} out")
    if found:
        raise Problem(422, "not_available", "; ".join(entry.message for entry in found), errors=found)


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
