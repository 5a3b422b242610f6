"""The order in which mini-batches may leave the server's queue."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobisim.span import NONE, QUEUE, SERVER, SpanColumns
from mobisim.world import World


class QueueOrder:
    """Follows who left the queue, in memory that follows the number of devices.

    Of a real run, arrivals at one moment may be told in another order than they were seen in.
    """

    def __init__(self, world: World, *, real: bool) -> None:
        self.roles = world.actors.roles
        self.first_come = world.discipline == "first-come" and not real
        self.last_joined = 0.0
        self.last_of = np.full(world.actors.num_devices, NONE, np.int64)

    def left(self, columns: SpanColumns) -> SpanColumns:
        """The spans of those who left the queue."""
        queued = (columns.kind == QUEUE) & (self.roles[columns.actor] == SERVER) & ~columns.cut
        return columns[queued & (columns.version_read == NONE)]  # else it waits for its round's end

    def fine(self, left: SpanColumns) -> NDArray[np.bool_]:
        """Who left after all that go before: of the same device, or with first-come of all."""
        order = np.argsort(left.device, kind="stable")
        device, batch = left.device[order], left.batch[order]
        same = np.diff(device, prepend=NONE) == 0
        ascends = np.where(same, np.roll(batch, 1), self.last_of[device]) < batch
        self.last_of[device] = batch  # of equal devices the last one wins
        fine = np.empty(len(left), np.bool_)
        fine[order] = ascends
        if not self.first_come:
            return fine
        joined = np.concatenate([[self.last_joined], left.start])
        self.last_joined = float(joined[-1])
        found: NDArray[np.bool_] = fine & (np.diff(joined) >= 0)
        return found
