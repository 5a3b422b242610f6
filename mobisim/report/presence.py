"""Whether devices were there when they began mini-batches."""

from __future__ import annotations

from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from mobisim.outages import Outlook, outlook
from mobisim.report.jobs import Jobs
from mobisim.span import DOWNLOAD, ENCODE, FORWARD, NONE, TRANSFER, SpanColumns
from mobisim.world import World

_OF_A_DEVICE = (FORWARD, ENCODE, TRANSFER, DOWNLOAD)


class Presence:
    """Knows the absences of every device that has any."""

    def __init__(self, world: World) -> None:
        self.absences = [group.absences for group in world.groups]
        self.group_of, self.seed = world.group_of, world.seed
        self.leaves = np.array([absences is not None for absences in self.absences])
        self.vanishes = np.array([group.vanishes for group in world.groups])
        self.outlooks: dict[int, Outlook] = {}

    def fine(self, device: NDArray[np.int32], begun: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which mini-batches were begun by a device that was there; begun is infinite for none."""
        found = np.ones(len(device), np.bool_)
        asked = self.leaves[self.group_of[device]] & np.isfinite(begun)
        for at in np.flatnonzero(asked).tolist():
            instant = float(begun[at])
            found[at] = self._of(int(device[at])).over(instant) == instant
        return found

    def idle_while_gone(self, columns: SpanColumns) -> NDArray[np.bool_]:
        """Which spans are not of a device that has vanished at the time, or of its links."""
        found = np.ones(len(columns), np.bool_)
        asked = np.isin(columns.kind, _OF_A_DEVICE)
        asked[asked] = self.vanishes[self.group_of[columns.device[asked]]]
        for at in np.flatnonzero(asked).tolist():
            start, end = float(columns.start[at]), float(columns.end[at])
            gone = next(self._of(int(columns.device[at])).after(start), (end, end))
            found[at] = gone[0] >= end or start == end
        return found

    def without_lost(self, jobs: Jobs) -> tuple[Jobs, NDArray[np.bool_]]:
        """The rows of mini-batches but for forwards that were repeated after a loss.

        Of those of a message the last one leads to it that ended before what follows began. Beside
        it, which of the rows are none, or repeated no more often than the device vanished.
        """
        columns = jobs.columns
        if not self.vanishes.any():
            return jobs, np.ones(len(columns), np.bool_)
        forward = columns.kind == FORWARD
        group = np.cumsum(~jobs.same_message) - 1  # the messages' numbers
        follows = np.where(forward, np.inf, columns.start)
        follows = np.minimum.reduceat(follows, np.flatnonzero(~jobs.same_message))[group]
        leads = forward & (columns.end <= follows)
        last = np.zeros(len(columns), np.bool_)
        at = np.flatnonzero(leads)
        last[at[np.diff(group[at], append=NONE) != 0]] = True
        repeated = forward & ~last
        return jobs[~repeated], ~repeated | self._vanished(jobs, repeated)

    def _vanished(self, jobs: Jobs, repeated: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which rows are of mini-batches whose device vanished as often as a tap was repeated."""
        columns = jobs.columns
        found = np.zeros(len(columns), np.bool_)
        keys, taps = jobs.key[repeated], columns.tap[repeated]
        for key in np.unique(keys).tolist():
            mine = jobs.key == key
            forwards = columns[mine & (columns.kind == FORWARD)]
            begun, last = float(forwards.start.min()), float(forwards.start.max())
            outages = self._of(int(forwards.device[0])).after(begun)
            losses = sum(1 for _ in takewhile(lambda gone: gone[0] < last, outages))  # noqa: B023
            found[mine] = np.unique(taps[keys == key], return_counts=True)[1].max() <= losses
        return found

    def _of(self, device: int) -> Outlook:
        if device not in self.outlooks:
            absences = self.absences[self.group_of[device]]
            self.outlooks[device] = outlook(absences, self.seed, f"device-{device}/absences")
        return self.outlooks[device]
