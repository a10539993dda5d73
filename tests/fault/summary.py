"""What a run of the fault suite met and found: one `Result` a sink, and the table of all of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

COLUMNS = (
    ("sink", 14),
    ("seed", 8),
    ("faults", 7),
    ("recoveries", 11),
    ("longest s", 10),
    ("silent s", 9),
    ("runs", 6),
    ("rows", 9),
    ("missing", 8),
    ("doubled", 8),
    ("minutes", 8),
)


@dataclass
class Result:
    """Of one sink. `recoveries`: how long, in seconds from the end of each moment's faults, until every job had
    delivered something again; `silence`: the longest that a job neither moved nor said what it waits for."""

    sink: str
    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    """By kind and place."""
    recoveries: list[float] = field(default_factory=list)
    silence: float = 0.0
    said: set[str] = field(default_factory=set)
    """What jobs said that they waited for."""
    runs: int = 0
    rows: int = 0
    missing: int = 0
    doubled: int = 0
    seconds: float = 0.0

    @property
    def count(self) -> int:
        """Of all faults."""
        return self.faults.total()

    def cells(self) -> tuple[str, ...]:
        """In the order of `COLUMNS`."""
        numbers = (f"{max(self.recoveries, default=0.0):.1f}", f"{self.silence:.1f}", str(self.runs), str(self.rows))
        found = (str(self.missing), str(self.doubled), f"{self.seconds / 60:.1f}")
        return (self.sink, str(self.seed), str(self.count), str(len(self.recoveries)), *numbers, *found)

    def kinds(self) -> Counter[str]:
        """Faults by kind, wherever they hit."""
        found: Counter[str] = Counter()
        for name, count in self.faults.items():
            found[name.partition(" ")[0]] += count
        return found


RESULTS: list[Result] = []
"""Of this process, in the order in which they ended."""


def table(results: list[Result]) -> list[str]:
    """The lines to print: one a sink, then the faults by kind, then what jobs said."""
    lines = ["".join(name.rjust(width) for name, width in COLUMNS)]
    widths = [width for _, width in COLUMNS]
    lines += ["".join(cell.rjust(width) for cell, width in zip(one.cells(), widths, strict=True)) for one in results]
    kinds = sorted({kind for one in results for kind in one.kinds()})
    lines += ["", "faults by kind".ljust(20) + "".join(one.sink.rjust(15) for one in results)]
    lines += [kind.ljust(20) + "".join(str(one.kinds()[kind]).rjust(15) for one in results) for kind in kinds]
    lines += ["", *(f"{one.sink} waited for: {', '.join(sorted(one.said)) or '-'}" for one in results)]
    return lines
