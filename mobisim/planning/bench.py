"""The bench: one run of a scenario with some values, held against a target; nothing done twice."""

from __future__ import annotations

import hashlib
import math
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mobisim.answer import summarise
from mobisim.errors import InputError
from mobisim.learning import History
from mobisim.planning.question import Question
from mobisim.planning.search import Shortfall
from mobisim.planning.targets import Clause
from mobisim.planning.timeline import Timeline, timeline_of
from mobisim.prepare import Prepared
from mobisim.report.summary import Summary
from mobisim.scenario.document import Document
from mobisim.scenario.schema import Scenario, Target
from mobisim.sweeps.grid import Axis, as_text, points
from mobisim.sweeps.order import Order, order_with, trajectories
from mobisim.sweeps.store import Store
from mobisim.sweeps.work import Setting, prepared_for, train

KEPT = 8  # timelines
USUAL = 60  # runs, for the length of a progress bar
MAX_STEPS = 200_000  # of a run that a search without bounds may ask for

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Reading:
    """What a run says of each clause of a target.

    Attributes:
        values: of the clauses' quantities, in SI units; None where there is none.
        shortfalls: how far each of them is from its clause.
        summary: of the run's timing; None where there is no such run.
        why: why there is no run, or why it never gets there.
        best: the best evaluation, where a metric is asked for.
        error: the input that allows no such run.
    """

    values: tuple[float | None, ...]
    shortfalls: tuple[Shortfall, ...]
    summary: Summary | None = None
    why: str | None = None
    best: float | None = None
    error: InputError | None = None

    @property
    def worst(self) -> int:
        """The number of the clause that is furthest off, or has least headroom."""
        return self.shortfalls.index(max(self.shortfalls))

    @property
    def shortfall(self) -> Shortfall:
        """How far the run is from the target as a whole."""
        return max(self.shortfalls)


class TooLongError(InputError):
    """A search that found no bounds before its runs got too long."""


class Bench:
    """Runs of one question, remembered by their values and seed."""

    def __init__(self, question: Question, store: Store, setting: Setting) -> None:
        self.question, self.store, self.setting = question, store, setting
        self.known: dict[tuple[str, ...], Reading] = {}
        self.learned: list[tuple[Order, History]] = []
        self.timelines: dict[bytes, Timeline] = {}
        self.runs = self.trainings = 0

    def reading(self, values: Values, seed: int) -> Reading:
        """What a run with these values of fields, by their paths, and a seed says."""
        key = _key(values, seed)
        if key not in self.known:
            self.known[key] = self._reading(values, seed)
        return self.known[key]

    def known_reading(self, values: Values, seed: int) -> Reading | None:
        """The same, if that run has been made."""
        return self.known.get(_key(values, seed))

    def _reading(self, values: Values, seed: int) -> Reading:
        axes = [Axis(path, (value,)) for path, value in {**values, "seed": seed}.items()]
        document: Document = self.question.document
        point = points(document, [(axis,) for axis in axes], strict=False)[0]
        try:
            if point.scenario is None:
                raise point.error or InputError("no scenario")
            return self._of(point.scenario)
        except TooLongError:
            raise
        except InputError as error:
            nothing = Shortfall(3, math.inf)
            clauses = self.question.clauses
            why = " ".join(str(error).split())
            return Reading((None,) * len(clauses), (nothing,) * len(clauses), why=why, error=error)

    def _of(self, scenario: Scenario) -> Reading:
        prepared = prepared_for(self.setting, scenario)
        if not prepared.runs:
            return self._unfit(prepared)
        if self.question.open and prepared.world.total_steps > MAX_STEPS:
            raise _too_long(prepared.world.total_steps)
        timeline = self._timeline(prepared)
        summary = summarise(replace(prepared, options=self.question.timing), None, timeline.totals)
        history = self._history(prepared, timeline) if self.question.learns else None
        found = [_value(c, timeline, summary, history) for c in self.question.clauses]
        shortfalls = [
            _shortfall(c, v, history) for c, v in zip(self.question.clauses, found, strict=True)
        ]
        best = _best(self.question.clauses, history)
        return Reading(tuple(found), tuple(shortfalls), summary, _why(shortfalls, best), best)

    def _timeline(self, prepared: Prepared) -> Timeline:
        """The timeline of a run, that of another run where worlds differ in nothing but power."""
        key = _world_key(prepared)
        if key not in self.timelines:
            self.runs += 1
            self.question.options.progress("runs", self.runs, max(self.runs, USUAL))
            self.timelines[key] = timeline_of(prepared)
            if len(self.timelines) > KEPT:
                del self.timelines[next(iter(self.timelines))]
        return self.timelines[key]

    def _unfit(self, prepared: Prepared) -> Reading:
        summary = summarise(replace(prepared, options=self.question.timing), None, None)
        sides = [
            (peak / capacity, side)
            for side in ("device", "server")
            if (peak := getattr(summary, f"{side}_peak_bytes")) is not None
            and (capacity := getattr(summary, f"{side}_capacity_bytes"))
        ]
        ratio, side = max(sides)
        count = len(self.question.clauses)
        why = f"the {side} would need {ratio:.3g} times its memory"
        return Reading((None,) * count, (Shortfall(2, ratio),) * count, summary, why)

    def _history(self, prepared: Prepared, timeline: Timeline) -> History:
        """What a run learns: trained once for all runs whose steps come in the same order."""
        order = order_with(prepared, timeline.steps, timeline.merged)
        for known, history in self.learned:
            if order.begins(known) and len(order.steps) == len(known.steps):
                return history
        trajectory = trajectories({prepared.digest: (prepared.scenario, order)})[0]
        learned = self.store.history(trajectory.digest)
        if learned is None:
            self.trainings += 1
            learned = train(self.setting, trajectory).history
            self.store.keep(trajectory.digest, learned)
        self.learned.append((order, learned))
        return learned


