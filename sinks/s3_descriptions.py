"""botocore's descriptions of services, without what nobody reads here: 8 MB of a process that writes to S3.

Of the endpoints of every service of AWS those of S3 and of what gives credentials are kept, and of what describes an
operation everything but the texts for people.
"""

from __future__ import annotations

from typing import Any, Final

from botocore.loaders import JSONFileLoader  # type: ignore[import-untyped]

_SERVICES: Final = frozenset({"oidc", "portal.sso", "s3", "s3-control", "signin", "sso", "sts"})


class Descriptions(JSONFileLoader):  # type: ignore[misc]  # botocore has no types
    """Reads the files of a botocore session's loader: its `file_loader`."""

    def load_file(self, file_path: str) -> Any:
        """As botocore's own; None where there is no such file."""
        found = super().load_file(file_path)
        if not isinstance(found, dict):
            return found
        for partition in found.get("partitions", ()):
            if (known := partition.get("services")) is not None:
                partition["services"] = {name: known[name] for name in _SERVICES & known.keys()}
        _forget_texts(found)
        return found


def _forget_texts(found: Any) -> None:
    if isinstance(found, dict):
        if isinstance(found.get("documentation"), str):
            found["documentation"] = ""  # it is asked for, and may be empty
        for value in found.values():
            _forget_texts(value)
    elif isinstance(found, list):
        for value in found:
            _forget_texts(value)
