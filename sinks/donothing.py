"""The sink that counts: rows are read, encoded, counted and dropped. It measures a source, and rehearses a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sinks.base import Guarantee, Prepared, Promise, Receipt, Shows

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from sinks.base import Batch, Cut, Finding, Mark, Owner
    from sinks.reading import Wanted

TARGET = "donothing"


class DonothingWriter:
    """Counts rows and bytes between two cuts. Nothing can fail and nothing waits."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._bytes = 0

    async def open(self) -> None:
        """Nothing to fence: an older owner's counts are refused by the store."""

    async def visible(self, prepared: Sequence[Prepared]) -> Mark | None:  # noqa: ARG002 - the contract's signature
        """None: there are no readers."""
        return None

    async def anchor(self, sequence: int) -> None:
        """Nothing: there is no position to show."""

    async def stage(self, batch: Batch) -> None:
        """Count the bytes of values and keys."""
        self._bytes += batch.size + sum(len(key) for key in batch.keys or () if key is not None)

    async def prepare(self, cut: Cut) -> Prepared:
        """What was counted since the last cut."""
        size, self._bytes = self._bytes, 0
        return Prepared(
            sequence=cut.sequence,
            epoch=self._owner.epoch,
            attempt=cut.attempt,
            rows=cut.rows,
            bytes=size,
            first_key=cut.first_key,
            last_key=cut.last_key,
            lower=cut.lower,
            target=TARGET,
        )

    async def make_visible(self, prepared: Prepared) -> Receipt:
        """A receipt; nothing happens outside."""
        return Receipt(target=prepared.target)

    async def discard(self) -> None:
        """Forget what was counted since the last cut."""
        self._bytes = 0

    async def close(self) -> None:
        """Nothing is held."""


class DonothingSink:
    """Counts. Prepare and settle may be one transaction, so that each row is counted exactly once."""

    kind = "donothing"
    shows = Shows.NOTHING
    needs_anchor = False
    settles_with_prepare = True
    upserts = False

    def promise(self) -> Promise:
        """Counts only."""
        return Promise(Guarantee.COUNTS, "rows are counted and dropped; each is counted once")

    async def check(self) -> list[Finding]:
        """Nothing can be wrong."""
        return []

    async def prepare_target(self) -> Mapping[str, object]:
        """Nothing to make."""
        return {}

    def writer(self, owner: Owner) -> DonothingWriter:
        """A counter."""
        return DonothingWriter(owner)

    def receipt(self, prepared: Prepared) -> Receipt:
        """There is nothing to see."""
        return Receipt(target=prepared.target)

    def reader(self, owner: Owner, wanted: Wanted) -> None:
        """Nothing is kept that could be read."""

    async def finish(self, owner: Owner, chunks: AsyncIterator[Prepared]) -> None:
        """Nothing to compare."""

    async def clean_up(self, owners: Sequence[Owner]) -> None:
        """Nothing is left."""

    async def close(self) -> None:
        """Nothing is held."""
