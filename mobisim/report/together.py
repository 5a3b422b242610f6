"""Mini-batches that are stepped together: the rows that name them before their step's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mobisim.span import JOINT, STEP, SpanColumns
from mobisim.world import World

SamplesOf = Callable[[NDArray[np.int32], NDArray[np.int64]], NDArray[np.int64] | None]


def each_stepped(columns: SpanColumns) -> SpanColumns:
    """The rows as if each mini-batch had a step of its own."""
    return replace(columns, kind=np.where(columns.kind == JOINT, STEP, columns.kind))


class StepSamples:
    """Adds up the samples of what is stepped together, block by block."""

    def __init__(self, samples_of: SamplesOf) -> None:
        self.samples_of = samples_of
        self.open = 0  # of what is named already, and whose step is still to come

    def add(self, columns: SpanColumns) -> NDArray[np.int64] | None:
        """The samples of each step among some more rows; None where nobody knows."""
        steps = columns[(columns.kind == STEP) & ~columns.cut]
        joint = columns[columns.kind == JOINT]
        found = self.samples_of(steps.device, steps.batch)
        others = self.samples_of(joint.device, joint.batch)
        if found is None or others is None:
            return found
        own = np.searchsorted(steps.version_written, joint.version_written)
        np.add.at(found, own[own < len(steps)], others[own < len(steps)])
        found[:1] += self.open
        self.open = int(others[own == len(steps)].sum()) + (0 if len(steps) else self.open)
        return found


class Together:
    """Follows the rows of what is stepped together, block by block."""

    def __init__(self, world: World) -> None:
        self.most = 1 if world.batching is None else world.batching.most
        self.open = SpanColumns.from_rows([])  # whose step is still to come

    def fine(self, columns: SpanColumns) -> NDArray[np.bool_]:
        """Which rows are no steps, or have the very times and versions of those before them."""
        known = len(self.open)
        rows = SpanColumns.concatenate([self.open, columns])
        ends = np.isin(rows.kind, (STEP, JOINT)) & ~rows.cut
        at = np.flatnonzero(ends)
        steps = np.flatnonzero(rows.kind[at] == STEP)
        own = np.searchsorted(steps, np.arange(len(at)))  # the step that each row is part of
        whole = own < len(steps)
        self.open = rows[at[~whole]]
        at, own = at[whole], own[whole]
        found = np.ones(len(rows), np.bool_)
        found[at] = np.bincount(own, minlength=len(steps))[own] <= self.most
        for name in ("start", "end", "version_read", "version_written"):
            values = getattr(rows, name)[at]
            found[at] &= values == values[steps[own]]
        return found[known:] & found[:known].all()
