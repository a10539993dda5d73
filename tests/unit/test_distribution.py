"""Which worker gets which tests when several run side by side."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.distribution import FromBothEnds

TESTS = [
    "tests/unit/test_kafka_names.py::test_a",
    "tests/unit/test_naming.py::test_a",
    "tests/contract/test_sink.py::test_a[file-csv]",
    "tests/contract/test_sink.py::test_a[hdfs]",
    "tests/contract/test_sink.py::test_b[hdfs-csv]",
    "tests/integration/test_hdfs_sink.py::test_a",
    "tests/integration/test_outlook.py::test_a",
    "tests/integration/test_splits.py::test_a[kafka]",
    "tests/fault/test_hdfs_faults.py::test_a",
    "tests/fault/test_kills.py::test_a[kafka-at-least-once]",
    "tests/fault/test_kills.py::test_b",
]


class Worker:
    """What the scheduler knows of a worker: its name, and what it was told to run."""

    def __init__(self, name: str, order: list[str]) -> None:
        self.gateway = SimpleNamespace(id=name)
        self.told: list[str] = []
        self.order = order
        self.shutting_down = False

    def send_runtest_some(self, indices: list[int]) -> None:
        self.told += [TESTS[index] for index in indices]
        self.order += [TESTS[index] for index in indices]

    def shutdown(self) -> None:
        self.shutting_down = True


@pytest.fixture
def workers(request: pytest.FixtureRequest) -> list[Any]:
    """Two, who take turns until nothing is left."""
    config = SimpleNamespace(
        option=SimpleNamespace(loadscopereorder=False), getvalue={"tx": ["popen"] * 2, "maxprocesses": None}.get
    )
    config.getoption = config.getvalue
    scheduler = FromBothEnds(config, None)
    order: list[str] = []
    made: list[Any] = [Worker("gw0", order), Worker("gw1", order)]
    for worker in made:
        scheduler.registered_collections[worker] = TESTS
        scheduler.assigned_work[worker] = {}
    scheduler.workqueue = OrderedDict()
    for test in TESTS:
        scheduler.workqueue.setdefault(scheduler._split_scope(test), {})[test] = False
    for turn in range(len(scheduler.workqueue)):
        scheduler._assign_work_unit(made[turn % 2])
    return made


def test_one_begins_with_the_slowest_and_one_with_the_quickest(workers: list[Any]) -> None:
    slow, quick = (worker.told for worker in workers)
    assert slow[0] == TESTS[-1]
    assert quick[0] == TESTS[0]


def test_every_test_is_run_once(workers: list[Any]) -> None:
    assert sorted(test for worker in workers for test in worker.told) == sorted(TESTS)


def test_who_has_had_a_kind_of_sink_gets_its_other_tests_while_there_is_something_else(workers: list[Any]) -> None:
    slow, quick = workers
    assert any("hdfs" in test for test in slow.told)
    at = next(slow.order.index(test) for test in quick.told if "hdfs" in test)
    assert all("hdfs" in test for test in slow.order[at:])


def test_a_module_of_all_kinds_is_divided_by_the_kind(workers: list[Any]) -> None:
    hdfs = [{TESTS[3], TESTS[4]} <= set(worker.told) for worker in workers]
    assert sorted(hdfs) == [False, True]
    assert (
        FromBothEnds._split_scope(FromBothEnds.__new__(FromBothEnds), TESTS[2]) == "tests/contract/test_sink.py[file]"
    )
