"""What `options.safety` comes to for one source: findings, the note beside the guarantee, the bound of a run, and the
moving bound of a job that follows its table."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from service.domain.inspection import Finding
from workers.guarantees import KEY_AT_WORD
from workers.sources import catalog
from workers.sources.barrier import Barrier, Rules
from workers.sources.base import Facts, Horizon
from workers.sources.frontiers import CommitFrontier, DelayFrontier
from workers.sources.outlook import unseen_holders
from workers.sources.proof import TIMES, Word, examine, numbering

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.domain.options import Options
    from workers.sources.base import Key, KnownTables
    from workers.sources.definition import Definition
    from workers.sources.proof import Proof
    from workers.sources.session import Session


class Safety:
    """The safety of one source in one mode."""

    def __init__(self, session: Session, authority: Session, *, options: Options, mode: str, zone: str) -> None:
        """`authority` knows the writers: the session itself, or that of the primary. `zone`: of the source's times."""
        self._session, self._authority = session, authority
        self._options, self._zone = options, zone
        self.follows = mode in {"incremental", "continuous"}
        """The position moves on from run to run, so a row that commits late would be lost."""
        self.window_alone = False
        """Known once it was looked at: no barrier can be kept for the key, and the window stands in for it."""

    @property
    def _commit(self) -> bool:
        return self._options.safety.kind == "commit" and not self.window_alone

    async def _examined(self, definition: Definition) -> Proof:
        members = await catalog.relation_set(self._session, definition.relations)
        proof = await examine(self._session, definition, members, self._word(), authority=self._authority)
        self.window_alone = proof.key_alone and self._options.late_window is not None
        return proof

    async def findings(self, definition: Definition) -> list[Finding]:
        """What stands in the way, and what a person should know."""
        found = []
        if self.follows and self._commit:
            proof = await self._examined(definition)
            if proof.reasons:
                refused = proof.refusal(definition.what)
                severity = "warning" if self.window_alone else "error"
                message = f"{refused.message}; {self._lost()}" if self.window_alone else refused.message
                found.append(Finding("/options/safety", severity, refused.code, message, refused.hint))
            if self._commit:
                found += await self._numbered(definition)
        if self._commit and not self._options.snapshot:
            found += await unseen_holders(self._authority, "/source/datasource")
        if self.follows and (what := _may_match_late(definition, self._options)):
            found.append(
                Finding(
                    "/source/where" if definition.filters else "/source",
                    "warning",
                    "late_match",
                    f"rows are delivered if they match when their key becomes final ({what}); what matches later is "
                    "not" + (", but within late_window" if self._options.late_window else ""),
                    "filter on columns that never change after the insert, and join with what is there before the row",
                )
            )
        if not self.follows and not self._options.snapshot and definition.key.parts[0].type in TIMES:
            found.append(
                Finding(
                    "/source/key",
                    "warning",
                    "key_moves",
                    f"a row whose {definition.key.names[0]} is updated while the run reads may come twice, or not at "
                    "all",
                    "key the job by a column that never changes, read one moment with options.snapshot, or follow the "
                    "changes with mode incremental",
                )
            )
        return found

    async def _numbered(self, definition: Definition) -> list[Finding]:
        """What the barrier watches beside the tables."""
        if not (sequences := await numbering(self._session, definition)):
            return []
        what = f"{definition.key.names[0]} of {definition.what} is numbered by {'; '.join(sequences)}"
        hint = "each has to stay at cache 1 and to rise; numbers drawn by anything else are rows ahead of it"
        return [Finding("/source/key", "info", "key_sequences", what, hint)]

    async def refuse(self, definition: Definition) -> None:
        """Raises Permanent `safety_not_provable`."""
        if self.follows and self._commit:
            proof = await self._examined(definition)
            if proof.reasons and not self.window_alone:
                raise proof.refusal(definition.what)

    async def facts(self, definition: Definition) -> Facts:
        """See `Source.facts`."""
        barrier = None
        if self.follows and self._options.safety.kind == "commit" and self._options.late_window is not None:
            proof = await self._examined(definition)
            barrier = not proof.reasons
        relation = definition.relation
        return Facts(
            barrier,
            view=relation is not None and relation.kind == "v",
            standby=relation is not None and relation.standby and self._authority is self._session,
        )

    def note(self, definition: Definition) -> str:
        """What the reading side can not promise, in one sentence; empty where nothing is to be said."""
        notes = []
        safety, options = self._options.safety, self._options
        if self.follows:
            if self._options.late_window is not None and (safety.kind != "commit" or self.window_alone):
                notes.append(self._lost())
            elif safety.kind == "delay":
                notes.append(
                    f"rows that commit more than {safety.delay_seconds:g} s after larger keys are lost (safety delay)"
                )
            elif safety.kind == "none":
                notes.append("rows that commit after larger keys were read are lost (safety none)")
            elif options.key_is_monotonic:
                notes.append("at your word that keys rise in the order of commits (key_is_monotonic)")
            if what := _may_match_late(definition, options):
                notes.append(f"a row counts if it matches the conditions when its key becomes final ({what})")
        elif options.snapshot:
            pass  # the guarantee itself says what a snapshot shows
        elif safety.kind != "commit":
            notes.append(f"rows whose transactions were open when the run began may be missing (safety {safety.kind})")
        elif definition.relation is not None and definition.relation.standby and self._authority is self._session:
            notes.append(
                "the datasource is a standby: rows whose transactions were open when the run began may be missing"
            )
        if definition.relation is not None and not definition.key.proven and options.key_is_unique:
            notes.append(KEY_AT_WORD)
        return "; ".join(notes)

    def _lost(self) -> str:
        safety, window = self._options.safety, self._options.late_window
        late = f" and more than {safety.delay_seconds:g} s after them" if safety.kind == "delay" else ""
        return f"rows that commit after more than {window} larger keys were read{late} are lost (late_window)"

    async def bound(
        self,
        definition: Definition,
        lower: Key | None,
        waiting: Callable[[Horizon | None], None],
        tables: KnownTables | None = None,
    ) -> Key | None:
        """The largest key of this run, once everybody has ended who may still write below it. In one snapshot nobody
        has to be waited for: it shows all that was committed, and never anything else."""
        safety = self._options.safety
        barrier = self._barrier(definition, tables)
        drawn = await barrier.draw(lower, lower)
        if drawn.key is None:
            return None
        if self._options.snapshot:
            return drawn.key
        if self._commit:
            await barrier.wait(waiting)
        elif safety.kind == "delay" and self.follows:
            waiting(Horizon(None))
            try:
                await asyncio.sleep(safety.delay_seconds or 0.0)
            finally:
                waiting(None)
        return drawn.key

    async def frontier(
        self, definition: Definition, position: Key | None, tables: KnownTables | None = None
    ) -> CommitFrontier | DelayFrontier:
        """The moving bound that begins at `position`. Raises Permanent `safety_not_provable`."""
        await self.refuse(definition)
        if self._commit:
            return CommitFrontier(self._barrier(definition, tables), position)
        return DelayFrontier(self._barrier(definition, tables), position, self._options.safety.delay_seconds or 0.0)

    def _barrier(self, definition: Definition, tables: KnownTables | None = None) -> Barrier:
        word = self._word() if self.follows and self._commit else None
        rules = Rules(
            word,
            timeout_seconds=self._options.barrier_timeout_seconds,
            follows=self.follows,
            looks_back=self._options.late_window is not None,
        )
        return Barrier(self._session, definition, rules, authority=self._authority, tables=tables)

    def _word(self) -> Word:
        return Word(self._options.key_is_monotonic, tuple(self._options.barrier_sequences), self._zone)


def _may_match_late(definition: Definition, options: Options) -> str:
    """Why a row may begin to match after its key became final; empty: it can not."""
    reasons = []
    if definition.filters:
        reasons.append("source.where")
    if definition.query is not None and (len(definition.query.relations) > 1 or definition.query.filters):
        reasons.append("the query joins or filters")
    if definition.relation is not None and definition.relation.kind == "v":
        reasons.append("a view may join or filter")
    if options.row_security:
        reasons.append("row security")
    return ", ".join(reasons)
