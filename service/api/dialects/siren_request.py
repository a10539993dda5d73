"""Reading requests of the Siren dialect: parts of the path, parameters, bodies. What is not understood is a 400."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter, ValidationError

from service.api import bodies
from service.api.bodies import storable
from service.api.dialects.siren_answers import Failure, invalid, not_found
from service.domain.spec import NAME_PATTERN, Name

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from service.api.routes import Call

INGESTION: Final = "ingestion"
"""The only type of job."""
WINDOW: Final = ("from", "size")
_LARGEST_WINDOW: Final = 10_000
"""As Elasticsearch's `index.max_result_window`."""
_NAME: Final[TypeAdapter[str]] = TypeAdapter(Name)
_OF_ANY_REQUEST: Final = frozenset({"pretty"})


def name(call: Call) -> str:
    """The name in the path, for what must be there. Raises Failure 404 for one that nothing can have."""
    given = call.part("id")
    if not is_name(given):
        raise missing(given)
    return given


def new_name(call: Call) -> str:
    """The name in the path, for what may be made under it. Raises Failure 400."""
    given = call.part("id")
    if not is_name(given):
        raise invalid(f"the id {given[:80]!a} can not be used; ids match {NAME_PATTERN} and are no UUID")
    return given


@lru_cache(maxsize=4096)
def is_name(text: str) -> bool:
    """Whether a job or a datasource can be called this."""
    try:
        _NAME.validate_python(text)
    except ValidationError:
        return False
    return True


def missing(given: str) -> Failure:
    """404 for a document of this name."""
    return not_found({"_id": given[:256], "found": False})


def parameters(call: Call, known: Collection[str] = ()) -> dict[str, str]:
    """The query's parameters but for those that any request may have. Raises Failure 400 for one that is unknown, is
    given twice, or can not be kept."""
    if not call.request.query_string:
        return {}
    query = call.request.query
    for one in dict.fromkeys(query):
        if one not in known and one not in _OF_ANY_REQUEST:
            raise invalid(f"request [{call.request.path[:200]}] contains unrecognized parameter: [{one[:80]!a}]")
        if len(query.getall(one)) > 1:
            raise invalid(f"the parameter [{one}] is given {len(query.getall(one))} times; give it once")
        if not storable(query[one]):
            raise invalid(f"the parameter [{one}] holds a NUL or half of a surrogate pair; remove it")
    return {one: query[one] for one in known if one in query}


def searched(call: Call, known: Collection[str]) -> dict[str, str]:
    """As `parameters`, of a search: Elasticsearch's clients send them in the body of a POST as well. Those of the query
    win."""
    found = parameters(call, known)
    for one, value in body(call).items():
        if one not in known:
            raise invalid(f"the body contains unrecognized field: [{one[:80]!a}]")
        if not isinstance(value, int | str) or isinstance(value, bool):
            raise invalid(f"failed to parse [{one}]; give a text or a whole number")
        found.setdefault(one, str(value))
    return found


def window(given: Mapping[str, str], default: int | None, remedy: str) -> tuple[int, int]:
    """How many of what is found to pass over, and how many to show. `default` None shows them all, as far as
    Elasticsearch would. Raises Failure 400 beyond that."""
    skip = whole(given, "from", 0, _LARGEST_WINDOW)
    size = whole(given, "size", _LARGEST_WINDOW - skip if default is None else default, _LARGEST_WINDOW)
    if skip + size > _LARGEST_WINDOW:
        raise invalid(
            f"Result window is too large, from + size must be less than or equal to: [{_LARGEST_WINDOW}] but was "
            f"[{skip + size}]; {remedy}"
        )
    return skip, size


def whole(given: Mapping[str, str], name: str, default: int, most: int) -> int:
    """A number of the query. Raises Failure 400."""
    text = given.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 15 and int(text) <= most):
        shown = ascii(text[:80])[1:-1]
        raise invalid(f"failed to parse [{name}] with value [{shown}]; give a whole number from 0 to {most}")
    return int(text)


def body(call: Call) -> dict[str, Any]:
    """The body as an object, whatever its content type says; empty where there is none. Raises Problem 400, or Failure
    for another JSON value."""
    if not call.body.strip():
        return {}
    given = bodies.parse(call.body)
    if not isinstance(given, dict):
        raise invalid("the body is no JSON object")
    return given


def no_body(call: Call) -> None:
    """For requests that take none: one would be accepted and ignored. Raises as `body`."""
    if body(call):
        raise invalid("this request takes no body; send none, or {}")
