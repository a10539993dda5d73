"""What a worker needs from outside, as the composition roots hand it in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from service.domain.datasource import Datasource
    from service.domain.inspection import Finding, Sample, TableInfo
    from service.domain.ports import StepStore
    from service.domain.steps import Step
    from sinks.base import Sink
    from workers.limits import MemoryBudget, RateLimit
    from workers.signals import Signals
    from workers.sources.base import Snapshot, Source
    from workers.sources.cut import Cut


class Sources(Protocol):
    """Makes the source of a definition."""

    async def source(
        self,
        account: str,
        spec: Mapping[str, object],
        target: Mapping[str, object] | None = None,
        *,
        name: str,
        origin: Mapping[str, object] | None = None,
        secrets: Mapping[str, str] | None = None,
        waiting: Callable[[bool], None] | None = None,
        cut: Cut | None = None,
    ) -> Source:
        """A source for the stored definition `spec`; `target` is what was kept when the generation was planned, its
        columns among it, and what its template gave; left out, the columns are those of now, and a template is as on
        a first run. `name` tells the source database who asks, `origin` an envelope which step reads. `secrets`: those
        of the definition, by pointer. `waiting` hears whether a connection is being waited for. `cut`: the rows are
        those of that moment. Raises Permanent `datasource_unknown`, `salt_missing`, `template_refused` and what
        resolving a secret raises."""

    async def snapshot(
        self,
        account: str,
        spec: Mapping[str, object],
        *,
        name: str,
        secrets: Mapping[str, str] | None = None,
        waiting: Callable[[bool], None] | None = None,
    ) -> Snapshot:
        """The present moment of the source of `spec`, held for at most as long as its options say; whoever called
        closes it. Raises Permanent `snapshot_needs_connections`, what `source` raises and what connecting raises."""

    async def check(self, datasource: Datasource) -> Sequence[Finding]:
        """Connect and look: version, role, rights. Raises what connecting raises."""

    async def tables(self, datasource: Datasource, *, limit: int, after: str | None) -> Sequence[TableInfo]:
        """Tables and views the role may read, by name, those after the name `after`. Raises what connecting raises."""

    async def sample(self, datasource: Datasource, query: str, *, rows: int, characters: int) -> Sample:
        """The first rows of a query, as `service.domain.inspection.Inspector.sample`. Raises what connecting raises."""


class Sinks(Protocol):
    """Makes the sink of a definition."""

    async def sink(
        self,
        account: str,
        spec: Mapping[str, object],
        secrets: Mapping[str, str],
        target: Mapping[str, object] | None = None,
        *,
        job_id: str = "",
        generation: int = 0,
    ) -> Sink:
        """A sink for the stored definition, secrets and stored credential put in; `target` is what the sink said of
        its target when the generation was planned. Job and generation name what the sink makes for them alone; left
        out, it is only looked at."""


@dataclass(frozen=True, slots=True)
class Workplace:
    """Everything that the steps of one process share."""

    store: StepStore
    sources: Sources
    sinks: Sinks
    signals: Signals
    memory: MemoryBudget
    rate: Callable[[str], RateLimit]
    """The rate limit of a job id, shared by its splits in this process."""

    def title(self, step: Step) -> str:
        """How a step calls itself towards a source: the job's name and the split."""
        return f"rowferry {step.job_name} {step.lease.kind.value}-{step.lease.ordinal}"[:63]
