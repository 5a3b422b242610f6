"""`mobisim validate --suite`: configurations drawn by a seed, each simulated and run for real."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mobisim.report.results import write_json
from mobisim.scenario.load import loads
from mobisim.scenario.schema import Scenario
from mobisim.validation.validate import Effort, Notice, as_numbers, validate

SEED, EACH = 20261121, 5
FOUND = "comparison.json"
# Ranges in which one or the other is likely to set the pace; who does is seen in the real run.
STRATA: dict[str, dict[str, tuple[Any, ...]]] = {
    "device": {"mbit": (40, 100), "codec": ("nf4", "int4", "int8"), "bottleneck": (16, 64)},
    "uplink": {"mbit": (1, 30), "codec": ("int4", "int8", "fp16"), "bottleneck": (16, 64, 256)},
    "server": {"mbit": (40, 100), "codec": ("nf4", "int4", "int8"), "bottleneck": (1024, 1536)},
}
BATCH_SIZES, GRANULARITIES, RUN_AHEADS = (4, 8, 16), ("batch", "layer"), (1, 2, 4)
SEQUENCE_LENGTH = 32
RUN_S, MOST_BATCHES, LEAST_BATCHES = 5.0, 40, 12
BYTES_PER_VALUE = {"nf4": 0.56, "int4": 0.56, "int8": 1.06, "fp16": 2.0}
WIDTH, TAPS = 384, 6

TEMPLATE = """
name: {name}
model: all-minilm-l6-v2
granularity: {granularity}
side_network: {{bottleneck: {bottleneck}}}
wire: {{codec: {codec}}}
deliver: none
training: {{task: builtin, backbone: minilm, batch_size: {batch_size}, sequence_length: {length},
           epochs: 1, num_samples: {num_samples}}}
devices:
  - profile: {{kind: fixed, forward_s: 1 s, encode_s: 1 s}}
    link: {{kind: constant, uplink: {mbit:.2f} Mbit/s, latency: 0 s, overhead_bytes: 66,
           mtu_bytes: 1448}}  # as TCP packets over Ethernet
    run_ahead: {run_ahead}
server: {{profile: {{kind: fixed, step_s: 1 s}}}}
"""


@dataclass(frozen=True)
class Drawn:
    """One configuration."""

    name: str
    mbit: float
    codec: str
    batch_size: int
    granularity: str
    run_ahead: int
    bottleneck: int

    @property
    def num_batches(self) -> int:
        """As many mini-batches as the link carries in a few seconds."""
        values = self.batch_size * SEQUENCE_LENGTH * WIDTH * TAPS
        transfer_s = values * BYTES_PER_VALUE[self.codec] * 8 / (self.mbit * 1e6)
        return max(LEAST_BATCHES, min(MOST_BATCHES, round(RUN_S / transfer_s)))

    def scenario(self) -> Scenario:
        """The scenario that this stands for."""
        fields = vars(self) | {
            "length": SEQUENCE_LENGTH,
            "num_samples": self.num_batches * self.batch_size,
        }
        return loads(TEMPLATE.format(**fields), self.name)


def draw(seed: int = SEED, each: int = EACH) -> list[Drawn]:
    """The configurations of a seed: so many in each range, rates even in logarithms."""
    source = np.random.default_rng(seed)
    found = []
    for stratum, ranges in STRATA.items():
        for number in range(each):
            low, high = (math.log(rate) for rate in ranges["mbit"])
            found.append(
                Drawn(
                    name=f"{stratum}-{number + 1}",
                    mbit=round(float(math.exp(source.uniform(low, high))), 2),
                    codec=str(source.choice(ranges["codec"])),
                    batch_size=int(source.choice(BATCH_SIZES)),
                    granularity=str(source.choice(GRANULARITIES)),
                    run_ahead=int(source.choice(RUN_AHEADS)),
                    bottleneck=int(source.choice(ranges["bottleneck"])),
                )
            )
    return found


def run_suite(
    folder: Path, effort: Effort, notice: Notice, drawn: Sequence[Drawn] | None = None
) -> list[dict[str, Any]]:
    """Validate each configuration; one that was done in `folder` before is not done again."""
    rows = []
    for number, one in enumerate(drawn or draw(), start=1):
        place = folder / one.name
        if not (place / FOUND).exists():
            tell = _numbered(notice, f"{number}: {one.name}")
            found = validate(one.scenario(), place, effort, tell)
            write_json(place / FOUND, as_numbers(found))
        found_before = json.loads((place / FOUND).read_text(encoding="utf-8"))
        rows.append(vars(one) | {"side_bottleneck": one.bottleneck} | found_before)
    return rows


def _numbered(notice: Notice, where: str) -> Callable[[str], None]:
    return lambda words: notice(f"{where}: {words}")


@dataclass(frozen=True)
class Accuracy:
    """Absolute errors over some configurations: their median and 90th percentile."""

    count: int
    median: float
    p90: float
    median_spread: float

    @classmethod
    def of(cls, lines: Iterable[dict[str, Any]]) -> Accuracy:
        """Over lines of one quantity."""
        known = list(lines)
        errors = [abs(line["error"]) for line in known]
        return cls(
            len(errors),
            float(np.median(errors)),
            float(np.quantile(errors, 0.9)),
            float(np.median([line["spread"] for line in known])),
        )


def line_of(row: dict[str, Any], name: str) -> dict[str, Any]:
    """A quantity of a configuration."""
    return next(line for line in row["lines"] if line["name"] == name)


def accuracies(rows: Sequence[dict[str, Any]], name: str) -> dict[str, Accuracy]:
    """The accuracy of a quantity for each group, by who set the real pace, and over all."""
    groups = sorted({row["bottleneck"] for row in rows})
    found = {group: [row for row in rows if row["bottleneck"] == group] for group in groups}
    return {
        group: Accuracy.of(line_of(row, name) for row in mine)
        for group, mine in (found | {"all": list(rows)}).items()
    }
