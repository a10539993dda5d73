"""What the use cases refuse, with its places."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.domain.errors import Permanent
from service.domain.inspection import Finding

if TYPE_CHECKING:
    from collections.abc import Sequence


class Refused(Permanent):
    """A definition that can not stand, with every place that is wrong. The code is the first finding's."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__(findings[0].code, "; ".join(finding.message for finding in findings))
        self.findings = tuple(findings)

    @classmethod
    def one(cls, code: str, pointer: str, message: str, hint: str = "") -> Refused:
        """With a single place."""
        return cls([Finding(pointer, "error", code, message, hint)])
