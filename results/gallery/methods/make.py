"""What each method learns: every method and codec, five seeds, on the built-in task and on SST-2.

Run from anywhere with `python results/gallery/methods/make.py builtin` (or `sst2`, which needs the
extra `minilm` and the data; both need `baselines`). Learning alone, without a timeline. A point
that is done is kept: it can be interrupted and resumed, and `--until MINUTES` ends it early.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mobisim
from mobisim.cost.system import System
from mobisim.lessons import make_trainer
from mobisim.training.backbone import load_backbone
from mobisim.workload import plan

HERE = Path(__file__).parent
SEEDS = tuple(range(5))
TUNING_SEED = 100  # of the runs that choose a learning rate; none of those that are tabled
T_95 = 2.776  # Student's t, two-sided 95 %, four degrees of freedom
FIELDS = ("variant", "seed", "lr", "accuracy", "loss", "parameters")

Row = dict[str, str]
Point = tuple[str, int, float]  # variant, seed, learning rate


@dataclass(frozen=True)
class Task:
    """A task, the scenario that it comes from, and the learning rates that are tried."""

    title: str
    scenario: str
    overrides: tuple[str, ...]
    rates: tuple[float, ...]


TASKS = {
    "builtin": Task("The built-in task", "wifi_5mbps", (), (3e-4, 1e-3, 3e-3)),
    "sst2": Task(
        "MiniLM on SST-2, 1,000 samples, one epoch",
        "minilm_sst2",
        ("training.num_samples=1000", "training.epochs=1", "training.batch_size=16"),
        (3e-4, 1e-3, 3e-3),
    ),
}
KEEP = "wire.keep={score: norm, tokens: 0.5}"
VARIANTS: dict[str, tuple[str, ...]] = {
    "mobillm": (),
    "mobillm, fp16": ("wire.codec=fp16",),
    "mobillm, int8": ("wire.codec=int8",),
    "mobillm, fp4": ("wire.codec=fp4",),
    "mobillm, int2": ("wire.codec=int2",),
    "pae-mobillm": ("method=pae-mobillm",),
    "full": ("method=full",),
    "lora": ("method=lora",),
    "bitfit": ("method=bitfit",),
    "adapters": ("method=adapters",),
    "lst": ("method=lst",),
    "split-lora": ("method=split-lora",),
    "fwdllm": ("method=fwdllm",),
    "mobillm, int8 backbone": ("backbone_weights=int8",),
    "mobillm, nf4 backbone": ("backbone_weights=nf4",),
    "mobillm, half of the taps": ("wire.keep={score: norm, taps: HALF}",),
    "mobillm, mean pooling": ("training.pooling=mean",),
    "mobillm, mean pooling, half of the tokens": ("training.pooling=mean", KEEP),
}
SAME_RATE = {  # variants that differ in a codec or a filter alone learn at their method's rate
    name: "mobillm" for name in VARIANTS if name.startswith("mobillm, ")
}


def measure(task: Task, point: Point, *, validation: bool) -> Row:
    """Train one point and judge it."""
    variant, seed, rate = point
    halved = 2 if task.scenario == "wifi_5mbps" else 3  # of four and six layers
    chosen = [text.replace("HALF", str(halved)) for text in VARIANTS[variant]]
    extra = ["training.validation=0.2"] if validation else []
    lr = [f"training.optimizer.lr={rate}", f"seed={seed}"]
    scenario = mobisim.load(task.scenario, [*task.overrides, *chosen, *extra, *lr])
    planned = plan(scenario)
    assert planned.data is not None
    trainer = make_trainer(System(scenario, planned.data.num_classes), planned, load_backbone)
    for batch in range(len(trainer.batches)):
        trainer.step(batch)
    found = trainer.evaluate()
    return {
        "variant": variant,
        "seed": str(seed),
        "lr": repr(rate),
        "accuracy": repr(found["accuracy"]),
        "loss": repr(found["loss"]),
        "parameters": str(sum(p.numel() for p in trainer.parameters)),
    }


class Study:
    """The points of one task, and those that are done."""

    def __init__(self, name: str) -> None:
        self.name, self.task = name, TASKS[name]
        self.table = HERE / f"{name}.csv"

    def rows(self) -> list[Row]:
        """What is done."""
        if not self.table.exists():
            return []
        with self.table.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def todo(self) -> Iterator[Point]:
        """What is missing: learning rates first, then seed by seed."""
        tried = {(row["variant"], float(row["lr"])) for row in self._of(TUNING_SEED)}
        for variant in (name for name in VARIANTS if name not in SAME_RATE):
            yield from (
                (variant, TUNING_SEED, rate)
                for rate in self.task.rates
                if (variant, rate) not in tried
            )
        for seed in SEEDS:
            done = {row["variant"] for row in self._of(seed)}
            yield from ((v, seed, self.rate(v)) for v in VARIANTS if v not in done)

    def rate(self, variant: str) -> float:
        """The learning rate with the least loss on the validation split."""
        name = SAME_RATE.get(variant, variant)
        tried = [row for row in self._of(TUNING_SEED) if row["variant"] == name]
        return float(min(tried, key=lambda row: float(row["loss"]))["lr"])

    def append(self, row: Row) -> None:
        """Add a row to the table."""
        is_new = not self.table.exists()
        with self.table.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            if is_new:
                writer.writeheader()
            writer.writerow(row)

    def accuracies(self, variant: str) -> dict[int, float]:
        """In percent, by seed."""
        return {
            int(row["seed"]): 100 * float(row["accuracy"])
            for row in self.rows()
            if row["variant"] == variant and int(row["seed"]) in SEEDS
        }

    def _of(self, seed: int) -> list[Row]:
        return [row for row in self.rows() if int(row["seed"]) == seed]

    def lines(self) -> list[str]:
        """The table of this task."""
        return [
            f"## {self.task.title}",
            "",
            "| variant | trained parameters | learning rate | accuracy | minus mobillm |",
            "|---|---|---|---|---|",
            *(line for variant in VARIANTS if (line := self._line(variant))),
            "",
        ]

    def _line(self, variant: str) -> str:
        found = self.accuracies(variant)
        if not found:
            return ""
        row = next(row for row in self.rows() if row["variant"] == variant)
        values = list(found.values())
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        seeds = "" if len(values) == len(SEEDS) else f" ({len(values)} of {len(SEEDS)} seeds)"
        return (
            f"| {variant} | {int(row['parameters']):,} | {self.rate(variant):g} "
            f"| {statistics.mean(values):.1f}{spread} %{seeds} "
            f"| {paired(found, self.accuracies('mobillm'))} |"
        )


def paired(ours: dict[int, float], theirs: dict[int, float]) -> str:
    """The mean difference over seeds that both have, with its 95 % interval."""
    found = [ours[seed] - theirs[seed] for seed in SEEDS if seed in ours and seed in theirs]
    if len(found) < len(SEEDS) or not any(found):
        return "-"
    half = T_95 * statistics.stdev(found) / math.sqrt(len(found))
    mean = statistics.mean(found)
    return f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"


TEXT = """# What each method learns

