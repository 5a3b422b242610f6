"""What devices of three sizes learn together, and each on its own, over data that is dealt by skew.

Run from anywhere with `python results/gallery/federation/make.py`; SST-2 needs the extra `minilm`
and the data. A point that is done is kept: it can be interrupted and resumed, and `--minutes` ends
it early, between two points. A rival is one more entry of RIVALS.
"""

from __future__ import annotations

import datetime as dt
import math
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path

import numpy as np
from race import Racer, draw_race

sys.path.append(str(Path(__file__).parents[1]))  # what studies share
from points import Row, Table, asked

import mobisim
from mobisim.compare.statistics import interval, paired
from mobisim.cost.system import System
from mobisim.learning import Learning
from mobisim.lessons import Checkpoints, Taught
from mobisim.prepare import Options, Prepared, prepare
from mobisim.report.comparison import Interval
from mobisim.report.summary import Summary
from mobisim.runner import publish, timeline
from mobisim.scenario.schema import Scenario
from mobisim.trainers import make_trainer
from mobisim.training.backbone import Backbone, load_backbone

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)
TUNING_SEED = 100  # of the runs that choose a learning rate; none of those that are tabled
SKEWS = {
    "0.1": "{kind: dirichlet, alpha: 0.1}",
    "1": "{kind: dirichlet, alpha: 1.0}",
    "iid": "{kind: iid}",
}
TUNING_SKEW = "1"
FIELDS = (
    "variant", "skew", "seed", "lr", "accuracy", "groups", "least", "time_to_target_s",
    "makespan_s", "uplink_bytes", "downlink_bytes", "seconds", "digest", "date",
)  # fmt: skip

Point = tuple[str, str, int, float]  # variant, skew, seed, learning rate


@dataclass(frozen=True)
class Variant:
    """What is learned, and what it is paired with; `alone` if each device learns by itself."""

    overrides: tuple[str, ...]
    alone: bool = False
    against: str | None = None


_LABELS = "side_network.learns=labels"
TOGETHER = {
    "shared": Variant((), against="single"),
    "single": Variant(("method=pae-mobillm",), alone=True),
    "shared, uniform prediction": Variant(("side_network.prediction=uniform",), against="single"),
    "shared, labels": Variant((_LABELS,), against="single, labels"),
    "single, labels": Variant(("method=pae-mobillm", _LABELS), alone=True),
}
_ONE_PASS = (
    "method=fed-mobillm",
    "training.epochs=1",
    "training.evaluate_every=25",
    "federation.replay.steps=1000",
)
_RANKS = ("devices[0].rank=2", "devices[1].rank=4")
REFERENCE = "fed-mobillm"
RIVALS = {
    REFERENCE: Variant(_ONE_PASS),
    "fed-mobillm, residuals": Variant(
        (*_ONE_PASS, "side_network={learns: residuals, prediction: uniform}")
    ),
    "fedavg-lora": Variant(("method=fedavg-lora",)),
    "fedbuff-lora": Variant(("method=fedbuff-lora", "training.evaluate_every=5")),
    "splitfed-lora": Variant(("method=splitfed-lora",)),
    "fedavg-adapters": Variant(("method=fedavg-adapters",)),
    "hetlora": Variant(("method=hetlora", *_RANKS)),
    "fed-fwdllm": Variant(("method=fed-fwdllm", "tuning.perturbations=4")),
}


@dataclass(frozen=True)
class Task:
    """A task with its fleet: what is changed of a scenario, what is tried, and how."""

    title: str
    overrides: tuple[str, ...] = ()
    scenario: str = "fed_builtin"
    variants: Mapping[str, Variant] = field(default_factory=lambda: TOGETHER)
    skews: tuple[str, ...] = tuple(SKEWS)
    rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


