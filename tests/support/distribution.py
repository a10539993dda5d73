"""Which tests run side by side with which: a scheduler for pytest-xdist."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from xdist.scheduler import LoadFileScheduling

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xdist.workermanage import WorkerController

_PARAMETER = re.compile(r"\[(donothing|elasticsearch|file|hdfs|kafka|opensearch|s3|search)\b")
_OF_ALL_KINDS = ("tests/contract/test_sink.py", "tests/contract/test_sink_reading.py", "tests/fault/")
_SERVERS = re.compile(r"elasticsearch|opensearch|search|hdfs|kafka|s3|tests/acceptance/")
_NAMES = {"opensearch": "elasticsearch", "search": "elasticsearch", "tests/acceptance/": "kafka"}


class FromBothEnds(LoadFileScheduling):
    """
    One half of the workers begins with the quickest modules, the other half with the slowest.

    Tests are collected in the order of how long they take: unit, contract, integration, acceptance, fault. Those of
    the far end mostly wait (for leases, servers, time-outs), so beside them the near end has the processors; the
    halves meet at modules of middling length, and nobody waits at the end for whoever began the longest one last.

    Tests of all kinds of sinks in one module are divided by the kind. Who has once had tests of a kind gets the others,
    as long as there is something else for the rest: its servers take seconds to start, and the processor while idle.
    """

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._kinds: dict[str, WorkerController] = {}

    def _assign_work_unit(self, node: WorkerController) -> None:
        """The next from the node's own end."""
        number = int(node.gateway.id.removeprefix("gw"))
        scope = self._next(node, reversed(self.workqueue) if number % 2 == 0 else self.workqueue)
        if (kind := _kind(scope)) is not None:
            self._kinds.setdefault(kind, node)
        self.workqueue.move_to_end(scope, last=False)
        super()._assign_work_unit(node)

    def _next(self, node: WorkerController, scopes: Iterable[str]) -> str:
        found = list(scopes)
        return next((scope for scope in found if self._kinds.get(_kind(scope) or "", node) is node), found[0])

    def _split_scope(self, nodeid: str) -> str:
        """The module, and the kind of sink where it has tests of all."""
        module: str = super()._split_scope(nodeid)
        kind = _PARAMETER.search(nodeid) if module.startswith(_OF_ALL_KINDS) else None
        return module if kind is None else f"{module}[{kind[1]}]"


def _kind(scope: str) -> str | None:
    """Whose servers the tests need, as far as their module's name tells."""
    found = None if scope.startswith("tests/unit/") else _SERVERS.search(scope)
    return None if found is None else _NAMES.get(found[0], found[0])
