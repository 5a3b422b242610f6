"""What a server that restarts may do, and which of its work that undoes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobisim.report.jobs import Jobs
from mobisim.span import DECODE, DOWN, SIDE_FORWARD, STEP, WORK_KINDS, WORKER, SpanColumns


class Restarted:
    """Follows a server through its restarts."""

    def __init__(self, roles: NDArray[np.int8]) -> None:
        self.roles = roles
        self.ups: list[float] = []  # when it came back
        self.worked_until = 0.0

    def fine(self, columns: SpanColumns) -> NDArray[np.bool_]:
        """Which rows leave alone what is down: no worker works while the server is."""
        works = np.isin(columns.kind, WORK_KINDS) & (self.roles[columns.actor] == WORKER)
        downs = (columns.kind == DOWN) & ~columns.cut
        before = np.concatenate([[self.worked_until], np.where(works, columns.end, 0.0)])
        worked_until = np.maximum.accumulate(before)
        last_up = np.concatenate([self.ups[-1:] or [0.0], np.where(downs, columns.end, 0.0)])
        up_since = np.maximum.accumulate(last_up)[1:]
        self.worked_until = float(worked_until[-1])
        self.ups += columns.end[downs].tolist()
        is_down = columns.kind == DOWN
        found = (~works | (columns.start >= up_since)) & (
            ~is_down | (columns.start >= worked_until[1:])
        )
        return np.asarray(found, np.bool_)

    def without_lost(self, jobs: Jobs) -> Jobs:
        """The rows of mini-batches that are stepped, but for what a restart undid before."""
        if not self.ups:
            return jobs
        columns = jobs.columns
        stepped = np.where(columns.kind == STEP, columns.start, -np.inf)
        stepping = np.maximum.reduceat(stepped, jobs.first)
        ups = np.array([-np.inf, *self.ups])
        up = ups[np.searchsorted(ups, stepping, side="right") - 1]
        lengths = np.diff(jobs.first, append=len(columns))
        undone = np.isin(columns.kind, (DECODE, SIDE_FORWARD))
        return jobs[~(undone & (columns.start < np.repeat(up, lengths)))]

    def taken_up(self, jobs: Jobs) -> NDArray[np.float64]:
        """When mini-batches were taken up, at the latest.

        What is first seen as the server comes back may have been taken up before it went down.
        """
        taken = jobs.taken_up()
        return np.where(np.isin(taken, self.ups), -np.inf, taken)
