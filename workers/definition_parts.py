"""Parts of a stored definition that a source or a sink is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def key_of(definition: Mapping[str, object]) -> tuple[str, ...]:
    """The source's key as far as the definition names it."""
    source = definition.get("source")
    return tuple(source.get("key") or ()) if isinstance(source, dict) else ()


def section(definition: dict[str, object], name: str) -> dict[str, Any]:
    """An object of the definition, made where there is none; what is changed in it is changed there."""
    part = definition.setdefault(name, {})
    if not isinstance(part, dict):
        raise TypeError(f"{name} is stored as {type(part).__name__}, not as an object")
    return part


def put(definition: dict[str, Any], pointer: str, value: str) -> None:
    """Set the value at a JSON pointer (RFC 6901); the objects on the way exist or are made."""
    *way, last = (part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:])
    place = definition
    for part in way:
        place = place.setdefault(part, {})
    place[last] = value
