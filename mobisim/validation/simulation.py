"""The simulated half of a validation: learns once, on as many timelines as there are profiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from mobisim.learning import Learning
from mobisim.lessons import Checkpoints, Taught
from mobisim.prepare import Options, Prepared, prepare
from mobisim.report import results
from mobisim.runner import publish, timeline, will_learn
from mobisim.scenario.schema import Scenario
from mobisim.span import SpanColumns
from mobisim.validation.compare import Figures


class Simulation:
    """Simulates one scenario with one profile after another.

    With one device and one worker the steps follow one another alike in all of them, so that what
    is learned is trained by the first and read by the others.
    """

    def __init__(self, *, train: bool, plots: bool = False) -> None:
        self._train, self._plots = train, plots
        self._lessons: Taught | None = None

    def run(self, scenario: Scenario, place: Path) -> Figures:
        """Simulate and publish; a result of an earlier validation at `place` is replaced.

        Raises:
            InputError: something else is there.
        """
        prepared = self._prepared(scenario, place)
        results.check_free(place, results.read_digest(place) or prepared.digest)
        publish(prepared, self._learning(prepared), timeline(prepared))
        return Figures.of(place)

    def aimed(self, scenario: Scenario) -> Scenario:
        """The scenario with its target where its learning curve, simulated, first meets it late.

        It stays where it is if the curve has no such place, or none is asked for.
        """
        training = scenario.training
        prepared = self._prepared(scenario)
        learning = self._learning(prepared)
        if training is None or training.target is None or learning is None:
            return scenario
        for block in timeline(prepared) or ():
            learning.add(block.columns)
        value = late_target(learning.history.metric)
        if value is None:
            return scenario
        target = training.target.model_copy(update={"value": value})
        changed = training.model_copy(update={"target": target})
        return scenario.model_copy(update={"training": changed})

    def _prepared(self, scenario: Scenario, place: Path | None = None) -> Prepared:
        return prepare(scenario, _options(place, train=self._train, plots=self._plots))

    def _learning(self, prepared: Prepared) -> Learning | None:
        if not will_learn(prepared):
            return None
        if self._lessons is None:
            never = Checkpoints(prepared.place, prepared.digest, every_s=math.inf, resume=False)
            self._lessons = Taught(prepared.system, prepared.planned, never)
        return Learning(prepared.system, self._lessons)


def simulated(scenario: Scenario) -> SpanColumns:
    """The spans of a scenario, with nothing learned."""
    blocks = timeline(prepare(scenario, _options(train=False))) or ()
    return SpanColumns.concatenate(block.columns for block in blocks)


def _options(place: Path | None = None, *, train: bool, plots: bool = False) -> Options:
    return Options(
        out=place, train=train, plots=plots, ignore_memory=True, allow_extrapolation=True,
        command="mobisim validate",
    )  # fmt: skip


def late_target(losses: Sequence[float]) -> float | None:
    """A loss that evaluations first meet after half of the steps; None where they never do so.

    `losses` has a value for each step, NaN where none was evaluated. The target lies halfway
    between the first one in the second half that is below all before it, and the least of these,
    so that no rounding decides whether it is met.
    """
    least = math.inf
    for done, loss in enumerate(losses, 1):
        if not loss < least:
            continue
        if 2 * done > len(losses) and least < math.inf:
            return (least + loss) / 2
        least = loss
    return None
