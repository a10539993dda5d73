"""From pydantic's errors to `errors: [{"pointer", "message", "hint"}]`: each names field, value and remedy.

A value is shown only where it can not be a secret: scalars of known fields whose name is not one of a secret.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from service.api.problems import FieldError, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic_core import ErrorDetails

M = TypeVar("M", bound=BaseModel)

_SECRET_NAME: Final = re.compile(r"password|secret|private_key|api_key|token|^url$", re.IGNORECASE)
_MOST_ERRORS: Final = 50
_HINTS: Final = {
    "missing": "add it",
    "extra_forbidden": "remove it",
    "string_type": "write a text",
    "int_type": "write a whole number",
    "float_type": "write a number",
    "bool_type": "write true or false",
    "bool_parsing": "write true or false",
    "list_type": "write a list",
    "dict_type": "write an object",
    "model_type": "write an object",
    "model_attributes_type": "write an object",
    "datetime_parsing": "write a time as 2026-01-31T12:00:00Z",
    "datetime_from_date_parsing": "write a time as 2026-01-31T12:00:00Z",
    "timezone_aware": "write a time with its zone, as 2026-01-31T12:00:00Z",
}


_JSON_NAMES: Final = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a number"}


def json_name(value: object) -> str:
    """What a JSON value is called in an error."""
    return "null" if value is None else _JSON_NAMES.get(type(value), "a number")


def validate(model: type[M], data: Any, *, known: Mapping[str, Any] | None = None) -> M:
    """`data` as the model. Raises Problem 422 `invalid_definition` with every error. `known` is a place to look up
    near names of unknown fields when the model's own are not enough."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise problem(error, data, names=_names(model, known)) from None
    except RecursionError:
        raise Problem(400, "malformed_json", "the body is nested too deep; send a flatter one") from None


def problem(error: ValidationError, data: Any, *, names: Sequence[str] = (), parameters: bool = False) -> Problem:
    """The 422 of a validation error; with `parameters` the fields are query parameters."""
    entries = [
        _entry(one, data, names, parameters=parameters)
        for one in error.errors(include_url=False, include_context=True)[:_MOST_ERRORS]
    ]
    code = "invalid_parameter" if parameters else "invalid_definition"
    if any(entry.code == "unknown_field" for entry in entries):
        code = "unknown_parameter" if parameters else "unknown_field"
    detail = "; ".join(f"{entry.message} ({entry.hint})" if entry.hint else entry.message for entry in entries[:5])
    return Problem(422, code, detail, errors=entries)


def _entry(error: ErrorDetails, data: Any, names: Sequence[str], *, parameters: bool) -> FieldError:
    path = _path(error["loc"], data)
    pointer = "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in path)
    field = ".".join(path) or ("a parameter without a name" if parameters else "the body")
    kind = error["type"]
    if kind == "extra_forbidden":
        what = "query parameter" if parameters else "field"
        near = difflib.get_close_matches(path[-1], names, n=1, cutoff=0.7) if path else []
        hint = f"did you mean {near[0]}?" if near else _HINTS[kind]
        entry = f"{field}: unknown {what}", hint, "unknown_field"
    else:
        text = error["msg"].removeprefix("Value error, ")
        if kind in {"union_tag_invalid", "union_tag_not_found"}:
            expected = (error.get("ctx") or {}).get("expected_tags", "")
            path = [*path, "kind"]
            pointer, field = pointer + "/kind", f"{field}.kind"
            if kind == "union_tag_not_found":  # pydantic does not say which there are
                kind, text = "missing", "field required"
            else:
                text = f"must be one of {expected}"
        shown = "" if kind == "missing" else _shown(path, _at(data, path, error.get("input")))
        entry = f"{field}{shown}: {text[:1].lower()}{text[1:]}", _HINTS.get(kind, _hint(error)), "invalid"
    message, hint, code = entry
    if parameters:
        return FieldError("", message, hint, parameter=path[0] if path else None, code=code)
    return FieldError(pointer, message, hint, code=code)


def _hint(error: ErrorDetails) -> str:
    context = error.get("ctx") or {}
    limits = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than", "expected": "one of"}
    said = [f"{word} {context[name]}" for name, word in limits.items() if name in context]
    return f"give {' and '.join(said)}" if said else "correct it"


def _path(location: Sequence[int | str], data: Any) -> list[str]:
    """The location without the tags that pydantic puts in for members of a union."""
    path: list[str] = []
    at = data
    for part in location:
        if isinstance(at, dict) and part not in at and at.get("kind") == part:
            continue
        path.append(str(part))
        if isinstance(at, dict):
            at = at.get(part)
        elif isinstance(at, list) and isinstance(part, int) and part < len(at):
            at = at[part]
        else:
            at = None
    return path


def _at(data: Any, path: Sequence[str], default: Any) -> Any:
    at = data
    for part in path:
        if isinstance(at, dict) and part in at:
            at = at[part]
        elif isinstance(at, list) and part.isdigit() and int(part) < len(at):
            at = at[int(part)]
        else:
            return default if at is not data else None
    return at


def _shown(path: Sequence[str], value: Any) -> str:
    if any(_SECRET_NAME.search(part) for part in path) or not isinstance(value, str | int | float | bool):
        return ""
    text = repr(value)
    return f" {text}" if len(text) <= 82 else f" {text[:80]}…"


def _names(model: type[BaseModel], known: Mapping[str, Any] | None) -> list[str]:
    """Every field name in the model and what it is made of."""
    schema = model.model_json_schema()
    found = set(known or ())
    for part in (schema, *schema.get("$defs", {}).values()):
        found.update(part.get("properties", {}))
    return sorted(found)
