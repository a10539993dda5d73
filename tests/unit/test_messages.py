from __future__ import annotations

import re
from pathlib import Path
from string import Formatter

import pytest

from config.messages import SENTENCES, sentence
from config.names import LogEvent

ROOT = Path(__file__).resolve().parents[2]
BOUND = {"where", "epoch", "split", "step"}
"""What every line of a step carries."""


def test_every_event_of_a_step_has_a_sentence() -> None:
    files = ROOT.glob("workers/**/*.py")
    logged = {name for file in files for name in re.findall(r"LogEvent\.([A-Z_]+)", file.read_text(encoding="utf-8"))}
    assert len(logged) > 15
    assert {LogEvent[name] for name in logged} <= SENTENCES.keys()


def test_a_sentence_asks_for_fields_that_somebody_writes() -> None:
    sources = [*ROOT.glob("service/**/*.py"), *ROOT.glob("workers/**/*.py")]
    text = "\n".join(file.read_text(encoding="utf-8") for file in sources)
    for event, template in SENTENCES.items():
        fields = {name for _, name, _, _ in Formatter().parse(template) if name is not None} - BOUND
        assert fields <= {name for name in fields if re.search(rf"\b{name}\s*=|\"{name}\":", text)}, event


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"event": "step_leased", "step": "split", "split": 3, "epoch": 7}, "split 3: taken up, epoch 7"),
        ({"event": "step_leased", "step": "plan", "epoch": 1}, "step plan: taken up, epoch 1"),
        ({"event": "step_parked", "split": 0, "reason": None}, "split 0: given back with nothing open"),
        (
            {"event": "planned", "splits": 4, "bound": "900", "estimated_rows": None},
            "planned: splits: 4, up to 900, about - rows",
        ),
        ({"event": "retrying", "split": 0, "attempt": 2, "delay_seconds": 0.5, "cause": "no {broker}"},
         "split 0: try 2 failed, the next comes in 0.5 s: no {broker}"),
        ({"event": "service_started"}, "service started"),
        ({"event": "of_another_library"}, "of another library"),
    ],
)  # fmt: skip
def test_a_line_reads_as_a_sentence(line: dict[str, object], said: str) -> None:
    assert sentence(line) == said
