"""What the differences of one chunk mean. Pure.

Rows may have changed in the source since the chunk was delivered, and that is no fault of the sink. Two things tell:

| the sink holds | the source shows | so a row that is in one of them only |
|---|---|---|
| what was delivered: no flaw, as many records as were counted | anything | changed in the source |
| something else | as many rows as were delivered | is missing, or foreign |
| something else | more or fewer rows | either: at least the shortage is missing, the others changed |
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from service.domain.verification import Difference, DifferenceKind
from workers.matching import FIRST, LeftOver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from service.domain.records import Key
    from service.domain.steps import ChunkRecord
    from sinks.reading import Flaw
    from workers.matching import Named

    Read = Callable[[bytes], Key]

UNCERTAIN = "one of several that may be meant: the source has changed since as well"
CHANGED = "the sink holds what was delivered; the source has changed since"


@dataclass(slots=True)
class Seen:
    """What both sides showed of one chunk."""

    keyed: bool
    """Rows could be told apart; False: they were only counted."""
    source: int = 0
    """Rows, those that are dead letters left out."""
    sink: int = 0
    flaws: list[Flaw] = field(default_factory=list)
    left: LeftOver = field(default_factory=LeftOver)
    forgotten: int = 0
    """Rows that were dead letters of the chunk once: they may be in the source and not in it."""
    by_key: bool = False
    """Rows were looked up by the keys of the source: of what it does not have any more nothing is known."""
    odd: list[tuple[bytes, Flaw]] = field(default_factory=list)
    """Rows that are there and not as delivered, by raw key: the first of them."""
    odd_more: Counter[str] = field(default_factory=Counter)
    """The others, by kind of flaw."""

    def add_odd(self, raw_key: bytes, flaw: Flaw) -> None:
        """One more."""
        if len(self.odd) < FIRST:
            self.odd.append((raw_key, flaw))
        else:
            self.odd_more[flaw.kind] += 1


@dataclass(frozen=True, slots=True)
class Judge:
    """Of one chunk of one split."""

    split: int
    chunk: ChunkRecord
    read_key: Read
    """A raw key of the source as texts."""
    read_token: Read

    def judge(self, seen: Seen) -> list[Difference]:
        """Every difference; what has no key of its own carries a count."""
        found = [
            self._difference(
                DifferenceKind(flaw.kind), target=flaw.target, expected=flaw.expected, found=flaw.found, note=flaw.note
            )
            for flaw in seen.flaws
        ]
        found += [
            self._difference(
                DifferenceKind(flaw.kind),
                key=self.read_key(raw),
                expected=flaw.expected,
                found=flaw.found,
                note=flaw.note,
            )
            for raw, flaw in seen.odd
        ]
        found += [self._difference(DifferenceKind(kind), count=count) for kind, count in seen.odd_more.items()]
        silent = any(flaw.kind == "not_verifiable" for flaw in seen.flaws)
        found += self._counted(seen, silent=silent) if not seen.keyed else self._keyed(seen, silent=silent)
        return found

    def _keyed(self, seen: Seen, *, silent: bool) -> Iterator[Difference]:
        left, delivered = seen.left, self.chunk.rows
        yield from self._each(DifferenceKind.DOUBLED, left.doubled, self.read_token, expected=1, found="more than once")
        if not seen.flaws and seen.sink - left.doubled.count == delivered:
            if left.source.count > seen.forgotten:
                yield from self._changed(left.source, self.read_key, "in the source only")
            yield from self._changed(left.sink, self.read_token, "in the sink only")
            yield from self._changed(left.changed, self.read_key, "another value")
            return
        yield from self._each(DifferenceKind.CHECKSUM, left.changed, self.read_key, note="another value")
        if seen.by_key:
            yield from self._looked_up(seen)
        elif silent:
            # What the sink can not show any more is neither missing nor a change; what it shows, it was given.
            yield from self._changed(left.sink, self.read_token, "in the sink only")
        elif seen.source == delivered:
            yield from self._each(DifferenceKind.MISSING, left.source, self.read_key)
            yield from self._each(DifferenceKind.FOREIGN, left.sink, self.read_token)
        else:
            yield from self._uncertain(seen)

    def _looked_up(self, seen: Seen) -> Iterator[Difference]:
        changed = self._surplus(seen)
        note = UNCERTAIN if changed else ""
        missing = self._each(DifferenceKind.MISSING, seen.left.source, self.read_key, note=note)
        # Of rows that came later, none is missing.
        yield from _at_most(missing, min(seen.left.source.count, max(0, self.chunk.rows - seen.sink)))
        if changed:
            yield self._difference(
                DifferenceKind.SOURCE_CHANGED, expected=self.chunk.rows, found=seen.source, count=abs(changed)
            )

    def _uncertain(self, seen: Seen) -> Iterator[Difference]:
        left, delivered = seen.left, self.chunk.rows
        distinct = seen.sink - left.doubled.count
        shortage, excess = max(0, delivered - distinct), max(0, distinct - delivered)
        missing = self._each(DifferenceKind.MISSING, left.source, self.read_key, note=UNCERTAIN)
        yield from _at_most(missing, shortage)
        if shortage > left.source.count:
            note = "rows that were delivered and are not in the source any more either"
            yield self._difference(DifferenceKind.MISSING, note=note, count=shortage - left.source.count)
        foreign = self._each(DifferenceKind.FOREIGN, left.sink, self.read_token, note=UNCERTAIN)
        yield from _at_most(foreign, excess)
        if changed := self._surplus(seen):
            yield self._difference(
                DifferenceKind.SOURCE_CHANGED, expected=delivered, found=seen.source, count=abs(changed)
            )

    def _surplus(self, seen: Seen) -> int:
        """How many rows more than were delivered the source has, but for what may have been a dead letter."""
        more = seen.source - self.chunk.rows
        return 0 if 0 < more <= seen.forgotten else more

    def _counted(self, seen: Seen, *, silent: bool) -> Iterator[Difference]:
        delivered = self.chunk.rows
        if seen.sink < delivered and not silent:
            yield self._difference(
                DifferenceKind.MISSING, expected=delivered, found=seen.sink, count=delivered - seen.sink
            )
        if seen.sink > delivered:
            yield self._difference(
                DifferenceKind.FOREIGN, expected=delivered, found=seen.sink, count=seen.sink - delivered
            )
        if changed := self._surplus(seen):
            yield self._difference(
                DifferenceKind.SOURCE_CHANGED, expected=delivered, found=seen.source, count=abs(changed)
            )

    def _changed(self, named: Named, read: Read, note: str) -> Iterator[Difference]:
        return self._each(DifferenceKind.SOURCE_CHANGED, named, read, note=f"{note}; {CHANGED}")

    def _each(
        self,
        kind: DifferenceKind,
        named: Named,
        read: Read,
        *,
        expected: object = None,
        found: object = None,
        note: str = "",
    ) -> Iterator[Difference]:
        """One for each that is named, the last of them counting those that are not."""
        for number, name in enumerate(named.first, 1):
            count = 1 if number < len(named.first) else named.count - number + 1
            key = None if name is None else read(name)
            said = note if name is not None else "a record in which no key can be read"
            yield self._difference(kind, key=key, expected=expected, found=found, note=said, count=count)

    def _difference(
        self,
        kind: DifferenceKind,
        *,
        key: Key | None = None,
        target: str | None = None,
        expected: object = None,
        found: object = None,
        note: str = "",
        count: int = 1,
    ) -> Difference:
        at = self.chunk.target if target is None else target
        return Difference(kind, self.split, self.chunk.sequence, key, at, expected, found, note, count)


def _at_most(differences: Iterator[Difference], count: int) -> Iterator[Difference]:
    """The first of them, until `count` rows are meant."""
    for one in differences:
        if count <= 0:
            return
        yield replace(one, count=min(one.count, count))
        count -= one.count


def beyond(split: int, keys: Sequence[Key], count: int) -> Iterator[Difference]:
    """Rows of the source behind the last chunk of a split that was done: nothing was there when it ended."""
    note = f"behind the last row that was delivered; {CHANGED}"
    for number, key in enumerate(keys, 1):
        more = 1 if number < len(keys) else count - number + 1
        yield Difference(DifferenceKind.SOURCE_CHANGED, split, None, key, note=note, count=more)
