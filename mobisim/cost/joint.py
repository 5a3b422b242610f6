"""How long a server steps on several mini-batches at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mobisim.cost.compute import BatchCost, mixed, server_model
from mobisim.cost.system import System
from mobisim.cost.work import BatchShape
from mobisim.scenario.profiles import FixedServer


@dataclass(frozen=True)
class JointSteps:
    """Seconds of a step on several mini-batches, told by the numbers of their sorts.

    It is the step on one mini-batch of all their samples, by the server's compute model. Of stated
    times, which do not tell how they grow with a mini-batch, the share `shared` is paid once, that
    of the longest, and the rest by each.
    """

    costs: Sequence[BatchCost]
    parts: Sequence[tuple[System, BatchShape | None]]
    shared: float
    known: dict[tuple[int, ...], float] = field(default_factory=dict)

    def seconds(self, sorts: Sequence[int]) -> float:
        """The seconds; in whatever order the sorts are named."""
        key = tuple(sorted(sorts))
        if key not in self.known:
            self.known[key] = self._seconds(key)
        return self.known[key]

    def _seconds(self, sorts: tuple[int, ...]) -> float:
        alone = [self.costs[sort].step_s for sort in sorts]
        system = self.parts[sorts[0]][0]
        if len(sorts) == 1:
            return alone[0]
        if isinstance(system.scenario.server.profile, FixedServer):
            return self.shared * max(alone) + (1.0 - self.shared) * sum(alone)
        parts = [self.parts[sort] for sort in sorts]
        joint, whole = mixed([(view, shape.sent) for view, shape in parts if shape is not None])
        # What the server has kept whole has no part that its forward could begin with.
        begins_late = (self.parts[sort] for sort in sorts if not self.costs[sort].forward_s)
        forwards = (
            sum(server_model(view).side_forward_s(shape.sent))
            for view, shape in begins_late
            if shape is not None
        )
        return server_model(joint).step_s(whole) + sum(forwards)