Accuracy on the held-out set after the last step, each method on the same samples in the same order,
by seed. ± is the standard deviation over the seeds 0 to 4; differences are paired by seed, with
their 95 % interval (Student's t). For each method the learning rate is the one of {rates} with the
least loss on a fifth of the training samples, seed 100; variants of `mobillm` take its rate. AdamW,
decay 0.01. The codec is nf4 in blocks of 64 unless another is named; `server-only` learns bit for
bit what `lora` does. The order of the methods is a finding on these small tasks, not a law.

Made by `python results/gallery/methods/make.py {names}`.
"""


def write() -> None:
    """README.md with the tables of what is done."""
    rates = ", ".join(f"{rate:g}" for rate in TASKS["builtin"].rates)
    studies = [Study(name) for name in TASKS if (HERE / f"{name}.csv").exists()]
    text = TEXT.format(rates=rates, names=" ".join(TASKS))
    tables = [line for study in studies for line in study.lines()]
    (HERE / "README.md").write_text("\n".join([text, *tables]), encoding="utf-8")


def main() -> None:
    """Run what is missing, then write the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tasks", nargs="*", help=f"of {', '.join(TASKS)}; all if none is named")
    parser.add_argument("--until", type=float, default=math.inf, help="minutes")
    arguments = parser.parse_args()
    end = time.monotonic() + 60 * arguments.until
    for study in map(Study, arguments.tasks or TASKS):
        while (point := next(study.todo(), None)) is not None and time.monotonic() < end:
            sys.stderr.write(f"{study.name}: {point[0]}, seed {point[1]}, lr {point[2]:g}\n")
            study.append(measure(study.task, point, validation=point[1] == TUNING_SEED))
    write()


if __name__ == "__main__":
    main()
