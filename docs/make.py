"""Makes the pages that are made from code: `make docs`. A test compares them with what this would write."""

from __future__ import annotations

import ast
import inspect
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

from service.domain import states

if TYPE_CHECKING:
    from collections.abc import Iterator
    from enum import StrEnum

FOLDER = Path(__file__).resolve().parent
_MADE = "<!-- Made from {source} by `make docs`; do not edit. -->\n\n"


def pages() -> dict[str, str]:
    """Name and text of every generated page."""
    return {
        "states.md": _MADE.format(source="service/domain/states.py") + _states(),
    }


def main() -> None:
    """Write them."""
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


def _states() -> str:
    lines = ["# The states of a job", ""]
    lines += [
        "Desired (`run`, `stop`, `abort`) and observed state are both stored and both shown. Each transition is one",
        "conditional UPDATE under the lock of the job's row, with its event in the same transaction.",
        "",
        "```mermaid",
        "stateDiagram-v2",
        f"  [*] --> {states.State.CREATED}: create",
    ]
    lines += [f"  {state} --> {target}: {event}" for (state, event), target in states.TRANSITIONS.items()]
    lines += [f"  {state} --> [*]: remove" for state in states.State if state in states.REMOVABLE]
    lines += ["```", "", "| state | means | verbs that set something in motion |", "|---|---|---|"]
    meant = _docstrings(states.State)
    lines += [f"| `{state}` | {meant[state.name]} | {_verbs(state)} |" for state in states.State]
    lines += ["", "| from | event | to | desired then |", "|---|---|---|---|"]
    for (state, event), target in states.TRANSITIONS.items():
        desired = states.desired_after(state, event)
        lines.append(f"| `{state}` | {event} | `{target}` | {f'`{desired}`' if desired else '-'} |")
    happens = _docstrings(states.Event)
    lines += ["", "| event | happens when |", "|---|---|"]
    lines += [f"| {event} | {happens[event.name]} |" for event in states.Event if event.name in happens]
    lines += [
        "",
        "A successful job starts again when its mode is `full` or `incremental`; with `once` and `continuous` only",
        "from the beginning, or when a checkpoint PUT or `?position=` made its generation. Verbs that find their work",
        "done (start on a running job, stop on a stopped one) answer 200 and change nothing.",
        "",
    ]
    return "\n".join(lines)


def _verbs(state: states.State) -> str:
    return ", ".join(states.verbs(state)) or "-"


def _docstrings(enumeration: type[StrEnum]) -> dict[str, str]:
    """The text behind each member, by the member's name."""
    return dict(_members(ast.parse(inspect.getsource(enumeration)).body[0]))


def _members(definition: ast.stmt) -> Iterator[tuple[str, str]]:
    body = definition.body if isinstance(definition, ast.ClassDef) else []
    for member, text in itertools.pairwise(body):
        if not isinstance(member, ast.Assign) or not isinstance(text, ast.Expr):
            continue
        if isinstance(member.targets[0], ast.Name) and isinstance(text.value, ast.Constant):
            yield member.targets[0].id, " ".join(str(text.value.value).split()).replace("|", "\\|")


if __name__ == "__main__":
    main()
