"""What a window remembers, when it looks, and how it is packed; the looks themselves are tried on real tables."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from service.domain.spec import JobSpec
from service.domain.steps import GenerationState, OpenRange, SplitState
from service.domain.window import WindowState
from workers.chunks import canonical
from workers.sources.base import Page
from workers.window import MOST_BETWEEN_LOOKS, PART_KEYS, NoWindow, Window, key_of, packed, unpacked, window_of
from workers.window_plan import read_by_one, window_left

if TYPE_CHECKING:
    from service.domain.records import Key


def page(*numbers: int, end: bool = False) -> Page:
    raw = [str(number).encode() for number in numbers]
    return Page([b"{}"] * len(raw), raw, None, 2 * len(raw), None, end, lambda key: (key.decode(),))


class Table:
    """Keys that are there, in the order of numbers."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = set(numbers)
        self.moved: list[tuple[Key, list[int]]] = []

    async def keys(self, after: Key | None, upper: Key) -> Page:
        above = int(after[0]) if after else -1
        found = sorted(number for number in self.numbers if above < number <= int(upper[0]))[:700]
        page_ = page(*found, end=len(found) < 700)
        page_.values = [b"f" if number % 1000 == 999 else b"t" for number in found]
        return page_

    async def at_or_below(self, keys: list[Key], bound: Key) -> list[bool]:
        return [int(key[0]) <= int(bound[0]) for key in keys]

    async def move_window(self, lease: object, floor: Key, forgotten: list[int]) -> None:
        self.moved.append((floor, forgotten))


def window(rows: int, table: Table, state: WindowState | None = None) -> Window:
    anything: Any = table
    return Window(rows, state or WindowState(None), anything, anything, poll_seconds=1.0)


def test_keys_of_any_text_come_back_as_they_were() -> None:
    keys = [("1",), ('a\n\t"\\', "ä \u2028"), ("", "2026-01-01 00:00:00+00"), tuple("abcdefgh")]
    ids = [canonical(key) for key in keys]
    parts = packed(ids, 7)
    assert [(part.number, part.keys, part.last_key) for part in parts] == [(7, 4, keys[-1])]
    assert [key_of(one) for one in unpacked(parts)] == keys


