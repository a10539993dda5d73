"""Which tests run side by side with which: a scheduler for pytest-xdist."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xdist.scheduler import LoadFileScheduling

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

_KINDS = re.compile(r"\[(donothing|elasticsearch|file|hdfs|kafka|opensearch|s3|search)\b")
_OF_ALL_KINDS = ("tests/contract/test_sink.py", "tests/contract/test_sink_reading.py", "tests/fault/")


class FromBothEnds(LoadFileScheduling):
    """
    One half of the workers begins with the quickest modules, the other half with the slowest.

    Tests are collected in the order of how long they take: unit, contract, integration, acceptance, fault. Those of
    the far end mostly wait (for leases, servers, time-outs), so beside them the near end has the processors; the
    halves meet at modules of middling length, and nobody waits at the end for whoever began the longest one last.
    Tests of all kinds of sinks in one module are divided by the kind: one's servers are no use to another.
    """

    def _assign_work_unit(self, node: WorkerController) -> None:
        """The next from the node's own end."""
        number = int(node.gateway.id.removeprefix("gw"))
        if number % 2 == 0:
            self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
        super()._assign_work_unit(node)

    def _split_scope(self, nodeid: str) -> str:
        """The module, and the kind of sink where it has tests of all."""
        module = super()._split_scope(nodeid)
        kind = _KINDS.search(nodeid) if module.startswith(_OF_ALL_KINDS) else None
        return module if kind is None else f"{module}[{kind[1]}]"
