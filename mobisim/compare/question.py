"""What is compared: methods on one scenario, with the same learning rates, seeds and samples."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from mobisim.errors import InputError, unknown_name
from mobisim.manifest import VERSION
from mobisim.prepare import RESULTS, Options
from mobisim.scenario.document import Document
from mobisim.scenario.load import apply, override, resolve
from mobisim.scenario.methods import METHODS
from mobisim.scenario.schema import Scenario
from mobisim.sweeps.grid import Axis, Point, points, seeds
from mobisim.sweeps.plan import Plan
from mobisim.sweeps.store import TRAJECTORIES
from mobisim.sweeps.work import drawn_for, new_session
from mobisim.workload import plan

GRID, RUNS = "learning_rates", "methods"  # folders
PARTS = (GRID, RUNS, TRAJECTORIES)
METHOD, LEARNING_RATE = "method", "training.optimizer.lr"
RATES = tuple(rate * 1e6 for rate in (1, 2, 5, 10, 20, 50, 100, 200))  # bit/s
VALIDATION = 0.1  # of the training samples, unless the scenario says otherwise


@dataclass(frozen=True)
class Question:
    """A comparison as it is asked for.

    Attributes:
        document: the scenario, made fair: no horizon, no stop at the target, a validation split.
        learning_rates: the grid from which each method gets its own; empty for the scenario's.
        rates: of the uplink, in bit/s, at which times are compared.
        fixed_link: why no rates are compared, where none are.
        trajectories: where trainings are kept if other comparisons use them, too.
        session: that of all its work: data is read once.
    """

    document: Document
    methods: tuple[str, ...]
    learning_rates: tuple[float, ...]
    num_seeds: int
    rates: tuple[float, ...]
    options: Options
    trajectories: Path | None = None
    fixed_link: str | None = None
    session: str = field(default_factory=new_session)

    @cached_property
    def scenario(self) -> Scenario:
        """The scenario with its own method."""
        return resolve(copy.deepcopy(self.document))

    @property
    def trains(self) -> bool:
        """Whether anything is learned."""
        return self.options.train and self.scenario.training is not None

    @cached_property
    def digest(self) -> str:
        """A digest of all that decides the answer."""
        identity = {
            "version": VERSION,
            "scenario": self.scenario.model_dump(mode="json"),
            "methods": self.methods,
            "learning_rates": self.learning_rates,
            "num_seeds": self.num_seeds,
            "rates": self.rates,
            "options": self.options.deciding(),
            "data": plan(self.scenario, drawn_for(self.session, self.scenario)).fingerprint,
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def place(self) -> Path:
        """Where the answer goes."""
        return self.options.out or RESULTS / self.scenario.name / f"compare-{self.digest}"

    def grid(self) -> Plan:
        """Every method at every learning rate, judged on the validation split alone."""
        axes = Axis(METHOD, self.methods), Axis(LEARNING_RATE, self.learning_rates)
        found = self._plan(GRID, [(axis,) for axis in axes])
        return replace(found, reads_held_out=False)

    def runs(self, chosen: Mapping[str, float | None]) -> Plan:
        """Every method at the learning rate that was chosen for it."""
        axes = [Axis(METHOD, tuple(chosen))]
        rates = [rate for rate in chosen.values() if rate is not None]
        if rates:
            axes.append(Axis(LEARNING_RATE, tuple(rates)))
        return self._plan(RUNS, [tuple(axes)])

    def _plan(self, name: str, lists: Sequence[Sequence[Axis]]) -> Plan:
        lists = [*lists, (seeds(self.num_seeds, self.document),)]
        place = self.place.resolve()
        return Plan(
            name=self.scenario.name,
            axes=tuple(axis for together in lists for axis in together),
            points=tuple(points(self.document, lists, strict=False)),
            options=replace(self.options, out=place / name),
            trajectories=(self.trajectories or place / TRAJECTORIES).resolve(),
        )

    def at(self, method: str, seed: int) -> Point:
        """One method with one seed."""
        axes = Axis(METHOD, (method,)), Axis("seed", (seed,))
        return points(self.document, [(axis,) for axis in axes], strict=False)[0]


def ask(
    document: Document,
    options: Options,
    *,
    methods: Sequence[str] = (),
    learning_rates: Sequence[float] = (),
    num_seeds: int = 1,
    rates: Sequence[float] | None = None,
    overrides: Sequence[str] = (),
    trajectories: Path | None = None,
) -> Question:
    """The question that a command line asks; all methods and the usual rates unless some are named.

    Those that go through the data once are among them where the scenario does, those with rounds
    where it has several devices.

    Raises:
        InputError: an unknown method, one twice, rates where no link can be varied, or a scenario
            that cannot be run as it stands.
    """
    _check_methods(methods)
    for text in overrides:
        apply(document, text)
    _make_fair(document)
    scenario = resolve(copy.deepcopy(document))
    methods = tuple(methods) or _fitting(scenario)
    fixed = _fixed_link(scenario, methods)
    if fixed and rates:
        raise InputError("there is no link to vary", where="--rates", got=fixed)
    return Question(
        document,
        methods,
        tuple(dict.fromkeys(learning_rates)) if options.train else (),
        num_seeds,
        () if fixed else tuple(sorted(set(RATES if rates is None else rates))),
        options,
        trajectories,
        fixed,
    )


def _fixed_link(scenario: Scenario, methods: Sequence[str]) -> str | None:
    """Why the uplink's rate cannot be varied, if it cannot."""
    if not any(METHODS[method].up for method in methods):
        return "none of these methods uses a link"
    varying = [g.link.name for g in scenario.devices if g.link.kind != "constant"]
    if varying:
        return f"the rate of {varying[0]} is not constant"
    if any(group.cell for group in scenario.devices):
        return "the devices share a cell"
    return None


def _fitting(scenario: Scenario) -> tuple[str, ...]:
    once, alone = (scenario.training or scenario).epochs == 1, scenario.num_devices == 1
    return tuple(
        name
        for name, info in METHODS.items()
        if (once or not info.single_pass) and not (alone and info.rounds)
    )


def _check_methods(methods: Sequence[str]) -> None:
    for name in methods:
        if name not in METHODS:
            raise unknown_name("method", name, METHODS, where="--methods")
        if methods.count(name) > 1:
            raise InputError("this method is named twice", where="--methods", got=name)


def _make_fair(document: Document) -> None:
    """Have every method see the same samples, and the held-out split wait for the end."""
    where = "compare"
    override(document, "horizon", None, where)
    training = document.data.get("training")
    if isinstance(training, dict):
        override(document, "training.stop_at_target", value=False, where=where)
        override(document, "training.patience", value=None, where=where)
        if training.get("validation") is None:
            override(document, "training.validation", VALIDATION, where)
