"""Whether two jobs write into one folder. Pure.

S3 is left out: its names carry the job's id, every listing is by that id, and a prefix is no folder that a job owns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from service.domain.errors import Conflict

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

KINDS: Final = ("file", "hdfs")
"""Sinks that look at a whole folder, and remove what lies about in it."""
_PORTS: Final = {"http": "9870", "webhdfs": "9870", "https": "9871", "swebhdfs": "9871"}


def folder_of(sink: Any) -> str | None:
    """The folder that a sink's definition names, also of one that nobody has looked at yet; None where it has none."""
    if not isinstance(sink, dict) or sink.get("kind") not in KINDS or not isinstance(sink.get("path"), str):
        return None
    return str(sink["path"]).rstrip("/")


def meet(sink: Any, other: Any) -> bool:
    """Whether one of the two sinks writes into the other's folder, or below it."""
    one, two = folder_of(sink), folder_of(other)
    if one is None or two is None or sink["kind"] != other["kind"]:
        return False
    if not (one == two or one.startswith(f"{two}/") or two.startswith(f"{one}/")):
        return False
    return sink["kind"] == "file" or bool(_name_nodes(sink) & _name_nodes(other))


def refusal(path: str, name: str, other: str, state: str) -> Conflict:
    """Conflict `path_in_use`."""
    return Conflict(
        "path_in_use",
        f"sink.path {path!r} of job {name!r} is in use by job {other!r}, which is {state}",
        hint="let that one end, or give this one another path",
        job=other,
    )


def _name_nodes(sink: Mapping[str, Any]) -> set[str]:
    """Host and port of each NameNode: two definitions that name one of them in common mean the same cluster."""
    found: set[str] = set()
    scheme = "http"
    for part in str(sink.get("url", "")).lower().split(","):
        given, sign, rest = part.strip().rpartition("://")
        scheme, rest = given if sign else scheme, rest.rstrip("/")
        port = rest.rpartition("]")[2].partition(":")[2]
        found.add(rest if port else f"{rest.rstrip(':')}:{_PORTS.get(scheme, '')}")
    return found
