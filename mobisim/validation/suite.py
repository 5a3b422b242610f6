"""`mobisim validate --suite`: configurations drawn by a seed, each simulated and run for real."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mobisim.report.results import write_json
from mobisim.scenario.load import loads
from mobisim.scenario.schema import Scenario
from mobisim.training.data import read_task
from mobisim.validation.validate import Effort, Notice, as_numbers, validate

SEED, EACH, MOST = 20261121, 4, 10  # that many paced by each, of so many draws
FOUND = "comparison.json"
# Ranges in which one or the other is likely to set the pace; who does is seen in the real run.
STRATA: dict[str, dict[str, tuple[Any, ...]]] = {
    "device": {
        "mbit": (40, 100), "codec": ("nf4", "int4", "int8"), "bottleneck": (16, 64),
        "run_ahead": (1, 2, 4),
    },
    "uplink": {
        "mbit": (1, 30), "codec": ("int4", "int8", "fp16"), "bottleneck": (16, 64, 256),
        "run_ahead": (1, 2, 4),
    },
    "server": {
        "mbit": (40, 100), "codec": ("nf4", "int4", "int8"), "bottleneck": (1024, 1536),
        "run_ahead": (2, 4),  # with 1 a server never has work in reserve
    },
}  # fmt: skip
BATCH_SIZES, GRANULARITIES = (4, 8, 16), ("batch", "layer")
SEQUENCE_LENGTH = 32
RUN_S, MOST_EPOCHS, LEAST_EPOCHS = 5.0, 10, 3
BATCHES_PER_EPOCH, EVALUATIONS = 4, 3
BYTES_PER_VALUE = {"nf4": 0.56, "int4": 0.56, "int8": 1.06, "fp16": 2.0}
WIDTH, TAPS = 384, 6

TEMPLATE = """
name: {name}
model: all-minilm-l6-v2
granularity: {granularity}
side_network: {{bottleneck: {bottleneck}}}
wire: {{codec: {codec}}}
deliver: none
training:
  {{task: {task}, backbone: minilm, batch_size: {batch_size}, sequence_length: {length},
   epochs: {epochs}, evaluate_every: {evaluate_every}, optimizer: {{lr: 3.0e-4}},
   target: {{metric: loss, value: 0}}}}  # moved to where the simulated curve meets it late
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
        epochs = round(RUN_S / transfer_s / BATCHES_PER_EPOCH)
        return BATCHES_PER_EPOCH * max(LEAST_EPOCHS, min(MOST_EPOCHS, epochs))

    @property
    def num_samples(self) -> int:
        """Sentences of its task."""
        return self.batch_size * BATCHES_PER_EPOCH

    def scenario(self, task: Path) -> Scenario:
        """The scenario that this stands for, which learns a task of `num_samples` sentences."""
        fields = vars(self) | {
            "length": SEQUENCE_LENGTH,
            "task": json.dumps(str(task.resolve())),
            "epochs": self.num_batches // BATCHES_PER_EPOCH,
            # Seldom: to keep what will be judged takes time that no simulated run takes.
            "evaluate_every": math.ceil(self.num_batches / EVALUATIONS),
        }
        return loads(TEMPLATE.format(**fields), self.name)


def draws(stratum: str, seed: int = SEED) -> Iterator[Drawn]:
    """The configurations of a seed in one of the ranges, without end; rates even in logarithms."""
    ranges = STRATA[stratum]
    source = np.random.default_rng([seed, list(STRATA).index(stratum)])
    low, high = (math.log(rate) for rate in ranges["mbit"])
    for number in itertools.count(1):
        yield Drawn(
            name=f"{stratum}-{number}",
            mbit=round(float(math.exp(source.uniform(low, high))), 2),
            codec=str(source.choice(ranges["codec"])),
            batch_size=int(source.choice(BATCH_SIZES)),
            granularity=str(source.choice(GRANULARITIES)),
            run_ahead=int(source.choice(ranges["run_ahead"])),
            bottleneck=int(source.choice(ranges["bottleneck"])),
        )


class Suite:
    """Configurations in `folder`: done ones are not done again, so it can be run in pieces."""

    def __init__(self, folder: Path, effort: Effort, notice: Notice) -> None:
        self.folder, self.effort, self.notice = folder, effort, notice
        self.rows: list[dict[str, Any]] = []

    def run(self, at_most: int | None = None) -> bool:
        """Draw by turns, and validate so many, until each range has its share; whether it has.

        Who was to set the pace is a guess; what counts is who did in the real run.
        """
        budget = math.inf if at_most is None else at_most
        for turn in itertools.islice(zip(*map(draws, STRATA), strict=True), MOST):
            for stratum, one in zip(STRATA, turn, strict=True):
                if self._has_enough(stratum):
                    continue
                row = self._done(one)
                if row is None:
                    if not budget:
                        return False
                    budget -= 1
                    row = self._validate(one)
                self.rows.append(row)
        return all(map(self._has_enough, STRATA))

    def _has_enough(self, stratum: str) -> bool:
        paced = [row for row in self.rows if row["bottleneck"] == stratum]
        return len(paced) >= EACH

    def _place(self, one: Drawn) -> Path:
        return self.folder / one.name / FOUND

    def _done(self, one: Drawn) -> dict[str, Any] | None:
        """What an earlier run of the suite found; None if that is nothing, or too little."""
        if not self._place(one).exists():
            return None
        row = _row(one, json.loads(self._place(one).read_text(encoding="utf-8")))
        enough = self.effort.suffices(len(row["real"]), line_of(row, "step time")["doubt"])
        return row if enough else None

    def _validate(self, one: Drawn) -> dict[str, Any]:
        tell = _numbered(self.notice, one.name)
        task = write_task(self.folder / one.name / "task", one.num_samples)
        found = as_numbers(validate(one.scenario(task), self._place(one).parent, self.effort, tell))
        write_json(self._place(one), found)
        return _row(one, found)


def _row(one: Drawn, found: dict[str, Any]) -> dict[str, Any]:
    return vars(one) | {"side_bottleneck": one.bottleneck} | found


def write_task(folder: Path, num_samples: int) -> Path:
    """The first sentences of the built-in task, to learn from and to be judged on alike.

    So few steps teach nothing of other sentences, and a loss that does not fall meets no target.
    """
    train, _ = read_task("builtin")
    lines = zip(train.texts[:num_samples], train.labels, strict=False)
    text = "".join(f"{text}\t{label}\n" for text, label in [("sentence", "label"), *lines])
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train", "dev"):
        (folder / f"{name}.tsv").write_text(text, encoding="utf-8")
    return folder


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
    (line,) = lines_of(row, name)
    return line


def lines_of(row: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """A quantity of a configuration; nothing where a run had none."""
    return [line for line in row["lines"] if line["name"] == name]


def accuracies(rows: Sequence[dict[str, Any]], name: str) -> dict[str, Accuracy]:
    """The accuracy of a quantity for each group, by who set the real pace, and over all.

    Only over configurations that have it.
    """
    groups = sorted({row["bottleneck"] for row in rows})
    found = {group: [row for row in rows if row["bottleneck"] == group] for group in groups}
    known = {
        group: [line for row in mine for line in lines_of(row, name)]
        for group, mine in (found | {"all": list(rows)}).items()
    }
    return {group: Accuracy.of(lines) for group, lines in known.items() if lines}
