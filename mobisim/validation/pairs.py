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

    def load(self) -> None:
        """Count those that an earlier validation of this folder left."""
        path = self.folder / PROFILES
        self.known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []

    def place(self, sort: str, number: int) -> Path:
        """The folder of a run."""
        return self.folder / f"{sort}-{number}"

    def add(self, profile: Profiles, others: float) -> Comparison:
        """Simulate what was just run for real, count the pair, and compare all."""
        number = len(self.known) + 1
        self.simulation.run(profile.put_into(self.scenario), self.place("simulated", number))
        self.known.append({"others": others} | profile.as_numbers())
        write_json(self.folder / PROFILES, self.known)
        return self._compared()

    def compared(self) -> Comparison | None:
        """All pairs, each run held against the other; None where there are none."""
        return self._compared() if self.known else None

    def _compared(self) -> Comparison:
        numbered = list(enumerate(self.known, 1))
        real = [Figures.of(self.place("real", n), one["others"]) for n, one in numbered]
        return compare(real, [Figures.of(self.place("simulated", n)) for n, _ in numbered])