TASKS = {
    "builtin": Task(
        "The built-in task, 2000 samples: 8 x builtin-small, 8 x builtin:3, 8 x builtin"
    ),
    "sst2": Task(
        "SST-2, 960 samples: 8 x minilm:3, 8 x minilm:4, 8 x minilm",
        (
            "model=all-minilm-l6-v2",
            "devices[0].model=all-minilm-l6-v2:3",
            "devices[0].backbone=minilm:3",
            "devices[1].model=all-minilm-l6-v2:4",
            "devices[1].backbone=minilm:4",
            "devices[2].model=null",
            "training.task=SST-2",
            "training.backbone=minilm",
            "training.num_samples=960",
            "federation.replay.steps=480",
        ),
    ),
    "rivals": Task(
        "Rivals, the built-in task, 2000 samples: 24 x builtin, phones of three speeds",
        scenario="fed_rounds",
        variants=RIVALS,
        skews=("1",),
        rates=(1e-3, 3e-3, 1e-2),
    ),
}


def scenario_of(task: Task, point: Point) -> Scenario:
    """The scenario of one point; where a learning rate is chosen, with a validation split."""
    name, skew, seed, rate = point
    own = [f"federation.partition={SKEWS[skew]}", f"training.optimizer.lr={rate}", f"seed={seed}"]
    validation = ["training.validation=0.2"] if seed == TUNING_SEED else []
    variant = task.variants[name]
    found = mobisim.load(task.scenario, [*task.overrides, *own, *validation, *variant.overrides])
    return as_often_alone(found) if variant.alone else found


def as_often_alone(scenario: Scenario) -> Scenario:
    """With epochs in place of the replay, so that each sample is learned from as often."""
    training, replay = scenario.training, scenario.federation.replay
    assert training is not None
    assert training.num_samples is not None
    assert replay is not None
    epochs = 1 + round(replay.steps * training.batch_size / training.num_samples)
    federation = scenario.federation.model_copy(update={"replay": None})
    longer = training.model_copy(update={"epochs": epochs})
    return scenario.model_copy(update={"training": longer, "federation": federation})


def measure(task: Task, point: Point, shared: Path) -> Row:
    """Learn one point and judge it; what frozen backbones give is kept in `shared`."""
    begin = time.monotonic()
    name, skew, seed, rate = point
    with tempfile.TemporaryDirectory(prefix="mobisim-study-") as out:
        options = Options(out=Path(out) / "point", plots=False)
        prepared = prepare(scenario_of(task, point), options)
        found = (alone if task.variants[name].alone else together)(prepared, shared)
    return {
        "variant": name,
        "skew": skew,
        "seed": str(seed),
        "lr": repr(rate),
        **found,
        "seconds": f"{time.monotonic() - begin:.1f}",
        "digest": prepared.digest,
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
    }


def together(prepared: Prepared, shared: Path) -> Row:
    """A run: its timeline, and what all devices learn on it."""
    make = partial(make_trainer, load=_backbone, shared=shared)
    never = Checkpoints(prepared.place, prepared.digest, every_s=math.inf, resume=False)
    lessons = Taught(prepared.system, prepared.planned, never, make=make)
    learning = Learning(prepared.system, lessons)
    summary = publish(prepared, learning, timeline(prepared)).summary
    tuning = prepared.scenario.seed == TUNING_SEED
    accuracy = summary.validation_metric if tuning else summary.final_metric
    return _judged(accuracy, summary) | {
        field: repr(getattr(summary, field))
        for field in ("time_to_target_s", "makespan_s", "uplink_bytes", "downlink_bytes")
    }


def _judged(accuracy: float | None, summary: Summary) -> Row:
    groups = summary.metric_of_groups or []
    return {
        "accuracy": repr(accuracy),
        "groups": " ".join(f"{group.mean:.4f}" for group in groups),
        "least": repr(min((group.least or 0.0 for group in groups), default=None)),
    }