def test_parts_are_numbered_and_numbers_that_rise_take_a_few_bytes() -> None:
    ids = [canonical((str(number),)) for number in range(1_000_000, 1_000_000 + 5 * PART_KEYS // 2)]
    parts = packed(ids, 3)
    assert [(part.number, part.keys) for part in parts] == [(3, PART_KEYS), (4, PART_KEYS), (5, PART_KEYS // 2)]
    assert sum(len(part.packed) for part in parts) < 5 * len(ids)
    assert unpacked(parts) == ids
    assert packed([], 1) == []


def test_a_chunk_seals_what_was_read_for_it_and_no_more() -> None:
    made = window(10, Table(), WindowState(("0",), packed([canonical(("1",))], 1), 2))
    made.add(page(*range(2, 2 + PART_KEYS)), 0, PART_KEYS)
    made.add(page(5_000, 5_001, 5_002), 1, 2)
    made.add_key(("6000",))
    sealed = made.seal()
    assert [(part.number, part.keys, part.last_key) for part in sealed] == [(2, 1000, ("1001",)), (3, 2, ("6000",))]
    assert made.seal() == []
    made.add_key(("7000",))
    assert [part.number for part in made.seal()] == [4]
    assert len(made) == 1 + PART_KEYS + 3


async def test_a_look_finds_what_was_not_read_and_lets_through_what_the_definition_does() -> None:
    table = Table(*range(1, 3000))
    made = window(100, table)
    numbers = [number for number in range(1, 3000) if number not in {5, 999, 1500, 2998}]
    made.add(page(*numbers), 0, len(numbers))
    assert await made.look(("2999",)) == [("5",), ("1500",), ("2998",)], "999 is there, and left out by `where`"
    assert await made.look(("2999",)) == [("2998",)], "the window has moved on to its hundred rows"
    made.add_key(("2998",))
    table.numbers.add(2_899_000)
    assert await made.look(("2999",)) == []


async def test_what_comes_between_two_looks_is_found_however_far_the_split_has_read() -> None:
    table = Table(*range(0, 2000, 2))
    made = window(50, table)
    made.add(page(*range(0, 2000, 2)), 0, 1000)
    assert await made.look(("1998",)) == []
    table.numbers.update(range(2000, 90_000, 2))
    made.add(page(*range(2000, 90_000, 2)), 0, 44_000)
    table.numbers.update({1951, 1801})
    assert await made.look(("89998",)) == [("1951",)], "within the window of the last look; 1801 is not"
    table.numbers.add(1953)
    assert await made.look(("89998",)) == []


async def test_what_is_behind_the_window_is_forgotten_and_what_is_in_it_is_not() -> None:
    rows, total = 3_000, 50_000
    table = Table()
    made = window(rows, table)
    most = 0
    for begin in range(0, total, 500):
        table.numbers.update(range(begin, begin + 500))
        read = page(*range(begin, begin + 500))
        made.add(read, 0, 500)
        if made.is_due(read):
            assert await made.look((str(begin + 499),)) == []
            await made.forget(table, SimpleNamespace())  # type: ignore[arg-type]
        made.seal()
        most = max(most, len(made))
    assert most <= MOST_BETWEEN_LOOKS + rows + PART_KEYS
    floor = int(table.moved[-1][0][0])
    numbers = [number for _, forgotten in table.moved for number in forgotten]
    assert len(numbers) == len(set(numbers))
    state = WindowState((str(floor),), (), 1)
    again = window(rows, table, state)
    assert len(await again.look((str(total - 1),))) == total - 1 - floor - sum(
        number % 1000 == 999 for number in range(floor + 1, total)
    )


async def test_a_look_is_due_when_enough_was_read_or_walked_over_and_between_polls_not_at_once() -> None:
    made = window(20, Table())
    assert made.is_due(None)
    assert not made.is_due(page(1))
    assert made.is_due(page()), "a stretch without a match"
    assert not made.is_due(page(end=True))
    made.add(page(*range(MOST_BETWEEN_LOOKS)), 0, MOST_BETWEEN_LOOKS)
    assert made.is_due(page(1))
    await made.look(("5",))
    assert not made.is_due(page(1))
    assert not made.is_due(None)


def spec(window_rows: int | None = 10, table: str = "orders") -> dict[str, Any]:
    return {
        "name": "j",
        "mode": "incremental",
        "source": {"datasource": "d", "table": table},
        "sink": {"kind": "donothing"},
        "options": {} if window_rows is None else {"late_window": window_rows},
    }


def generation(number: int, begins: str, *, planned: bool = True, looks: bool = True, **more: Any) -> GenerationState:
    split = SplitState(0, None, None, False, None, None, 0, 0, None, (), window=WindowState(None) if looks else None)
    return GenerationState(
        number, begins, None, None, planned, True, more.get("spec", spec()), {}, (split,) if planned else ()
    )


@pytest.mark.parametrize(
    ("history", "left"),
    [
        ([generation(1, "beginning", planned=False)], None),
        ([generation(1, "beginning"), generation(2, "keep", planned=False)], 1),
        ([generation(1, "beginning"), generation(2, "keep", planned=False), generation(3, "keep", planned=False)], 1),
        (
            [generation(1, "beginning"), generation(2, "given", planned=False), generation(3, "keep", planned=False)],
            None,
        ),
        ([generation(1, "beginning"), generation(2, "beginning", planned=False)], None),
        ([generation(1, "beginning", looks=False), generation(2, "keep", planned=False)], None),
        ([generation(1, "beginning"), generation(2, "keep", planned=False, spec=spec(table="others"))], None),
    ],
)
def test_a_memory_is_taken_over_where_the_position_and_the_source_are(
    history: list[GenerationState], left: int | None
) -> None:
    assert window_left(history, JobSpec.model_validate(spec())) == left
    assert window_left(history, JobSpec.model_validate(spec(None))) is None


def test_what_is_left_of_the_split_that_looks_back_is_read_with_what_follows() -> None:
    low, middle, high = ("1",), ("5",), ("9",)
    assert read_by_one([OpenRange(low, middle), OpenRange(middle, None)]) == [OpenRange(low, None)]
    apart = [OpenRange(low, middle), OpenRange(high, None)]
    assert read_by_one(apart) == apart
    assert read_by_one([OpenRange(None, None)]) == [OpenRange(None, None)]


def test_only_one_split_of_a_generation_remembers() -> None:
    anything: Any = None
    options = JobSpec.model_validate(spec()).options
    split = SplitState(0, None, None, False, None, None, 0, 0, None, ())
    assert isinstance(window_of(split, options, anything, anything), NoWindow)
    assert not NoWindow().seal()
