"""Keeps secrets out of logs, errors and events: registered values and passwords inside URLs become `***`.

Whoever decrypts or receives a secret registers it before using it. Values are kept in memory for the life of the
process, in the forms in which libraries print them: as they are, percent-encoded, and escaped as in JSON or a repr.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final
from urllib.parse import quote, quote_plus

MASK: Final = "***"
# A value of fewer characters stands everywhere by chance; masking it would make the log unreadable and say what it is.
SHORTEST: Final = 4

_URL_PASSWORD = re.compile(
    r"(\b[a-zA-Z][a-zA-Z0-9+.-]{0,30}://[^\s/:@?#'\"]*:)[^\s'\"]*?(@(?=[^\s@/?#'\"]*(?:[/?#\s'\"]|$)))"
)
_SECRET_NAME = re.compile(r"password|passwd|secret|private_?key|api_?key|authorization|(^|_)token$", re.IGNORECASE)


class Redactor:
    """A set of secret values and the pattern that finds them."""

    def __init__(self) -> None:
        self._values: set[str] = set()
        self._forms: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def register(self, *values: str | None) -> None:
        """From now on these values are masked. Cheap to repeat."""
        before = len(self._forms)
        for value in values:
            if value is not None and value not in self._values and len(value) >= SHORTEST:
                self._values.add(value)
                self._forms.update(_forms(value))
        if len(self._forms) != before:
            longest_first = sorted(self._forms, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    @property
    def known(self) -> int:
        """How much is masked: what was scrubbed while this was another number may have to be scrubbed again."""
        return len(self._forms)

    def scrub(self, text: str) -> str:
        """`text` without registered secrets and without passwords in URLs."""
        if self._pattern is not None:
            text = self._pattern.sub(MASK, text)
        if "://" in text:
            text = _URL_PASSWORD.sub(rf"\g<1>{MASK}\g<2>", text)
        return text

    def scrub_value(self, value: Any, name: str = "") -> Any:
        """As `scrub`, through mappings and sequences; a text under a name such as `password` is masked whole."""
        if isinstance(value, str):
            return MASK if value and name and _SECRET_NAME.search(name) else self.scrub(value)
        if isinstance(value, dict):
            return {self._key(key): self.scrub_value(item, str(key)) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.scrub_value(item, name) for item in value]
        if value is None or isinstance(value, bool | int | float):
            return value
        return self.scrub(str(value))

    def _key(self, key: object) -> str:
        return self.scrub(str(key))


def _forms(value: str) -> set[str]:
    forms = {value, quote(value), quote(value, safe=""), quote_plus(value)}
    forms |= {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], repr(value)[1:-1]}
    # A key in PEM is printed line by line as often as whole.
    forms |= {line for line in value.splitlines() if len(line) >= 32 and not line.startswith("-----")}
    return forms


REDACTOR: Final = Redactor()
"""The process's own: logs, problems and events go through it."""


def register(*values: str | None) -> None:
    """`Redactor.register` of the process's redactor."""
    REDACTOR.register(*values)


def scrub(text: str) -> str:
    """`Redactor.scrub` of the process's redactor."""
    return REDACTOR.scrub(text)
