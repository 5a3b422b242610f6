"""`mobisim validate SCENARIO`: profile this machine, run for real, simulate, compare."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from mobisim.scenario.schema import Scenario
from mobisim.testbed.bed import Bed, run_bed
from mobisim.testbed.plan import as_run_for_real
from mobisim.validation.compare import Comparison, Figures
from mobisim.validation.neighbours import Neighbours
from mobisim.validation.pairs import Pairs
from mobisim.validation.profile import ROUND_S, Measurement, Profiles
from mobisim.validation.simulation import Simulation

REPEATS, MOST = 3, 12  # real runs of a configuration, each after a round of the measurement
DOUBT = 0.01  # of the step time's error: with more of it, more real runs are made
CALM, TRIES = 0.05, 3  # a share of the cores that others may take; how often to look for such times
Notice = Callable[[str], None]


@dataclass(frozen=True)
class Effort:
    """How often the real run is repeated, who limits its link, and how long each piece is timed.

    There are `repeats` real runs, and then more, up to `most`, as long as the standard error of
    the step time's error is above DOUBT: on a restless machine, or between restless neighbours.
    `aim` moves the target to where the simulated learning curve first meets it late, before
    anything is run for real. With `resume` the pairs that are in the folder already count. A pair
    during which others took more than CALM of the cores is made again, up to `tries` times in all.
    """

    repeats: int = REPEATS
    limit: str = "auto"
    round_s: float = ROUND_S
    train: bool = True
    plots: bool = False
    aim: bool = False
    most: int | None = None  # None: no more than `repeats`
    resume: bool = False
    tries: int = TRIES

    @property
    def at_most(self) -> int:
        """Real runs that there can be."""
        return max(self.repeats, self.most or 0)

    @property
    def told(self) -> str:
        """How many real runs there will be, in words."""
        more = self.at_most > self.repeats
        return f"{self.repeats} to {self.at_most}" if more else str(self.repeats)

    def suffices(self, count: int, doubt: float | None) -> bool:
        """Whether so many real runs do, with such a doubt of the step time's error."""
        if count < self.repeats:
            return False
        return count >= self.at_most or (doubt is not None and doubt <= DOUBT)


def validate(
    scenario: Scenario, folder: Path, effort: Effort, notice: Notice = lambda _: None
) -> Comparison:
    """Compare a scenario simulated with a profile of this machine to real runs of it.

    Each real run is held against one simulated with the profile measured right before it. The
    results are left in `folder`: real-1, simulated-1, real-2, …

    Raises:
        InputError: no testbed can run it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    real, simulation = as_run_for_real(scenario), Simulation(train=effort.train, plots=effort.plots)
    if effort.aim:
        notice("simulating what is learned")
        real = simulation.aimed(real)
    path = folder / "scenario.yaml"
    path.write_text(json.dumps(real.model_dump(mode="json")), encoding="utf-8")
    pairs = Pairs(folder, real, simulation)
    if effort.resume:
        pairs.load()
    found = pairs.compared()
    if found is None or not _suffices(found, effort):
        found = _with_more(pairs, str(path), effort, notice)
    return found


def _suffices(found: Comparison, effort: Effort) -> bool:
    return effort.suffices(len(found.real), found.line("step time").doubt)


def _with_more(pairs: Pairs, path: str, effort: Effort, notice: Notice) -> Comparison:
    """Add pairs until there are enough."""
    rounds = effort.at_most * effort.tries
    with Measurement(pairs.scenario, rounds, effort.limit, effort.round_s) as measurement:
        while True:
            number = len(pairs.known) + 1
            notice(f"profiling this machine, then running for real, {number} of {effort.told}")
            place = pairs.place("real", number)
            bed = Bed(path, (), effort.train, place, effort.limit, plots=effort.plots)
            found = pairs.add(*_in_calm(effort.tries, measurement, bed, notice))
            if _suffices(found, effort):
                return found


def _in_calm(
    tries: int, measurement: Measurement, bed: Bed, notice: Notice
) -> tuple[Profiles, float]:
    """A round and a real run during which others left the machine alone, and what they took.

    Where they never do, the last try counts.
    """
    for left in reversed(range(tries)):
        with Neighbours() as neighbours:
            profile = measurement.round()
            run_bed(bed)
        if neighbours.share <= CALM or not left:
            break
        notice(f"other processes took {neighbours.share * 100:.0f} % of the cores meanwhile: again")
    return profile, neighbours.share


def as_numbers(found: Comparison) -> dict[str, object]:
    """A comparison for JSON."""
    return {
        "lines": [asdict(line) | {"error": line.error} for line in found.lines],
        "busy": [asdict(line) for line in found.busy],
        "loss_gap": found.loss_gap,
        "bottleneck": found.bottleneck,
        "blamed": found.blamed,
        "missed": found.missed,
        "others": found.others,
        "real": [_figures(one) for one in found.real],
        "simulated": [_figures(one) for one in found.simulated],
    }


def _figures(one: Figures) -> dict[str, object]:
    return {name: value for name, value in asdict(one).items() if name != "losses"}