def _key(values: Values, seed: int) -> tuple[str, ...]:
    return str(seed), *(f"{path}={as_text(value)}" for path, value in sorted(values.items()))


def _world_key(prepared: Prepared) -> bytes:
    """A digest of all that a timeline follows from; that of the run where a world has none."""
    world = prepared.world
    alike = replace(world, groups=tuple(replace(g, power=None) for g in world.groups))
    try:
        return hashlib.sha256(pickle.dumps(alike)).digest()
    except (pickle.PicklingError, AttributeError):  # stated outages hold quantities that are none
        return prepared.digest.encode()


def _too_long(steps: int) -> TooLongError:
    return TooLongError(
        "this search has no bounds that it could reach",
        where="--find",
        got=f"a run of {steps:,} mini-batches",
        hint="say between which values to look: … from A to B",
    )


def _value(
    clause: Clause, timeline: Timeline, summary: Summary, history: History | None
) -> float | None:
    metric = clause.metric
    if metric is not None:
        assert history is not None
        return _reached(metric, clause, timeline, history)
    if clause.quantity == "finish":
        return float(np.percentile(timeline.finish_s, clause.percentile, method="inverted_cdf"))
    field = {"makespan": "makespan_s", "energy": "energy_j", "battery": "battery_share"}.get(
        clause.quantity,
        clause.quantity.replace("memory", "peak_bytes"),
    )
    found: float | None = getattr(summary, field)
    if found is None:
        raise InputError(
            f"{clause.named} is not known of this scenario",
            where=f"--target {clause.text}",
            hint="its profiles state no power" if field in ("energy_j", "battery_share") else None,
        )
    return found


def _reached(metric: Target, clause: Clause, timeline: Timeline, history: History) -> float | None:
    """When a metric was first met, or what it was at the end."""
    if clause.within_s is None:
        steps = len(timeline.ends_s)
        found = history.held_out.get(steps, history.after(steps))
        return found if math.isfinite(found) else None
    met = (step for step, value in enumerate(history.metric) if metric.met_by(value))
    first = next(met, None)
    return None if first is None else float(timeline.ends_s[first])


def _shortfall(clause: Clause, value: float | None, history: History | None) -> Shortfall:
    if value is not None:
        return Shortfall(0, clause.ratio(value))
    assert history is not None
    best = _best_of(clause, history)
    if best is None or not best:
        return Shortfall(1, math.inf)
    return Shortfall(1, clause.limit / best if clause.at_least else best / clause.limit)


def _best(clauses: Sequence[Clause], history: History | None) -> float | None:
    asked = next((clause for clause in clauses if clause.metric is not None), None)
    return None if asked is None or history is None else _best_of(asked, history)


def _best_of(clause: Clause, history: History) -> float | None:
    values = [value for value in history.metric if math.isfinite(value)]
    if not values:
        return None
    return max(values) if clause.at_least else min(values)


def _why(shortfalls: Sequence[Shortfall], best: float | None) -> str | None:
    if max(shortfalls).rank != 1:
        return None
    return f"the best evaluation is {best:.3g}" if best is not None else "learning diverged"
