"""`mobisim validate SCENARIO`: profile this machine, run for real, simulate, compare."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from mobisim.prepare import Options
from mobisim.report.results import write_json
from mobisim.runner import run
from mobisim.scenario.schema import Scenario
from mobisim.testbed.bed import Bed, run_bed
from mobisim.testbed.plan import as_run_for_real
from mobisim.validation.compare import Comparison, Figures, compare
from mobisim.validation.profile import ROUND_S, Measurement, Profiles

REPEATS, ROUNDS = 3, 3  # of the real run, and of the measurement, which take turns
Notice = Callable[[str], None]


@dataclass(frozen=True)
class Effort:
    """How often the real run is repeated, who limits its link, and how long each piece is timed."""

    repeats: int = REPEATS
    limit: str = "auto"
    round_s: float = ROUND_S
    train: bool = True
    plots: bool = False


def validate(
    scenario: Scenario, folder: Path, effort: Effort, notice: Notice = lambda _: None
) -> Comparison:
    """Compare a scenario simulated with a profile of this machine to real runs of it.

    The results are left in `folder`: real-1, real-2, … and simulated.

    Raises:
        InputError: no testbed can run it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    real = as_run_for_real(scenario)
    path = folder / "scenario.yaml"
    path.write_text(json.dumps(real.model_dump(mode="json")), encoding="utf-8")
    figures = []
    with Measurement(real, effort.limit, effort.round_s) as measurement:
        for number in range(1, effort.repeats + 1):
            notice(f"profiling this machine, then running for real, {number} of {effort.repeats}")
            for _ in range(math.ceil(ROUNDS / effort.repeats)):
                measurement.go_on()
            if number == effort.repeats:
                profiles = measurement.finish()
            place = folder / f"real-{number}"
            run_bed(Bed(str(path), (), effort.train, place, effort.limit, plots=effort.plots))
            figures.append(Figures.of(place))
    notice("simulating")
    return compare(figures, _simulated(profiles, real, folder, effort))


def _simulated(profiles: Profiles, real: Scenario, folder: Path, effort: Effort) -> Figures:
    place = folder / "simulated"
    options = Options(
        out=place, train=effort.train, plots=effort.plots, ignore_memory=True,
        allow_extrapolation=True, command="mobisim validate",
    )  # fmt: skip
    run(profiles.put_into(real), options)
    write_json(
        folder / "profile.json",
        {
            role: {
                "contention": profile.contention.model_dump() if profile.contention else None,
                "samples": [sample._asdict() for sample in profile.samples],
            }
            for role, profile in (("device", profiles.device), ("server", profiles.server))
        },
    )
    return Figures.of(place)


def as_numbers(found: Comparison) -> dict[str, object]:
    """A comparison for JSON."""
    return {
        "lines": [asdict(line) | {"error": line.error} for line in found.lines],
        "busy": [asdict(line) for line in found.busy],
        "loss_gap": found.loss_gap,
        "bottleneck": found.bottleneck,
        "blamed": found.blamed,
    }