def alone(prepared: Prepared, shared: Path) -> Row:
    """Each device's own side network, of its own samples: no timeline."""
    planned, scenario = prepared.planned, prepared.scenario
    starts = planned.workload.starts
    assert starts is not None
    assert planned.data is not None
    found: list[list[float]] = []
    for group, devices in zip(scenario.devices, scenario.ranges, strict=True):
        one = group.model_copy(update={"count": 1, "model": group.model or scenario.model})
        system = System(
            scenario.model_copy(update={"devices": (one,), "model": one.model}),
            planned.data.num_classes,
        )
        found.append([])
        for device in devices:
            own = replace(
                planned,
                workload=replace(planned.workload, starts=None),
                samples=planned.samples[starts[device] : starts[device + 1]],
                hits=(),
            )
            trainer = make_trainer(system, own, _backbone, shared)
            for number in range(len(trainer.batches)):
                trainer.step(number)
            found[-1].append(trainer.evaluate()["accuracy"])
    return {
        "accuracy": repr(float(np.mean(list(chain.from_iterable(found))))),
        "groups": " ".join(f"{np.mean(group):.4f}" for group in found),
        "least": repr(min(map(min, found))),
    }


@lru_cache
def _backbone(name: str) -> Backbone:
    return load_backbone(name)


class Study:
    """The points of one task, and those that are done."""

    def __init__(self, name: str) -> None:
        self.name, self.task = name, TASKS[name]
        self.table = Table(HERE / f"{name}.csv", FIELDS)

    def missing(self) -> Iterator[Point]:
        """What is not done, variant by variant: what chooses its learning rate, then all seeds."""
        done = {
            (row["variant"], row["skew"], int(row["seed"]), float(row["lr"]))
            for row in self.table.rows()
        }
        for name in self.task.variants:
            tuning = ((name, TUNING_SKEW, TUNING_SEED, rate) for rate in self.task.rates)
            yield from (point for point in tuning if point not in done)
            of_seeds = ((skew, seed) for seed in SEEDS for skew in self.task.skews)
            points = ((name, skew, seed, self.rate(name)) for skew, seed in of_seeds)
            yield from (point for point in points if point not in done)

    def rate(self, variant: str) -> float:
        """The learning rate that was best by validation; of equals the least."""
        tried = [row for row in self._of(variant) if int(row["seed"]) == TUNING_SEED]
        best = min(tried, key=lambda row: (-float(row["accuracy"]), float(row["lr"])))
        return float(best["lr"])

    def found(self, variant: str, skew: str) -> list[Row]:
        """The rows of the seeds that are done, in their order."""
        mine = [row for row in self._of(variant) if row["skew"] == skew]
        by_seed = {int(row["seed"]): row for row in mine if float(row["lr"]) == self.rate(variant)}
        return [by_seed[seed] for seed in SEEDS if seed in by_seed]

    def accuracies(self, variant: str, skew: str) -> list[float]:
        """In percent, by seed."""
        return [100 * float(row["accuracy"]) for row in self.found(variant, skew)]

    def done(self, skew: str) -> list[str]:
        """The variants of which every seed is done."""
        names = self.task.variants
        return [name for name in names if len(self.accuracies(name, skew)) == len(SEEDS)]

    def difference(self, variant: str, skew: str) -> Interval | None:
        """Paired with what the variant is compared with, where both are done."""
        reference = self.task.variants[variant].against
        if reference is None or not {variant, reference} <= {*self.done(skew)}:
            return None
        return paired(self.accuracies(variant, skew), self.accuracies(reference, skew))

    def _of(self, variant: str) -> list[Row]:
        return [row for row in self.table.rows() if row["variant"] == variant]


