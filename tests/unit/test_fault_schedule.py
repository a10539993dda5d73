"""A run of the fault suite can be replayed: what it meets is a pure function of seed, sink and number."""

from __future__ import annotations

import pytest

from tests.fault.schedule import HOLDER, POINTS, SINKS, STREAMS, Fault, Kind, Moment, schedule

SINK = pytest.mark.parametrize("sink", sorted(SINKS))


def faults(moments: list[Moment]) -> list[Fault]:
    return [fault for moment in moments for fault in moment.faults]


@SINK
def test_the_same_seed_gives_the_same_run_and_another_seed_another(sink: str) -> None:
    assert schedule(7, sink, 200) == schedule(7, sink, 200)
    assert schedule(7, sink, 200) != schedule(8, sink, 200)


def test_a_seed_means_another_run_for_each_sink() -> None:
    assert schedule(7, "kafka", 20) != schedule(7, "s3", 20)


@SINK
@pytest.mark.parametrize("count", [1, 2, 19, 20, 200])
def test_it_has_as_many_faults_as_asked_for(sink: str, count: int) -> None:
    moments = schedule(3, sink, count)
    assert len(faults(moments)) == count
    assert [moment.number for moment in moments] == list(range(1, len(moments) + 1))


@SINK
def test_a_short_run_is_the_beginning_of_a_long_one(sink: str) -> None:
    short, long = faults(schedule(11, sink, 20)), faults(schedule(11, sink, 200))
    assert long[:20] == short


@SINK
@pytest.mark.parametrize("seed", range(5))
def test_two_hundred_meet_every_point_every_kind_every_server_and_every_job(sink: str, seed: int) -> None:
    moments = schedule(seed, sink, 200)
    assert {moment.point for moment in moments} >= {*POINTS, ""}
    met = faults(moments)
    kinds = set(Kind) - ({Kind.FULL} if SINKS[sink] else set())
    assert {fault.kind for fault in met} == kinds
    assert {fault.where for fault in met} >= {"source", "control", HOLDER, *STREAMS, *SINKS[sink]}
    for server in SINKS[sink]:
        assert {fault.kind for fault in met if fault.where == server} >= {
            *(Kind.CUT, Kind.REFUSE, Kind.STALL, Kind.DELAY, Kind.THROTTLE, Kind.KILL, Kind.FREEZE),
            *(Kind.LOSE_REPLY, Kind.LOSE_REQUEST, Kind.CUT_REPLY, Kind.CUT_REQUEST),
        }


@SINK
def test_faults_of_one_moment_hit_different_sides(sink: str) -> None:
    moments = schedule(5, sink, 400)
    assert all(len({fault.side for fault in moment.faults}) == len(moment.faults) for moment in moments)
    assert {len(moment.faults) for moment in moments} == {1, 2, 3}
