"""The prefix of an S3 sink: a template of `sinks.templates`, within what S3 takes as a key."""

from __future__ import annotations

import re
from typing import Final

from sinks.templates import check_variables, common, common_folder, constant, expand, is_constant

__all__ = ["LONGEST", "check_prefix", "common", "common_folder", "constant", "expand", "is_constant"]

LONGEST: Final = 512
"""Bytes of an expanded prefix: the rest of S3's 1,024 is for the name."""


def check_prefix(value: str) -> str:
    """Return `value` when it can be a prefix. Raises ValueError naming value and remedy."""
    said = f"prefix {value[:100]!r}"
    plain = check_variables(value, said)
    if value.startswith("/"):
        raise ValueError(f"{said} begins with a slash, which would be a folder without a name; leave it out")
    if re.search(r"[\x00-\x1f\x7f\\]", value):
        raise ValueError(f"{said} holds a control character or a backslash; remove it")
    if any(part in {"", ".", ".."} for part in plain.removesuffix("/").split("/")) and value:
        raise ValueError(f"{said} has an empty part, '.' or '..'; write names with single slashes between them")
    try:
        length = len(plain.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"{said} is not valid Unicode; write it in UTF-8") from error
    if length > LONGEST // 2:
        raise ValueError(f"{said} has {length} bytes beside its variables; give at most {LONGEST // 2}")
    return value