TEXT = """# Learning together

Twenty-four devices of three sizes, eight of each, with training samples dealt to them by label
(Dirichlet, alpha = 0.1 or 1) or evenly (iid). *Shared*: `fed-mobillm`, one pass of mini-batches
of 8 and a replay of four times as many, so that each sample is learned from five times.
*Single*: each device trains a side network of its own on its own samples, five epochs of them,
with all layers of its backbone tapped and no projection. Accuracy in percent is the mean over
the 24 devices on the held-out set, each with its own backbone; devices without samples count. ±
is the standard deviation over the seeds 0 to 2; differences are paired by seed, with their 95 %
interval (Student's t): one that holds zero tells no order. The learning rate is the best of
0.0001, 0.0003, 0.001, 0.003 and 0.01 on a fifth of the training samples (seed 100, alpha = 1; a
star marks one at the edge). Residuals are those of a head that each device fits on its own
samples, of one prediction for all (*uniform*), or labels go up (*labels*). The built-in task has
2000 samples, not the 2400 asked for, so there *shared* learned from each 5.8 times.

Made by `python results/gallery/federation/make.py` ({dates}); the CSV files have each run with
the digest of its resolved scenario. Runs took {all_h:.1f} hours in all, one core each, much of it
beside other work: {least_h:.1f} hours if each had taken as long as the fastest of its variant.

![accuracy by skew](federation.png)
"""
RACE = """\
All 24 phones have the whole backbone, timed as OPT-350M (scenario `fed_rounds`): 8 x Pixel 8
over LTE, 8 x Galaxy S24 Ultra over Wi-Fi at 5 Mbit/s, 8 x OnePlus 12 over Wi-Fi at 20 Mbit/s;
samples are dealt by label (Dirichlet, alpha = 1). Every method learns from each sample about
five times: `fed-mobillm` in one pass and a replay of four times as many, from labels unless
residuals of a uniform prediction are named; the others in rounds of two mini-batches of 8 on
each device, `fedbuff-lora` in versions of ten updates. HetLoRA's devices have ranks 2, 4 and 8;
FwdLLM tries four directions. Learning rates are the best of 0.001, 0.003 and 0.01 for all,
chosen as above. That rounds are of two mini-batches, and that the grid ends at 0.01, was chosen
for the rivals from single runs judged on the samples of the table: a look in their favour. The
target is an accuracy of 70 %, the mean over all devices, judged after each round, after five
versions of FedBuff and after 25 steps of `fed-mobillm`; seconds are simulated. *Times as long*
compares with `fed-mobillm`, paired by seed: a geometric mean with its 95 % interval (Student's t
on logarithms), in which a rival that never comes to the target counts as if it did when its run
ends, which is in its favour (*at least*)."""
RACE_HEADER = (
    "| method | learning rate | accuracy | s to 70 % | times as long | s in all | MB up / down |",
    "|---|---|---|---|---|---|---|",
)
DEVICES = 24
_WAYS = ("uplink_bytes", "downlink_bytes")
HEADER = (
    "| variant | skew | learning rate | accuracy | by size | worst device | less single |",
    "|---|---|---|---|---|---|---|",
)


def text_of(studies: Sequence[Study]) -> str:
    """README.md: a table for each task."""
    dates = sorted({row["date"] for study in studies for row in study.table.rows()})
    text = TEXT.format(
        dates=" to ".join(dict.fromkeys([dates[0], dates[-1]])),
        all_h=sum(map(sum, _seconds(studies))) / 3600,
        least_h=sum(min(times) * len(times) for times in _seconds(studies)) / 3600,
    )
    begun = {study.name for study in studies}
    left = [f"Not run yet: {task.title}.\n" for name, task in TASKS.items() if name not in begun]
    return "\n".join([text, *chain.from_iterable(map(_section, studies)), *left])


