"""How long a method takes at any rate of the uplink: its timeline alone, nothing learned anew."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from mobisim.compare.question import Question
from mobisim.errors import InputError
from mobisim.prepare import Prepared
from mobisim.runner import collector_at_rest
from mobisim.scenario.methods import METHODS
from mobisim.scenario.quantities import Rate, Sourced
from mobisim.sim.engine import simulate
from mobisim.span import STEP
from mobisim.sweeps.work import Setting, prepared_for
from mobisim.world import World, build


@dataclass(frozen=True)
class Ticks:
    """When each step of a run ended, and when the run did."""

    steps_s: NDArray[np.float64]
    makespan_s: float


class Clock:
    """The times of a comparison's methods.

    With `steps_to_target`, of each method and seed, times are those to the target: the moment at
    which so many steps are done, in the mean over seeds. Without it they are makespans. That asks
    for steps that come in the same order at every rate, as they do with one device and one worker.
    """

    def __init__(
        self,
        question: Question,
        setting: Setting,
        steps_to_target: Mapping[tuple[str, int], int | None] | None = None,
    ) -> None:
        self.question, self.setting, self.steps = question, setting, steps_to_target
        self.ticks, self.ready = cache(self._ticks), cache(self.prepared)

    @cached_property
    def first_seed(self) -> int:
        """Without learning all seeds but those of random times take as long."""
        return self.question.scenario.seed

    def seconds(self, method: str, rate: float | None = None) -> float:
        """The time of a method at a rate; infinite where it never gets there."""
        if not METHODS[method].up and not METHODS[method].down:
            rate = None  # its own link or another: it uses none
        if self.steps is None:
            ticks = self.ticks(method, self.first_seed, rate)
            return math.inf if ticks is None else ticks.makespan_s
        wanted = {seed: count for (name, seed), count in self.steps.items() if name == method}
        return fmean(self._to_target(method, s, count, rate) for s, count in wanted.items())

    def prepared(self, method: str, seed: int) -> Prepared | None:
        """A run, ready to be timed; None where the method's own row tells why there is none."""
        scenario = self.question.at(method, seed).scenario
        try:
            return prepared_for(self.setting, scenario) if scenario is not None else None
        except InputError:
            return None

    def _to_target(self, method: str, seed: int, count: int | None, rate: float | None) -> float:
        ticks = self.ticks(method, seed, rate) if count is not None else None
        if ticks is None or count is None:
            return math.inf
        return float(ticks.steps_s[count - 1])

    def _ticks(self, method: str, seed: int, rate: float | None) -> Ticks | None:
        prepared = self.ready(method, seed)
        if prepared is None or not prepared.runs:
            return None
        world = prepared.world if rate is None else _at(prepared, rate)
        ends, makespan = [np.empty(0)], 0.0
        with collector_at_rest():
            for block in simulate(world):
                columns = block.columns
                ends.append(columns.end[(columns.kind == STEP) & ~columns.cut])
                makespan = max(makespan, float(columns.end.max(initial=0.0)))
        return Ticks(np.concatenate(ends), makespan)


def _at(prepared: Prepared, rate: float) -> World:
    """The world of a run with every link's uplink at that rate, in bit/s."""
    scenario = prepared.scenario
    uplink = {"uplink": Sourced[Rate].model_validate(f"{rate!r} bit/s")}
    groups = (
        group.model_copy(update={"link": group.link.model_copy(update=uplink)})
        for group in scenario.devices
    )
    changed = scenario.model_copy(update={"devices": type(scenario.devices)(groups)})
    system = replace(prepared.system, scenario=changed)
    return build(system, prepared.planned.workload, prepared.costs)
