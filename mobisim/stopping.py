"""When learning ends a run before its time: at its target, or where it gets no better."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Self

from mobisim.scenario.schema import LOWER_IS_BETTER, Metric, Target, Training
from mobisim.workload import metric_name

Reason = Literal["target", "plateau"]


@dataclass(frozen=True)
class Stop:
    """A target that ends a run, so many evaluations in a row that do, or whichever comes first."""

    target: Target | None
    patience: int | None
    metric: Metric

    @classmethod
    def of(cls, training: Training) -> Self | None:
        """What ends a training's run; None where nothing does."""
        target = training.target if training.stop_at_target else None
        if target is None and training.patience is None:
            return None
        return cls(target, training.patience, metric_name(training))

    def after(self, metrics: Iterable[float]) -> int | None:
        """After how many steps a run with these evaluations ends, NaN for none; None for never."""
        watch = Watch(self)
        return next((done for done, value in enumerate(metrics, 1) if watch.sees(value)), None)

    @property
    def key(self) -> dict[str, Any]:
        """All that tells it from others."""
        target = self.target.model_dump() if self.target else None
        return {"target": target, "patience": self.patience, "metric": self.metric}


class Watch:
    """Looks at one evaluation after the other."""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop
        self.best = -math.inf
        self.in_vain = 0  # evaluations since the best one

    def sees(self, value: float) -> Reason | None:
        """Whether a step with this evaluation, NaN for none, ends the run, and why."""
        if math.isnan(value):
            return None
        if self.stop.target is not None and self.stop.target.met_by(value):
            return "target"
        better = -value if self.stop.metric in LOWER_IS_BETTER else value
        self.in_vain = 0 if better > self.best else self.in_vain + 1
        self.best = max(self.best, better)
        return "plateau" if self.in_vain == self.stop.patience else None