def _seconds(studies: Sequence[Study]) -> list[list[float]]:
    """What the runs of each variant took."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for study in studies:
        for row in study.table.rows():
            found[study.name, row["variant"]].append(float(row["seconds"]))
    return list(found.values())


def _section(study: Study) -> Iterator[str]:
    yield from (f"## {study.task.title}", "")
    yield from _race(study) if study.task.variants is RIVALS else _shared(study)
    pairs = ((n, skew) for n in study.task.variants for skew in study.task.skews)
    left = [f"{n}, {skew}" for n, skew in pairs if n not in study.done(skew)]
    if left:
        yield from ("", f"Not run yet with every seed: {'; '.join(left)}.")
    yield ""


def _shared(study: Study) -> Iterator[str]:
    yield from HEADER
    for name in study.task.variants:
        yield from (_line(study, name, skew) for skew in SKEWS if name in study.done(skew))
    yield from ("", _verdict(study))


def _race(study: Study) -> Iterator[str]:
    """Who comes to the target when, and what for."""
    (skew,) = study.task.skews
    yield from (RACE, "", "![when each method comes to it](race.png)", "", *RACE_HEADER)
    done = study.done(skew)
    yield from (_race_line(study, name, skew) for name in done)
    others = [name for name in done if not name.startswith(REFERENCE)]
    if REFERENCE in done and others:
        told = defaultdict(list)
        for name in others:
            told[_sooner(study, name, skew)[0]].append(name)
        said = "; ".join(f"{sort} {', '.join(names)}" for sort, names in told.items())
        yield from ("", f"That *{REFERENCE} is there sooner* is {said}.")


def _race_line(study: Study, name: str, skew: str) -> str:
    rows, rate = study.found(name, skew), study.rate(name)
    values, times = study.accuracies(name, skew), _times_s(study, name, skew)
    there = [each for each in times if each is not None]
    when = f"{statistics.mean(there):.0f}" if there else "-"
    mega = [sum(float(row[way]) for row in rows) / len(rows) / 1e6 / DEVICES for way in _WAYS]
    makespan_s = statistics.mean(float(row["makespan_s"]) for row in rows)
    later = "-" if name == REFERENCE else _sooner(study, name, skew)[1]
    edge = "*" if rate in (study.task.rates[0], study.task.rates[-1]) else ""
    accuracy = f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"
    return (
        f"| {name} | {rate:g}{edge} | {accuracy} "
        f"| {when} ({len(there)} of {len(times)}) | {later} | {makespan_s:.0f} "
        f"| {mega[0]:.1f} / {mega[1]:.1f} |"
    )


def _racer(study: Study, name: str, skew: str) -> Racer:
    makespans_s = [float(row["makespan_s"]) for row in study.found(name, skew)]
    accuracy = statistics.mean(study.accuracies(name, skew))
    return Racer(name, _times_s(study, name, skew), makespans_s, accuracy)


def _times_s(study: Study, name: str, skew: str) -> list[float | None]:
    """When the target was met, by seed; None where it never was."""
    stated = (row["time_to_target_s"] for row in study.found(name, skew))
    return [None if text == "None" else float(text) for text in stated]


def _sooner(study: Study, name: str, skew: str) -> tuple[str, str]:
    """Whether the reference is at the target before a rival, and how many times as long that takes.

    The ratio is a geometric mean. A rival that never comes to the target counts as if it did when
    its run ends: in its favour.
    """
    ends_s = _racer(study, name, skew).makespans_s
    rows = zip(_times_s(study, name, skew), ends_s, _times_s(study, REFERENCE, skew), strict=True)
    ratios = [math.log((rival or end) / ours) for rival, end, ours in rows if ours is not None]
    least = "at least " if None in _times_s(study, name, skew) else ""
    found = interval(ratios) if ratios else None
    if found is None or found.low is None or found.high is None:
        return "left open for", "-"
    told = f"{math.exp(found.mean):.1f} ({math.exp(found.low):.1f} to {math.exp(found.high):.1f})"
    if found.low > 0:
        return "found for", least + told
    return ("left open for" if found.high >= 0 or least else "refuted for"), least + told


def _verdict(study: Study) -> str:
    """Where a shared side network beats single ones and by how much, and where not or untold."""
    told: dict[str, list[str]] = {"found for": [], "refuted for": [], "left open for": []}
    for name in study.task.variants:
        means: dict[str, dict[str, float]] = {}
        for skew in SKEWS:
            found = study.difference(name, skew)
            if found is None or found.low is None or found.high is None:
                continue
            sort = "found for" if found.low > 0 else "left open for"
            means.setdefault("refuted for" if found.high < 0 else sort, {})[skew] = found.mean
        for sort, by_skew in means.items():
            points = ", ".join(f"{skew}: {mean:+.1f}" for skew, mean in by_skew.items())
            told[sort].append(f"{name} ({points})")
    said = [f"{sort} {', '.join(names)}" for sort, names in told.items() if names]
    return f"That *shared beats single* is {'; '.join(said) or 'not known yet'}."


def _line(study: Study, variant: str, skew: str) -> str:
    rows, rate = study.found(variant, skew), study.rate(variant)
    values = study.accuracies(variant, skew)
    groups = np.mean(
        [[100 * float(value) for value in row["groups"].split()] for row in rows], axis=0
    )
    edge = "*" if rate in (study.task.rates[0], study.task.rates[-1]) else ""
    least = statistics.mean(100 * float(row["least"]) for row in rows)
    return (
        f"| {variant} | {skew} | {rate:g}{edge} "
        f"| {statistics.mean(values):.1f} ± {statistics.stdev(values):.1f} "
        f"| {' / '.join(f'{value:.1f}' for value in groups)} | {least:.1f} "
        f"| {_said(study.difference(variant, skew))} |"
    )


def _said(found: Interval | None) -> str:
    if found is None or found.low is None or found.high is None:
        return "-"
    return f"{found.mean:+.1f} ({found.low:+.1f} to {found.high:+.1f})"


def draw(studies: Sequence[Study], out: Path) -> None:
    """Accuracy by skew: each seed, and the mean with its interval, variant by variant."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - only to draw

    studies = [study for study in studies if study.task.variants is TOGETHER]
    figure = Figure(figsize=(10, 4.6), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(studies), squeeze=False)[0]
    colours = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b7791f")
    for axes, study in zip(panels, studies, strict=True):
        for index, name in enumerate(TOGETHER):
            for place, skew in enumerate(SKEWS):
                if name not in study.done(skew):
                    continue
                values, at = study.accuracies(name, skew), place + (index - 2) * 0.13
                found, colour = interval(values), colours[index % len(colours)]
                axes.plot([at] * len(values), values, "o", color=colour, alpha=0.35, ms=4)
                axes.plot([at] * 2, [found.low, found.high], color=colour, lw=1.6)
                label = name if place == 0 else None
                axes.plot(at, found.mean, "o", color=colour, ms=6, label=label)
        axes.set_xlim(-0.5, len(SKEWS) - 0.5)
        axes.set_xticks(range(len(SKEWS)), [s if s == "iid" else f"alpha = {s}" for s in SKEWS])
        axes.set_title(study.task.title.replace(": ", ":\n"), loc="left", fontsize=9.5)
        axes.set_ylabel("accuracy, mean over devices, %")
        axes.grid(visible=True, axis="y", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), frameon=False)
    figure.savefig(out, metadata={"Software": None})


def write() -> None:
    """README.md and the pictures of what is done."""
    studies = [study for study in map(Study, TASKS) if any(map(study.done, study.task.skews))]
    if studies:
        (HERE / "README.md").write_text(text_of(studies), encoding="utf-8")
        draw(studies, HERE / "federation.png")
    for study in studies:
        if study.task.variants is RIVALS:
            (skew,) = study.task.skews
            racers = [_racer(study, name, skew) for name in study.done(skew)]
            draw_race(racers, "an accuracy of 70 %", HERE / "race.png")


def main() -> None:
    """Run what is missing, then write table and picture."""
    names, is_time_left = asked(__doc__, [*TASKS])
    studies = [Study(name) for name in names]
    with tempfile.TemporaryDirectory(prefix="mobisim-activations-") as shared:
        for study in studies:
            while is_time_left() and (point := next(study.missing(), None)):
                name, skew, seed, rate = point
                sys.stderr.write(f"{study.name}: {name}, {skew}, seed {seed}, lr {rate:g}\n")
                study.table.append(measure(study.task, point, Path(shared)))
    write()


if __name__ == "__main__":
    main()
