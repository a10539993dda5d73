"""Folders as templates: which variables one may hold, and what it becomes. Pure functions.

`{job}` is the job's name, `{job_id}` its id, `{run}` the run's id, `{generation}` the generation's number, and
`{date:%Y/%m/%d}` the UTC time at which a file or object is begun or cut, through `%Y %m %d %H %j` (`{date}` alone:
`%Y-%m-%d`). What a template gives is fixed with the name of what goes there, which a repeat uses again whatever the
time and run are by then.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sinks.base import Owner

_VARIABLE: Final = re.compile(r"\{([^{}]*)\}")
_PLAIN: Final = ("job", "job_id", "run", "generation")
_MOVING: Final = ("run", "date", "generation")
"""What differs between the files of one job."""
_DATE_CODES: Final = frozenset("YmdHj")
_DEFAULT_DATE: Final = "%Y-%m-%d"
_SAMPLE: Final = datetime(2000, 12, 31, tzinfo=UTC)


def check_variables(value: str, said: str) -> str:
    """`value` with an `x` for each variable. Raises ValueError for one that does not exist; `said` begins messages."""
    for variable in _VARIABLE.findall(value):
        _check_variable(variable, said)
    plain = _VARIABLE.sub("x", value)
    if "{" in plain or "}" in plain:
        raise ValueError(f"{said} has a brace without its partner; a variable is written {{job}} or {{date:%Y/%m/%d}}")
    return plain


def _check_variable(variable: str, said: str) -> None:
    name, colon, code = variable.partition(":")
    if name != "date" or (colon and not code):
        if variable not in {*_PLAIN, "date"}:
            known = ", ".join(f"{{{one}}}" for one in (*_PLAIN, "date:%Y/%m/%d"))
            raise ValueError(f"{said} has the unknown variable {{{variable[:40]}}}; choose from {known}")
        return
    codes = re.findall(r"%(.?)", code)
    if not set(codes) <= _DATE_CODES:
        bad = next(one for one in codes if one not in _DATE_CODES)
        raise ValueError(f"{said} has the date code %{bad}; choose from %Y, %m, %d, %H and %j")
    if re.search(r"//|^/|/$", code):
        raise ValueError(f"{said} has an empty part in its date; write names with single slashes between them")


def expand(template: str, owner: Owner, now: datetime) -> str:
    """The folder that a file begun `now` goes to: empty, or with a slash at its end."""
    return _as_folder(_substituted(template, owner, now))


def common(template: str, owner: Owner) -> str:
    """What every file of the job has in front of its name, whatever run, generation and time it is of; for listings.
    Not always a whole folder."""
    start = _start(template)
    text = _substituted(start, owner, _SAMPLE)
    return text if start != template else _as_folder(text)


def common_folder(template: str, owner: Owner) -> str:
    """As `common`, cut behind its last slash: where what belongs to a whole generation lies."""
    folder, slash, _ = common(template, owner).rpartition("/")
    return folder + slash


def constant(template: str) -> str:
    """The folder before the first variable: known without a job."""
    start = template.partition("{")[0]
    folder, slash, _ = (_as_folder(start) if start == template else start).rpartition("/")
    return folder + slash


def is_constant(template: str) -> bool:
    """Whether all files of a job lie in one folder."""
    return _start(template) == template


def _start(template: str) -> str:
    for match in _VARIABLE.finditer(template):
        if match[1].partition(":")[0] in _MOVING:
            return template[: match.start()]
    return template


def _substituted(template: str, owner: Owner, now: datetime) -> str:
    def value(match: re.Match[str]) -> str:
        name, _, code = match[1].partition(":")
        if name == "date":
            return now.astimezone(UTC).strftime(code or _DEFAULT_DATE)
        plain = {
            "job": owner.job_name,
            "job_id": owner.job_id,
            "run": owner.run_id or "none",
            "generation": f"{owner.generation:04d}",
        }
        return plain[name]

    return _VARIABLE.sub(value, template)


def _as_folder(text: str) -> str:
    return text if not text or text.endswith("/") else f"{text}/"
