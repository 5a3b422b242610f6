"""Whether devices were there when they began mini-batches."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobisim.outages import Outlook, outlook
from mobisim.world import World


class Presence:
    """Knows the absences of every device that has any."""

    def __init__(self, world: World) -> None:
        self.absences = [group.absences for group in world.groups]
        self.group_of, self.seed = world.group_of, world.seed
        self.leaves = np.array([absences is not None for absences in self.absences])
        self.outlooks: dict[int, Outlook] = {}

    def fine(self, device: NDArray[np.int32], begun: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which mini-batches were begun by a device that was there; begun is infinite for none."""
        found = np.ones(len(device), np.bool_)
        asked = self.leaves[self.group_of[device]] & np.isfinite(begun)
        for at in np.flatnonzero(asked).tolist():
            instant = float(begun[at])
            found[at] = self._of(int(device[at])).over(instant) == instant
        return found

    def _of(self, device: int) -> Outlook:
        if device not in self.outlooks:
            absences = self.absences[self.group_of[device]]
            self.outlooks[device] = outlook(absences, self.seed, f"device-{device}/absences")
        return self.outlooks[device]
