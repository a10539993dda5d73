from __future__ import annotations

import re
from pathlib import Path

from config import names
from config.names import METRICS, LogEvent

ROOT = Path(__file__).resolve().parents[2]


def sources() -> str:
    files = [*ROOT.glob("service/**/*.py"), *ROOT.glob("workers/**/*.py")]
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def test_every_log_event_says_when_it_is_written() -> None:
    assert names.documented().keys() == set(LogEvent)
    assert all(event == event.name.lower() for event in LogEvent)


def test_every_metric_is_named_as_prometheus_asks_and_says_what_it_is() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS) > 5
    for metric in METRICS:
        assert re.fullmatch(r"rowferry_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.help


def test_nothing_is_logged_or_measured_under_another_name() -> None:
    text = sources()
    logged = re.findall(r"\blog\w*\.(?:debug|info|warning|error|exception)\(\s*\"", text)
    assert not logged, "a log line's event is one of config.names.LogEvent"
    assert not re.findall(r"\b(?:Counter|Gauge|Histogram)\(\s*\"", text), "a metric's name is one of config.names"


def test_the_page_is_what_the_module_says() -> None:
    page = (ROOT / "docs" / "metrics-and-log-events.md").read_text(encoding="utf-8")
    assert page == names.as_markdown(), "run: python -m config.names > docs/metrics-and-log-events.md"
