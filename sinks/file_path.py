"""The path of a file sink: a template of `sinks.templates`, within what may stand below an account's folder.

All folders here are relative to that one, without a slash at their end; it is empty itself. Pure functions.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from sinks import naming, templates
from sinks.base import Owner

if TYPE_CHECKING:
    from collections.abc import Sequence

_LONGEST: Final = Owner("", "0" * 36, "j" * 128, "0" * 36, 9999, "0", 0)
"""Names of the greatest length: what is checked with them can not be too long, or lead elsewhere, with others."""
_MOMENT: Final = datetime(2000, 12, 31, 23, tzinfo=UTC)


def check_path(value: str, field: str = "path") -> str:
    """Return `value` when it can be a path, whatever its variables become. Raises ValueError naming field, value and
    remedy."""
    templates.check_variables(value, f"{field} {value[:100]!r}")
    try:
        naming.check_path(templates.expand(value, _LONGEST, _MOMENT).removesuffix("/") if value else value, field)
    except ValueError as error:
        if "{" not in value:
            raise
        raise ValueError(f"{error} (with its variables put in)") from None
    if value.endswith("/"):
        raise ValueError(f"{field} {value[:100]!r} ends with a slash; leave it out")
    return value


def expand(template: str, owner: Owner, now: datetime) -> str:
    """The folder that a chunk cut `now` goes to."""
    return templates.expand(template, owner, now).removesuffix("/")


def shared(template: str, owner: Owner) -> str:
    """The folder that all files of the job lie in or below, whatever run, generation and time they are of: where
    manifests and temporary files are."""
    return templates.common_folder(template, owner).removesuffix("/")


def known(template: str) -> str:
    """The folder before the first variable: there before any job writes, and missed when it is gone."""
    return templates.constant(template).removesuffix("/")


def components(folder: str) -> Sequence[str]:
    """Its parts, none for the account's folder itself."""
    return folder.split("/") if folder else ()


def joined(folder: str, name: str) -> str:
    """A name in a folder."""
    return f"{folder}/{name}" if folder else name
