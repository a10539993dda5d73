"""Every line of the table in workers/recovery.py, and that no combination is left out."""

from __future__ import annotations

import itertools

import pytest

from service.domain.steps import ChunkRecord
from sinks.base import Mark, Shows
from workers.recovery import Action, decide

GENERATION, EPOCH, SETTLED = 3, 7, 10


def chunk(epoch: int, attempt: int = 1) -> ChunkRecord:
    return ChunkRecord(SETTLED + 1, epoch, attempt, 5, 50, ("1",), ("5",), None, "t", None, {}, "run")


def decided(shows: Shows, mark: Mark | None, *prepared: ChunkRecord):
    return decide(shows, mark, generation=GENERATION, epoch=EPOCH, settled=SETTLED, prepared=prepared)


@pytest.mark.parametrize("shows", list(Shows))
def test_nothing_shown_and_nothing_prepared_goes_on(shows):
    assert decided(shows, None).action is Action.GO_ON


def test_nothing_shown_with_a_prepared_chunk_depends_on_what_the_target_can_tell():
    assert decided(Shows.POSITION, None, chunk(6)).action is Action.UNKNOWN
    assert decided(Shows.NOTHING, None, chunk(6)).action is Action.SEND_AGAIN
    repeat = decided(Shows.NAMES, None, chunk(5, 1), chunk(6, 1), chunk(6, 2))
    assert repeat.action is Action.REPEAT
    assert repeat.chunk == chunk(6, 2)


def test_the_prepared_chunk_shown_is_settled_with_the_try_that_is_there():
    decision = decided(Shows.POSITION, Mark(GENERATION, 5, SETTLED + 1), chunk(5), chunk(6))
    assert decision == decided(Shows.NAMES, Mark(GENERATION, 5, SETTLED + 1, 1), chunk(5), chunk(6))
    assert (decision.action, decision.chunk) == (Action.SETTLE, chunk(5))


def test_the_prepared_chunk_shown_by_an_epoch_that_never_prepared_it_is_a_conflict():
    assert decided(Shows.POSITION, Mark(GENERATION, 4, SETTLED + 1), chunk(5)).action is Action.CONFLICT
    assert decided(Shows.NAMES, Mark(GENERATION, 5, SETTLED + 1, 2), chunk(5, 1)).action is Action.CONFLICT


def test_the_settled_chunk_shown_drops_what_was_prepared_after_it():
    assert decided(Shows.POSITION, Mark(GENERATION, 5, SETTLED), chunk(6)).action is Action.DROP
    assert decided(Shows.POSITION, Mark(GENERATION, 5, SETTLED)).action is Action.GO_ON


def test_another_generation_counts_as_nothing_shown():
    assert decided(Shows.POSITION, Mark(GENERATION - 1, 99, SETTLED + 1)).action is Action.GO_ON
    assert decided(Shows.POSITION, Mark(GENERATION + 1, 1, 3), chunk(6)).action is Action.UNKNOWN


def test_a_younger_owner_is_asked_about_whatever_else_it_shows():
    for sequence, prepared in itertools.product((SETTLED - 1, SETTLED, SETTLED + 1, SETTLED + 2), ((), (chunk(8),))):
        assert decided(Shows.POSITION, Mark(GENERATION, EPOCH + 1, sequence), *prepared).action is Action.ASK_STORE


@pytest.mark.parametrize("sequence", [0, SETTLED - 1, SETTLED + 2, SETTLED + 100])
@pytest.mark.parametrize("prepared", [(), (chunk(6),)])
def test_any_other_sequence_is_a_conflict(sequence, prepared):
    assert decided(Shows.POSITION, Mark(GENERATION, 6, sequence), *prepared).action is Action.CONFLICT


def test_a_chunk_shown_beyond_the_settled_one_without_a_prepare_is_a_conflict():
    assert decided(Shows.POSITION, Mark(GENERATION, 6, SETTLED + 1)).action is Action.CONFLICT
