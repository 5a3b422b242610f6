"""Learning on the timeline: what was learned at each step span, and whether it ends the run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mobisim.cost.system import System
from mobisim.span import INGESTS, STEP, SpanColumns
from mobisim.stopping import Reason, Stop, Watch
from mobisim.workload import models_of, trained_names, trained_sizes

# Of each device whose work a round averages, the last of its mini-batches and the version that it
# began from; without rounds, the mini-batches that are stepped together with another. Ascending.
Merged = Sequence[tuple[int, int, int]]


@dataclass(frozen=True)
class Learned:
    """What was learned at the steps of one block: one value per step, NaN for no evaluation."""

    loss: NDArray[np.float64]
    metric: NDArray[np.float64]
    stop_after: int | None = None  # the row of the block after which the run ends


@dataclass
class History:
    """Losses and evaluations of all steps so far; what a checkpoint must bring back.

    An evaluation is the mean over all devices; of several, `groups` holds mean, least and greatest
    of each group, by the number of steps. `ends` holds evaluations beside the usual ones, after
    steps at which some run ends, and `held_out` those on the held-out split, where a validation
    split stands in for it until then.
    """

    loss: list[float] = field(default_factory=list)
    metric: list[float] = field(default_factory=list)
    initial: float = math.nan
    ends: dict[int, float] = field(default_factory=dict)
    held_out: dict[int, float] = field(default_factory=dict)
    groups: dict[int, list[tuple[float, float, float]]] = field(default_factory=dict)

    def after(self, step: int) -> float:
        """The evaluation after so many steps; NaN where there was none."""
        usual = self.metric[step - 1] if step else self.initial
        return self.ends.get(step, math.nan) if math.isnan(usual) else usual


class Lessons(Protocol):
    """Where losses and evaluations come from."""

    @property
    def history(self) -> History:
        """All of them so far."""

    def step(self, device: int, batch: int, version_read: int, merged: Merged = ()) -> None:
        """Make the history one step longer, by a device's mini-batch or one that is replayed.

        With rounds it is by what was merged; elsewhere that is stepped together with it.
        """

    def evaluate(self) -> float:
        """The metric after the last step of the history."""

    def evaluate_held_out(self) -> float:
        """The same on the split that was held out."""

    def save(self, folder: Path) -> None:
        """Write what was trained, where that is known."""


@dataclass(frozen=True)
class Recorded:
    """Lessons that were given before: the history has it all."""

    history: History

    def step(
        self,
        device: int,
        batch: int,
        version_read: int,
        merged: Merged = (),  # noqa: ARG002
    ) -> None:
        """No run takes more steps than were trained."""
        what = f"mini-batch {batch} of device {device} at version {version_read}"
        raise AssertionError(f"{what} was not trained")

    def evaluate(self) -> float:
        """Only where an evaluation gave no number, as this one would."""
        return math.nan

    def evaluate_held_out(self) -> float:
        """No number: it has not been read yet."""
        return math.nan

    def save(self, folder: Path) -> None:
        """Nothing: what was trained is not recorded."""


class Learning:
    """Follows the step spans of one run, in their order."""

    def __init__(self, system: System, lessons: Lessons) -> None:
        training = system.scenario.training
        assert training is not None
        self.system, self.training, self.lessons = system, training, lessons
        self.history = lessons.history
        self.done = 0
        self.merged: list[tuple[int, int, int]] = []  # since the last step
        stop = Stop.of(training)
        self.watch = Watch(stop) if stop is not None else None
        self.stopped: Reason | None = None
        self.time_to_target_s: float | None = None

    @property
    def stand_in(self) -> dict[str, str] | None:
        """What is trained and what is timed, where they differ."""
        scenario = self.system.scenario
        trained = trained_names(scenario)
        pairs = zip(trained, self.system.views, strict=True)
        if all(trained_sizes(name) == view.backbone for name, view in pairs):
            return None
        timed = models_of(scenario)
        assert timed is not None
        return {"trained": ", ".join(dict.fromkeys(trained)), "timed": timed}

    def add(self, columns: SpanColumns) -> Learned:
        """Learn at each step of a block. Runs begin at time zero."""
        rows = np.flatnonzero(np.isin(columns.kind, INGESTS) & ~columns.cut)
        first = self.done
        for row in rows.tolist():
            batch, version_read = int(columns.batch[row]), int(columns.version_read[row])
            if columns.kind[row] != STEP:
                self.merged.append((int(columns.device[row]), batch, version_read))
                continue
            self.done += 1
            if self.done > len(self.history.loss):  # else it was learned before
                merged = tuple(sorted(self.merged))
                self.lessons.step(int(columns.device[row]), batch, version_read, merged)
            self.merged.clear()
            if self._meets_target():
                self.time_to_target_s = float(columns.end[row])
            if self.watch is not None:
                self.stopped = self.watch.sees(self.history.metric[self.done - 1])
            if self.stopped is not None:
                return self._learned(first, stop_after=row)
        return self._learned(first)

    def _learned(self, first: int, stop_after: int | None = None) -> Learned:
        loss, metric = self.history.loss[first : self.done], self.history.metric[first : self.done]
        return Learned(np.array(loss), np.array(metric), stop_after)

    def _meets_target(self) -> bool:
        target = self.training.target
        return (
            target is not None
            and self.time_to_target_s is None
            and target.met_by(self.history.metric[self.done - 1])
        )

    @property
    def diverged_at(self) -> int | None:
        """The first step whose loss is no number; None where all are."""
        losses = self.history.loss[: self.done]
        return next((i + 1 for i, loss in enumerate(losses) if not math.isfinite(loss)), None)

    def last_metric(self) -> float:
        """The metric after the last step; measured now where that step was not evaluated."""
        last = self.history.after(self.done)
        return self.lessons.evaluate() if math.isnan(last) else last

    def by_group(self) -> list[tuple[float, float, float]] | None:
        """Mean, least and greatest metric of each group's devices after the last step."""
        self.last_metric()
        return self.history.groups.get(self.done)

    def final_metric(self) -> float:
        """The metric at the end: where a validation split was cut, on the held-out one."""
        if self.training.validation is None:
            return self.last_metric()
        known = self.history.held_out.get(self.done)
        return self.lessons.evaluate_held_out() if known is None else known
