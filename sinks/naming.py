"""Names of what a sink leaves behind: which paths a definition may ask for, and how chunks are called.

Pure functions. Nothing here touches a file system: `sinks.folders` opens what these names say.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import date

    from sinks.base import Key

HIDDEN = ".rowferry"
"""Folder of temporary files inside a job's folder. No path of a definition can reach it: see `check_path`."""

PROBE = "probe-"
"""How the names of the files begin with which a file system is tried."""

LONGEST_NAME = 255
LONGEST_PATH = 1024

_FINE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_OWN_VARIABLE = re.compile(r"\{(job_id|split|number)\}")
_TEMPORARY = re.compile(r"e(\d+)-c\d+-[0-9a-f]+\.part")


def check_path(value: str, field: str = "path") -> str:
    """Return `value` when it may stand below an account's folder.

    Raises ValueError naming field, value and remedy. To be called on the expanded text: what is checked is what is
    opened. The check is lexical; that no component is a link is checked when it is opened.
    """
    said = f"{field} {value[:100]!r}"
    if not value:
        raise ValueError(f"{field} is empty; give a folder relative to the account's folder, such as exports/orders")
    if "\x00" in value:
        raise ValueError(f"{said} holds a NUL; remove it")
    if value.startswith("/"):
        raise ValueError(f"{said} is absolute; give a folder relative to the account's folder, without leading slash")
    if "{" in value or "}" in value:
        raise ValueError(f"{said} holds a brace; templates are not available here, write the folder out")
    if _CONTROL.search(value):
        raise ValueError(f"{said} holds a control character; remove it")
    try:
        encoded = value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{said} is not valid Unicode; write it in UTF-8") from error
    if len(encoded) > LONGEST_PATH:
        raise ValueError(f"{said} has {len(encoded)} bytes; give at most {LONGEST_PATH}")
    for component in value.split("/"):
        _check_component(component, said)
    return value


def _check_component(component: str, said: str) -> None:
    if not component:
        raise ValueError(f"{said} has an empty component; write single slashes, and none at the end")
    if component == "..":
        raise ValueError(f"{said} holds '..'; give a folder below the account's folder")
    if component.startswith("."):
        raise ValueError(f"{said} has the component {component[:60]!r} with a leading dot; choose a name without it")
    if len(component.encode()) > LONGEST_NAME:
        raise ValueError(f"{said} has a component of more than {LONGEST_NAME} bytes; make it shorter")


def range_hash(lower: Key | None, last: Key) -> str:
    """Eight hex digits that stand for the key range (lower, last]: chunks cut differently never share a name."""
    text = json.dumps([lower, last], ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def generation_prefix(job_id: str, generation: int) -> str:
    """What every file of a generation begins with, and nothing else does."""
    return f"{_part('job_id', job_id)}-g{generation:04d}-"


def chunk_name(job_id: str, generation: int, split: str, sequence: int, hashed: str, extension: str) -> str:
    """The default name of a chunk's file: sorted by name is sorted by generation, split and sequence."""
    return f"{generation_prefix(job_id, generation)}s{_split(split)}-{sequence:08d}-{hashed}{extension}"


def planned_files(job_id: str, generation: int) -> re.Pattern[str]:
    """Matches the chunk files of a generation's planned splits; those of dead-letter retries are left out."""
    return re.compile(re.escape(generation_prefix(job_id, generation)) + r"s\d+-\d+-[0-9a-f]{8}\..+")


def planned_folders(job_id: str, generation: int) -> re.Pattern[str]:
    """Matches the temporary folders of a generation's planned splits, of its days and of its finish step."""
    return re.compile(re.escape(generation_prefix(job_id, generation)) + r"(s\d+|days|finish)")


def manifest_name(job_id: str, generation: int) -> str:
    """The file that closes a generation. The underscore keeps it out of readers that take whole folders."""
    return f"{manifest_start(job_id, generation)}.json"


def day_manifest_name(job_id: str, generation: int, day: date) -> str:
    """The file that lists one day of a continuous generation."""
    return f"{manifest_start(job_id, generation)}-{day.isoformat()}.json"


def manifest_start(job_id: str, generation: int) -> str:
    """What the names of all manifests of a generation begin with."""
    return f"_manifest-{generation_prefix(job_id, generation)[:-1]}"


def days_folder(job_id: str, generation: int) -> str:
    """Folder below `HIDDEN` in which the manifests of days are written before they are renamed."""
    return f"{generation_prefix(job_id, generation)}days"


def day_temporary(split: str, token: str) -> str:
    """Name of a manifest in that folder: with the split that writes it, so that its next owner knows what was left."""
    return f"{day_temporaries(split)}{token}.part"


def day_temporaries(split: str) -> str:
    """What the names of all of one split begin with."""
    return f"s{_split(split)}-"


def check_own_name(value: str) -> str:
    """Return `value` when it can name the chunks of a job: `{number}` ends it, but for an extension, `{job_id}` and
    `{split}` may stand before. Raises ValueError naming value and remedy."""
    said = f"name {value[:100]!r}"
    plain = _OWN_VARIABLE.sub("", value)
    if value.count("{number}") != 1 or not re.fullmatch(r"(\.[A-Za-z0-9]+)*", value.partition("{number}")[2]):
        raise ValueError(f"{said} does not end in {{number}} (and an extension); two chunks would have one name")
    if not re.fullmatch(r"[A-Za-z0-9._=-]*", plain) or value.startswith((".", "_manifest")) or len(value) > 150:
        raise ValueError(
            f"{said} may hold up to 150 letters, digits and . _ - = beside {{job_id}}, {{split}} and {{number}}, and "
            "begin neither with a dot nor as a manifest does"
        )
    return value


def own_name(template: str, job_id: str, split: str, number: int, extension: str) -> str:
    """A chunk's file by a name of the definition's own; `extension` where that has none."""
    values = {"job_id": _part("job_id", job_id), "split": _part("split", split), "number": f"{number:03d}"}
    name = _OWN_VARIABLE.sub(lambda match: values[match[1]], template)
    return name + extension if template.endswith("{number}") else name


def own_prefix(template: str, job_id: str) -> str:
    """What every name of one job begins with."""
    return template.replace("{job_id}", job_id).partition("{")[0]


def split_folder(job_id: str, generation: int, split: str) -> str:
    """Folder below `HIDDEN` for the temporary files of one split, so that fencing lists few names."""
    return f"{generation_prefix(job_id, generation)}s{_split(split)}"


def finish_folder(job_id: str, generation: int) -> str:
    """Folder below `HIDDEN` in which the finish step writes the manifest before it is renamed."""
    return f"{generation_prefix(job_id, generation)}finish"


def temporary_name(epoch: int, count: int, token: str) -> str:
    """Name of a temporary file: the epoch for fencing, the writer's own count of tries, and a random token because
    one epoch may have several writers after each other."""
    return f"e{epoch:08d}-c{count:06d}-{token}.part"


def epoch_of(temporary: str) -> int | None:
    """The epoch in a temporary file's name; None when the name is not one of ours."""
    found = _TEMPORARY.fullmatch(temporary)
    return int(found.group(1)) if found else None


def _split(split: str) -> str:
    return split.zfill(4) if split.isdecimal() and split.isascii() else _part("split", split)


def _part(field: str, value: str) -> str:
    if not _FINE.fullmatch(value):
        raise ValueError(f"{field} {value[:60]!r} can not stand in a name; use letters, digits, dots, hyphens")
    return value
