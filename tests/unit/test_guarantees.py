"""What a job says it may lose, from its definition alone."""

from __future__ import annotations

from typing import Any

import pytest

from sinks.base import Guarantee, Promise
from workers.guarantees import guaranteed
from workers.sources.base import Facts

PROMISE = Promise(Guarantee.EXACTLY_ONCE, "by the sink")


def note(mode: str, options: dict[str, Any] | None = None, *, facts: Facts | None = None, **source: Any) -> str:
    spec = {
        "name": "orders",
        "mode": mode,
        "sink": {"kind": "donothing"},
        "source": {"datasource": "shop", **(source or {"table": "orders"})},
        "options": options or {},
    }
    guarantee, said = guaranteed(spec, PROMISE, facts)
    assert guarantee == "exactly_once"
    return said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"safety": {"kind": "none"}}, "safety none"),
        ({"safety": {"kind": "delay", "delay_seconds": 2.5}}, "more than 2.5 seconds after"),
        ({"key_is_monotonic": True}, "at your word"),
        ({"safety": {"kind": "none"}, "late_window": 70}, "after more than 70 larger keys were read are passed over"),
        (
            {"safety": {"kind": "delay", "delay_seconds": 2.5}, "late_window": 70},
            "and more than 2.5 seconds after them",
        ),
        ({"late_window": 70}, "where no barrier can be kept for the key, rows that commit after more than 70"),
        ({"row_security": True}, "the role's policies"),
    ],
)
def test_what_may_be_lost_stands_beside_the_guarantee_of_a_job_that_follows(options: dict[str, Any], said: str) -> None:
    for mode in ("incremental", "continuous"):
        assert said in note(mode, options)
    if "late_window" not in options:  # 422 there
        kind = options.get("safety", {}).get("kind")
        missing = f"; safety {kind}: rows whose transactions were open when the run began may be missing"
        assert note("once", options) == "by the sink" + (missing if kind else "")


def test_what_only_the_catalog_knows_makes_the_note_exact() -> None:
    window = {"late_window": 70}
    assert "a barrier is kept for the key" in note("continuous", window, facts=Facts(barrier=True))
    assert "70 larger keys" not in note("continuous", window, facts=Facts(barrier=True))
    said = note("continuous", window, facts=Facts(barrier=False))
    assert "no barrier can be kept for the key, and rows that commit after more than 70 larger keys" in said
    assert "the view's joins and conditions only after" in note("incremental", facts=Facts(view=True))
    assert note("once", facts=Facts(view=True)) == "by the sink"
    assert "a standby: rows whose transactions were open" in note("once", facts=Facts(standby=True))
    assert "standby" not in note("full", {"snapshot": True}, facts=Facts(standby=True))
    assert "safety none: rows whose transactions were open" in note("once", {"safety": {"kind": "none"}})
    assert "may be missing" not in note("once", {"safety": {"kind": "none"}, "snapshot": True})


def test_nothing_is_lost_by_default() -> None:
    assert note("continuous") == "by the sink"
    assert note("continuous", query="SELECT id FROM orders", key=["id"]) == "by the sink"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"table": "orders", "where": "open"}, "rows that match source.where only after"),
        ({"query": "SELECT id FROM orders WHERE open", "key": ["id"]}, "joins and conditions only after"),
        (
            {"query": "SELECT o.id FROM orders o JOIN lines USING (id)", "key": ["id"]},
            "joins and conditions only after",
        ),
    ],
)
def test_rows_that_match_late_are_not_promised(source: dict[str, Any], said: str) -> None:
    assert said in note("incremental", **source)
