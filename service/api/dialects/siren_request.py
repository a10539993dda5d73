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
    from collections.abc import Collection

    from service.api.routes import Call

INGESTION: Final = "ingestion"
"""The only type of job."""
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
