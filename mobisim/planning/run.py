"""A plan: values that meet a target, verified with seeds, with the reasons, in a folder.

plan.json       the answer
trajectories/   what was trained, once for all runs that learn the same
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scipy.special import betaincinv

from mobisim.compare.statistics import interval
from mobisim.errors import InputError
from mobisim.learning import History, Learning, Recorded
from mobisim.planning.bench import Bench, Reading, Values
from mobisim.planning.knobs import Knob
from mobisim.planning.question import Question
from mobisim.planning.reasons import SENSITIVE, Assumption, assumptions, moved, nudges, pace_of
from mobisim.planning.search import SCAN, Found, Heights, Shortfall, bracket, first_met
from mobisim.planning.several import Cheapest, cheapest
from mobisim.planning.targets import Clause, shown
from mobisim.report import results, wording
from mobisim.report.plan_answer import (
    Chosen,
    Leaning,
    Outcome,
    PlanAnswer,
    Search,
    Verified,
    Worth,
    as_json,
)
from mobisim.scenario.schema import Scenario
from mobisim.sweeps.grid import Axis, points
from mobisim.sweeps.store import TRAJECTORIES, Store
from mobisim.sweeps.work import Setting, prepared_for

ANSWER = "plan.json"
UNEXAMINED = "Not looked into: what a little more is worth, and on which assumed values this leans."
MOST_LEANINGS = 2  # assumed values at whose ends the answer is sought anew
LEVEL = 0.95


@dataclass(frozen=True)
class Finding:
    """What a search came to: the rung of each knob that was found, or that comes nearest."""

    knobs: tuple[Knob, ...]
    rungs: tuple[int, ...]
    met: bool
    how: Found | Cheapest

    @property
    def values(self) -> dict[str, Any]:
        """The fields, as a scenario takes them."""
        pairs = zip(self.knobs, self.rungs, strict=True)
        return {knob.path: knob.value(rung) for knob, rung in pairs}

    @property
    def shown(self) -> str:
        """The values, as people say them."""
        pairs = zip(self.knobs, self.rungs, strict=True)
        if len(self.knobs) == 1:
            return self.knobs[0].shown(self.rungs[0])
        return ", ".join(f"{k.path.rpartition('.')[2]} {k.shown(rung)}" for k, rung in pairs)


def plan(question: Question) -> tuple[Path, PlanAnswer]:
    """Find what is asked for, and publish the answer.

    Raises:
        InputError: the plan cannot begin as it stands, or no run of it is possible.
    """
    place = question.place
    results.check_writable(place / TRAJECTORIES)
    store = Store(place.resolve(), question.digest, manifest=ANSWER)
    # Its trainings tell how far they are.
    options = replace(question.options.bare, progress=question.options.progress)
    setting = Setting(
        question.session, options, store.folder, store.trajectories, shares=question.learns
    )
    about = {"schema_version": 1, "digest": question.digest, "command": question.options.command}
    planner = _Planner(question, Bench(question, store, setting), setting)
    with store.opened(about) if question.learns else nullcontext():
        answer = planner.answer()
        store.check_free()
        place.mkdir(parents=True, exist_ok=True)
        with results.replacing(place / ANSWER) as aside:
            results.write_json(aside, about | as_json(answer))
    return place, answer


class _Planner:
    def __init__(self, question: Question, bench: Bench, setting: Setting) -> None:
        self.question, self.bench, self.setting = question, bench, setting
        self.seed = question.seeds[0]

    def answer(self) -> PlanAnswer:
        found, verified = self._found()
        reading = self._reading(found.values)
        self._check_possible()
        runs = self.bench.runs
        pace = pace_of(reading.summary) if reading.summary is not None else None
        scenario = self._scenario(found.values)
        question = self.question
        reasons = scenario if question.reasons else None
        worth = self._worth(found, reading, reasons)
        leanings = self._leanings(found, reading, reasons)
        return PlanAnswer(
            name=question.scenario.name,
            digest=question.digest,
            target=" and ".join(clause.text for clause in question.clauses),
            met=found.met,
            knobs=tuple(_chosen(*pair) for pair in zip(found.knobs, found.rungs, strict=True)),
            cost=self._cost(found),
            cost_text=question.cost.text if question.cost is not None else None,
            outcomes=self._outcomes(found, reading),
            binding=reading.worst,
            why=reading.why,
            pace=pace,
            verified=verified,
            search=self._told(found, runs),
            worth=worth,
            leanings=leanings,
            stand_in=self._stand_in(scenario),
            notes=() if question.reasons else (UNEXAMINED,),
        )

    def _found(self) -> tuple[Finding, Verified | None]:
        """Search with the scenario's own seed; where others do not agree, with all of them."""
        seeds = self.question.seeds
        found = self._search(seeds[:1])
        if found.met and not all(self._meets(found.values, seed) for seed in seeds):
            found = self._search(seeds)
        if not found.met:
            return found, None
        return found, self._verified(found)

    def _meets(self, values: Values, seed: int) -> bool:
        return self.bench.reading(values, seed).shortfall.met

    def _search(self, seeds: Sequence[int], fixed: Mapping[str, Any] | None = None) -> Finding:
        if self.question.cost is None:
            return self._along(self.question.knobs[0], seeds, fixed or {})
        knobs = self.question.knobs
        if any(knob.open for knob in knobs):
            knob = next(knob for knob in knobs if knob.open)
            raise InputError(
                "with a cost every knob needs bounds",
                where=f"--find {knob.wanted} {knob.path}",
                expected=f"{knob.wanted} {knob.path} from 1 to 64",
            )

        def height(rungs: tuple[int, ...]) -> Shortfall:
            pairs = zip(knobs, rungs, strict=True)
            values = {knob.path: knob.value(rung) for knob, rung in pairs}
            return max(self._worst({**(fixed or {}), **values}, seeds))

        found = cheapest(knobs, self.question.cost, height)
        met = found.indices is not None
        return Finding(knobs, found.indices or found.nearest, met, found)

    def _along(self, knob: Knob, seeds: Sequence[int], fixed: Mapping[str, Any]) -> Finding:
        def at(value: Any) -> Heights:
            return self._worst({**fixed, knob.path: value}, seeds)

        if knob.open:
            low, high = min(knob.ladder), max(knob.ladder)
            assert knob.wanted != "among"
            knob = knob.between(*bracket(low, high, knob.wanted, lambda n: max(at(n))))
        found = first_met(len(knob.ladder), lambda rung: at(knob.value(rung)))
        met = found.index is not None
        rung = found.nearest if found.index is None else found.index
        return Finding((knob,), (rung,), met, found)

    def _worst(self, values: Values, seeds: Sequence[int]) -> Heights:
        """How far the worst of some seeds is; no further ones than show that it is missed."""
        worst = self._reading(values).shortfalls
        for seed in seeds:
            found = self.bench.reading(values, seed).shortfalls
            worst = tuple(map(max, worst, found))
            if not max(worst).met:
                break
        return worst

    def _reading(self, values: Values) -> Reading:
        return self.bench.reading(values, self.seed)

    def _check_possible(self) -> None:
        """Where no run was possible at all, what stands in the way is the answer."""
        errors = [reading.error for reading in self.bench.known.values()]
        if errors and all(errors):
            raise next(error for error in errors if error is not None)

    def _verified(self, found: Finding) -> Verified:
        readings = [self.bench.reading(found.values, seed) for seed in self.question.seeds]
        met = sum(reading.shortfall.met for reading in readings)
        alike = len({reading.values for reading in readings}) == 1
        at_least = float(betaincinv(met, len(readings) - met + 1, 1 - LEVEL)) if met else 0.0
        return Verified(met, len(readings), alike, at_least)

    def _outcomes(self, found: Finding, reading: Reading) -> tuple[Outcome, ...]:
        clauses = self.question.clauses
        return tuple(self._outcome(found, reading, n, c) for n, c in enumerate(clauses))

    def _outcome(self, found: Finding, reading: Reading, number: int, clause: Clause) -> Outcome:
        value, shortfall = reading.values[number], reading.shortfalls[number]
        of_seeds = [
            other.values[number]
            for seed in self.question.seeds
            if (other := self.bench.known_reading(found.values, seed)) is not None
        ]
        known = [one for one in of_seeds if one is not None]
        spread = len(set(known)) > 1 and len(known) == len(of_seeds)
        return Outcome(
            text=clause.text,
            named=clause.named,
            value=value,
            shown="never" if value is None else shown(value, clause.dimension),
            met=shortfall.met,
            headroom=1 - shortfall.ratio if shortfall.rank == 0 else None,
            over_seeds=interval(known) if spread else None,
        )

    def _scenario(self, values: Values) -> Scenario | None:
        axes = [(Axis(path, (value,)),) for path, value in values.items()]
        return points(self.question.document, axes, strict=False)[0].scenario

    def _worth(self, found: Finding, base: Reading, scenario: Scenario | None) -> tuple[Worth, ...]:
        """What a little more of each thing does to the quantity that binds."""
        if scenario is None or base.shortfall.rank:
            return ()
        clause, told = self.question.clauses[base.worst], []
        for nudge in nudges(scenario, learns=self.question.learns):
            now = self._reading({**found.values, **nudge.values})
            value, before = now.values[base.worst], base.values[base.worst]
            if value is None or before is None:
                told.append(Worth(nudge.label, now.why or "never", None))
            else:
                factor = value / before if before else None
                told.append(Worth(nudge.label, shown(value, clause.dimension), factor))
        return tuple(told)

    def _leanings(
        self, found: Finding, base: Reading, scenario: Scenario | None
    ) -> tuple[Leaning, ...]:
        """The assumed values that move the answer, those that move it most first."""
        if scenario is None:
            return ()
        turned = [knob.path for knob in found.knobs]
        effects = []
        for number, one in enumerate(assumptions(scenario, turned)):
            ends = [self._reading({**found.values, **one.at(end)}) for end in (0, 1)]
            effects.append((max(moved(base, now) for now in ends), -number, one, ends))
        strong = sorted((e for e in effects if e[0] > SENSITIVE), reverse=True, key=lambda e: e[:2])
        told = (
            self._leaning(one, ends, base, anew=rank < MOST_LEANINGS)
            for rank, (_, _, one, ends) in enumerate(strong)
        )
        same = found.shown if found.met else None
        return tuple(one for one in told if one.told == "run" or {one.low, one.high} != {same})

    def _leaning(
        self, one: Assumption, ends: Sequence[Reading], base: Reading, *, anew: bool
    ) -> Leaning:
        if anew:
            found = [self._search((self.seed,), one.at(end)) for end in (0, 1)]
            low, high = (each.shown if each.met else None for each in found)
            return Leaning(one.path, one.value, one.range, low, high, "sought")
        clause = self.question.clauses[base.worst]
        at = [now.values[base.worst] for now in ends]
        low, high = (None if v is None else shown(v, clause.dimension) for v in at)
        return Leaning(one.path, one.value, one.range, low, high, "run")

    def _cost(self, found: Finding) -> float | None:
        if self.question.cost is None:
            return None
        pairs = zip(found.knobs, found.rungs, strict=True)
        return self.question.cost({knob.path: knob.weight(rung) for knob, rung in pairs})

    def _told(self, found: Finding, runs: int) -> Search:
        monotone = found.how.monotone if isinstance(found.how, Found) else True
        return Search(_how(found), monotone, runs, self.bench.runs - runs, self.bench.trainings)

    def _stand_in(self, scenario: Scenario | None) -> str | None:
        if scenario is None or not self.question.learns or scenario.training is None:
            return None
        system = prepared_for(self.setting, scenario).system
        pair = Learning(system, Recorded(History())).stand_in
        return wording.stand_in({"stand_in": pair})


def _chosen(knob: Knob, rung: int) -> Chosen:
    value = knob.ladder[rung]
    at_edge = rung == 0 and knob.wanted != "among"
    return Chosen(knob.path, knob.wanted, value, knob.shown(rung), knob.range, at_edge)


def _how(found: Finding) -> str:
    how, count = found.how, len(found.how.tried)
    if isinstance(how, Cheapest):
        if how.how == "combinations":
            return (
                "all combinations of all knobs but one, that one by bisection; exact where more "
                "of a knob never hurts"
            )
        return "differential evolution, then each knob by itself; others may be a little cheaper"
    words = {
        "tried": f"trying {wording.count(count, 'value')} one by one",
        "end": f"a look at {wording.count(count, 'point')}, the ends first",
        "bisection": f"bisection; the target gets nearer along all {count} points tried",
        "scan": (
            f"not monotone: a scan in {SCAN} steps, then between the best points; "
            "what is narrower than a step would be missed"
        ),
    }
    return words[how.how]
