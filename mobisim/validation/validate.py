"""`mobisim validate SCENARIO`: profile this machine, run for real, simulate, compare."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from mobisim.report.results import write_json
from mobisim.scenario.schema import Scenario
from mobisim.testbed.bed import Bed, run_bed
from mobisim.testbed.plan import as_run_for_real
from mobisim.validation.compare import Comparison, Figures, compare
from mobisim.validation.neighbours import Neighbours
from mobisim.validation.profile import ROUND_S, Measurement, Profiles
from mobisim.validation.simulation import Simulation

REPEATS = 3  # of the real run, each after a round of the measurement
CALM, TRIES = 0.05, 3  # a share of the cores that others may take; how often to look for such times
Notice = Callable[[str], None]


@dataclass(frozen=True)
class Effort:
    """How often the real run is repeated, who limits its link, and how long each piece is timed.

    `aim` moves the target to where the simulated learning curve first meets it late, before
    anything is run for real.
    """

    repeats: int = REPEATS
    limit: str = "auto"
    round_s: float = ROUND_S
    train: bool = True
    plots: bool = False
    aim: bool = False


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
    figures, profiles = [], []
    with Measurement(real, effort.limit, effort.round_s) as measurement:
        for number in range(1, effort.repeats + 1):
            notice(f"profiling this machine, then running for real, {number} of {effort.repeats}")
            place = folder / f"real-{number}"
            bed = Bed(str(path), (), effort.train, place, effort.limit, plots=effort.plots)
            profile, others = _in_calm(measurement, bed, notice)
            profiles.append(profile)
            figures.append(Figures.of(place, others))
    notice("simulating")
    write_json(folder / "profiles.json", [one.as_numbers() for one in profiles])
    places = [folder / f"simulated-{number + 1}" for number in range(effort.repeats)]
    simulated = [
        simulation.run(one.put_into(real), place)
        for one, place in zip(profiles, places, strict=True)
    ]
    return compare(figures, simulated)


def _in_calm(measurement: Measurement, bed: Bed, notice: Notice) -> tuple[Profiles, float]:
    """A round and a real run during which others left the machine alone, and what they took.

    Where they never do, the last try counts.
    """
    for left in reversed(range(TRIES)):
        with Neighbours() as neighbours:
            profile = measurement.round()
            run_bed(bed)
        if neighbours.share <= CALM or not left:
            break
        notice(f"other processes took {neighbours.share * 100:.0f} % of the cores meanwhile: again")
        measurement.forget()
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
