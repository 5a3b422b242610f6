"""Pairs of a real and a simulated run of one scenario, in a folder."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mobisim.report.results import write_json
from mobisim.scenario.schema import Scenario
from mobisim.validation.compare import Comparison, Figures, compare
from mobisim.validation.profile import Profiles
from mobisim.validation.simulation import Simulation

PROFILES = "profiles.json"


@dataclass
class Pairs:
    """Real runs in `folder`, each with the one simulated with the profile measured before it.

    real-1, simulated-1, real-2, …; and in one file the profiles of those that are whole.
    """

    folder: Path
    scenario: Scenario
    simulation: Simulation
    known: list[dict[str, Any]] = field(default_factory=list)
    real: list[Figures] = field(default_factory=list)
    simulated: list[Figures] = field(default_factory=list)

    def load(self) -> None:
        """Count those that an earlier validation of this folder left."""
        path = self.folder / PROFILES
        self.known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        for number, one in enumerate(self.known, 1):
            self.real.append(Figures.of(self.place("real", number), one["others"]))
            self.simulated.append(Figures.of(self.place("simulated", number)))

    def place(self, sort: str, number: int) -> Path:
        """The folder of a run."""
        return self.folder / f"{sort}-{number}"

    def add(self, profile: Profiles, others: float) -> Comparison:
        """Simulate what was just run for real, count the pair, and compare all."""
        number = len(self.known) + 1
        place = self.place("simulated", number)
        self.simulated.append(self.simulation.run(profile.put_into(self.scenario), place))
        self.real.append(Figures.of(self.place("real", number), others))
        self.known.append({"others": others} | profile.as_numbers())
        write_json(self.folder / PROFILES, self.known)
        return compare(self.real, self.simulated)

    def compared(self) -> Comparison | None:
        """All pairs, each run held against the other; None where there are none."""
        return compare(self.real, self.simulated) if self.known else None
