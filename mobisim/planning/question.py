"""What a plan is asked: a scenario, a target, knobs, and what they cost."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from mobisim.errors import InputError
from mobisim.manifest import VERSION
from mobisim.planning.costs import Cost, parse_cost
from mobisim.planning.knobs import EXAMPLE, Knob, parse_find
from mobisim.planning.targets import Clause, parse_target
from mobisim.prepare import RESULTS, Options
from mobisim.scenario.document import Document
from mobisim.scenario.load import apply, override, resolve
from mobisim.scenario.schema import Scenario
from mobisim.sweeps.work import drawn_for, new_session
from mobisim.workload import plan as workload_of

SEEDS = 3


@dataclass(frozen=True)
class Question:
    """A plan as it is asked for.

    Attributes:
        document: the scenario without horizon, and without a stop before its end.
        finds: the knobs as they were written.
        reasons: whether what a little more is worth and what is assumed are looked into.
    """

    document: Document
    clauses: tuple[Clause, ...]
    knobs: tuple[Knob, ...]
    finds: tuple[str, ...]
    cost: Cost | None
    num_seeds: int
    options: Options
    reasons: bool = True
    session: str = field(default_factory=new_session)

    @cached_property
    def scenario(self) -> Scenario:
        """The scenario with its own values."""
        return resolve(copy.deepcopy(self.document))

    @property
    def learns(self) -> bool:
        """Whether the target needs learning."""
        return any(clause.metric is not None for clause in self.clauses)

    @property
    def open(self) -> bool:
        """Whether the search finds its bounds itself."""
        return any(knob.open for knob in self.knobs)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds with which an answer is verified, the scenario's own first."""
        first = self.scenario.seed
        return tuple(range(first, first + self.num_seeds))

    @property
    def timing(self) -> Options:
        """The options of a summary of the timing alone."""
        return replace(self.options.bare, train=False)

    @cached_property
    def digest(self) -> str:
        """A digest of all that decides the answer."""
        drawn = drawn_for(self.session, self.scenario)
        identity = {
            "version": VERSION,
            "scenario": self.scenario.model_dump(mode="json"),
            "target": [clause.text for clause in self.clauses],
            "find": self.finds,
            "cost": self.cost.text if self.cost else None,
            "num_seeds": self.num_seeds,
            "reasons": self.reasons,
            "options": self.options.deciding(),
            "data": workload_of(self.scenario, drawn).fingerprint,
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def place(self) -> Path:
        """Where the answer goes."""
        return self.options.out or RESULTS / self.scenario.name / f"plan-{self.digest}"


def ask(
    document: Document,
    options: Options,
    *,
    target: Sequence[str],
    find: Sequence[str],
    cost: str | None = None,
    num_seeds: int = SEEDS,
    overrides: Sequence[str] = (),
    reasons: bool = True,
) -> Question:
    """The question that a command line asks.

    Raises:
        InputError: a target or knob that cannot be read, a search without bounds, or several
            knobs without a cost.
    """
    for text in overrides:
        apply(document, text)
    override(document, "horizon", None, "plan")
    scenario = resolve(copy.deepcopy(document))
    own = scenario.training.target if scenario.training is not None else None
    clauses = parse_target(target, own)
    _have_it_learned(document, clauses, learns=scenario.training is not None)
    knobs = tuple(parse_find(text, scenario) for text in find)
    _check(knobs, cost, num_seeds)
    paths = tuple(knob.path for knob in knobs)
    learns = any(clause.metric is not None for clause in clauses)
    return Question(
        document,
        clauses,
        knobs,
        tuple(find),
        parse_cost(cost, paths) if cost is not None else None,
        num_seeds,
        replace(options, train=learns, plots=False),
        reasons,
    )


def _have_it_learned(document: Document, clauses: Sequence[Clause], *, learns: bool) -> None:
    """Have evaluations report the metric that is asked for, and training go on to its end."""
    asked = next((clause for clause in clauses if clause.metric is not None), None)
    if not learns:
        if asked is not None:
            raise InputError(
                "this scenario learns nothing",
                where=f"--target {asked.text}",
                hint="state a training, or ask for the timing: makespan <= 2 h",
            )
        return
    override(document, "training.stop_at_target", value=False, where="plan")
    override(document, "training.patience", value=None, where="plan")
    if asked is not None and asked.metric is not None:
        override(document, "training.target", asked.metric.model_dump(), "plan")


def _check(knobs: Sequence[Knob], cost: str | None, num_seeds: int) -> None:
    if not knobs:
        raise InputError("nothing to find", where="--find", expected=EXAMPLE)
    paths = [knob.path for knob in knobs]
    for path in paths:
        if paths.count(path) > 1:
            raise InputError("this field is turned twice", where=f"--find {path}")
    if len(knobs) > 1 and cost is None:
        raise InputError(
            "of several knobs the cheapest is found, and nothing says what they cost",
            where="--cost",
            expected="an expression such as " + " + ".join(paths),
        )
    if num_seeds < 1:
        raise InputError("expected: at least one seed", where="--seeds", got=str(num_seeds))
