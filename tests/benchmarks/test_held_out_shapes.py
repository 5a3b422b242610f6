"""How far predictions are off: shapes between the grid's points, and models that it never saw.

Held-out shapes are drawn by a seed and timed between the grid's own cases, in one run, so that
what the machine does besides meets both sides. Not part of the default run: on a machine that is
not busy, `pytest tests/benchmarks/test_held_out_shapes.py -s`; or, to publish,
`python tests/benchmarks/test_held_out_shapes.py SECONDS THREADS CLOCK FOLDER`,
with wall or processor as the clock.
"""

from __future__ import annotations

import csv
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from transformers import AutoConfig, AutoModel

from mobisim.cost.architecture import Architecture, architecture
from mobisim.cost.measured import MeasuredDeviceModel, block_calls
from mobisim.cost.operators import Operators
from mobisim.cost.work import BatchShape
from mobisim.profiling.accuracy import as_architecture
from mobisim.profiling.blocks import Block, BlockSizes
from mobisim.profiling.bundle import machine_name, summarise
from mobisim.profiling.cases import (
    FULL,
    Bench,
    Case,
    Grid,
    Laps,
    block_case,
    device_cases,
    llama_like,
    opt_like,
)
from mobisim.profiling.measure import Limits, Session, Taken
from mobisim.profiling.statistics import quantile
from mobisim.profiling.stopwatch import Timed

SEED = 20261121
NUM_BLOCKS, NUM_STACKS = 16, 10
VOCABULARY = 2000
PRECISION = "fp32"

# Whole models, by their own configurations and code in transformers; fewer layers where many are
# alike, and a small vocabulary, since only looked-up rows are touched.
MODELS: dict[str, dict[str, Any]] = {
    "OPT-125M": {
        "model_type": "opt", "hidden_size": 768, "num_attention_heads": 12, "ffn_dim": 3072,
        "num_hidden_layers": 12, "max_position_embeddings": 2048, "word_embed_proj_dim": 768,
    },
    "MobileLLM-125M, 10 of 30 layers": {
        "model_type": "llama", "hidden_size": 576, "num_attention_heads": 9,
        "num_key_value_heads": 3, "intermediate_size": 1536, "num_hidden_layers": 10,
        "max_position_embeddings": 2048,
    },
    "Qwen2.5-0.5B, 6 of 24 layers": {
        "model_type": "qwen2", "hidden_size": 896, "num_attention_heads": 14,
        "num_key_value_heads": 2, "intermediate_size": 4864, "num_hidden_layers": 6,
        "max_position_embeddings": 2048,
    },
    "MiniLM-L6": {
        "model_type": "bert", "hidden_size": 384, "num_attention_heads": 12,
        "intermediate_size": 1536, "num_hidden_layers": 6, "max_position_embeddings": 512,
    },
}  # fmt: skip
MODEL_SHAPES = ((1, 100), (4, 48), (3, 200), (12, 24))
TARGETS = {"blocks": (0.05, 0.12), "whole models": (0.05, 0.12), "models left out": (0.10, 0.20)}


@dataclass(frozen=True)
class HeldOut:
    """A shape that the grid does not have: how it is timed, and what cost/ calls it."""

    group: str
    case: Case
    sizes: Architecture
    batch: int
    length: int

    def predicted_s(self, operators: Operators) -> float:
        """Its time from the grid's samples."""
        shape = BatchShape.uniform(self.batch, self.length)
        if self.group == "blocks":
            return operators.seconds(block_calls(self.sizes, shape))
        model = MeasuredDeviceModel(
            operators, self.sizes, (self.sizes.num_layers,), None, 64, by_layer=False
        )
        return model.forward_s(shape)[0]


@dataclass
class Log:
    """Samples in the order in which they came, and the seconds that the grid had cost by then."""

    grid: frozenset[str]
    rows: list[tuple[float, str, Laps]] = field(default_factory=list)
    spent_s: float = 0.0
    last: float = field(default_factory=time.perf_counter)

    def add(self, case: Case, laps: Laps) -> None:
        """Take a sample."""
        now = time.perf_counter()
        self.spent_s += (now - self.last) * (case.name in self.grid)
        self.last = now
        self.rows.append((self.spent_s, case.name, laps))

    def until(self, seconds: float) -> Taken:
        """The grid's samples of its first `seconds`."""
        taken: Taken = {}
        for spent, name, laps in self.rows:
            if name in self.grid and spent <= seconds:
                taken.setdefault(name, []).append(laps)
        return taken

    def actual_s(self, name: str) -> float:
        """The median of a held-out case, over the whole run."""
        return quantile([sum(laps.values()) for _, case, laps in self.rows if case == name], 0.5)


def drawn(bench: Bench, grid: Grid) -> list[HeldOut]:
    """Blocks and stacks of blocks at shapes between the grid's points."""
    draw = random.Random(SEED)
    found: dict[str, HeldOut] = {}
    while len(found) < NUM_BLOCKS + NUM_STACKS:
        number = len(found)
        width = draw.choice([w for w in range(320, 1536, 64) if w not in grid.widths])
        make = opt_like if number % 4 else llama_like
        batch, length = draw.randint(1, 12), draw.choice([20, 24, 40, 48, 90, 100, 150, 200, 240])
        if batch * length * width**2 > 1.5e9:
            batch = 1
        build = block if number < NUM_BLOCKS else stack
        one = build(bench, make(width), batch, length, draw.randint(3, 8))
        found.setdefault(one.case.name, one)
    return list(found.values())


def block(bench: Bench, sizes: BlockSizes, batch: int, length: int, _layers: int) -> HeldOut:
    """One block, timed as a whole."""
    case = block_case(bench, sizes, batch, length, PRECISION, whole=True)
    return HeldOut("blocks", case, as_architecture(sizes), batch, length)


def stack(bench: Bench, sizes: BlockSizes, batch: int, length: int, layers: int) -> HeldOut:
    """Embeddings and several blocks, timed as a whole."""

    def start() -> Callable[[], Laps]:
        blocks = [Block(sizes, PRECISION, bench.device) for _ in range(layers)]
        words = bench.table(sizes.width, PRECISION)
        ids = torch.randint(VOCABULARY, (batch, length))

        def forward() -> None:
            h_BTD = words(ids) + words(torch.arange(length))
            for one in blocks:
                h_BTD = one(h_BTD)

        return lambda: whole(bench, forward)

    make = "llama" if sizes.modern else "opt"
    name = f"model {make} {layers} layers {batch}x{length}x{sizes.width}"
    case = Case(name, layers * sizes.flop(batch, length), start)
    return HeldOut("whole models", case, as_architecture(sizes, layers), batch, length)


@torch.inference_mode()
def whole(bench: Bench, forward: Callable[[], object]) -> Laps:
    """One lap over everything."""
    bench.watch.begin()
    forward()
    bench.watch.lap(Timed("whole", 1, 1, 1, 1, PRECISION))
    return bench.watch.laps()


def left_out(bench: Bench) -> Iterator[HeldOut]:
    """Models as transformers runs them, at widths that the grid does not have."""
    for name, sizes in MODELS.items():
        config = AutoConfig.for_model(**(sizes | {"vocab_size": VOCABULARY, "pad_token_id": 1}))
        for batch, length in MODEL_SHAPES:
            model, tokens = architecture(config.to_dict()), batch * length
            flop = model.num_layers * model.block_flop(tokens, tokens * length)
            case = Case(f"{name} {batch}x{length}", flop, starter(bench, config, batch, length))
            yield HeldOut("models left out", case, model, batch, length)


BUILT: dict[int, Any] = {}


def starter(bench: Bench, config: Any, batch: int, length: int) -> Callable[[], Callable[[], Laps]]:
    """What builds a model, once for all shapes, and runs it at one."""

    def start() -> Callable[[], Laps]:
        if id(config) not in BUILT:
            BUILT[id(config)] = AutoModel.from_config(config).eval()  # type: ignore[no-untyped-call]
        model = BUILT[id(config)]
        ids = torch.randint(2, VOCABULARY, (batch, length))
        cache = {} if config.model_type == "bert" else {"use_cache": False}
        return lambda: whole(bench, lambda: model(input_ids=ids, **cache))

    return start


@dataclass(frozen=True)
class Outcome:
    """One held-out shape: what was predicted, and what it took."""

    group: str
    name: str
    predicted_s: float
    actual_s: float

    @property
    def error(self) -> float:
        """Relative, with its sign."""
        return self.predicted_s / self.actual_s - 1


def measured(
    budget_s: float, threads: int, clock: str = "wall", grid: Grid = FULL
) -> tuple[list[HeldOut], Log]:
    """Grid and held-out shapes, timed interleaved."""
    torch.set_num_threads(threads)
    bench = Bench(torch.device("cpu"), clock)
    own = device_cases(bench, grid, (PRECISION,), codecs=())
    held = [*drawn(bench, grid), *left_out(bench)]
    log = Log(frozenset(case.name for case in own))
    session = Session(
        Limits(budget_s, width=0.005, seed=SEED),
        log.add,
        print,
    )
    session.run([*own, *(one.case for one in held)])
    return held, log


def outcomes(held: list[HeldOut], log: Log, threads: int, seconds: float) -> list[Outcome]:
    """All held-out shapes that were timed, predicted from the grid's first seconds."""
    samples = tuple(summarise(log.until(seconds), threads))
    operators = Operators("grid", samples, PRECISION, threads)
    timed = {name for _, name, _ in log.rows}
    return [
        Outcome(one.group, one.case.name, one.predicted_s(operators), log.actual_s(one.case.name))
        for one in held
        if one.case.name in timed
    ]


Targets = Mapping[str, tuple[float, float]]


def table(
    found: list[Outcome], targets: Targets = TARGETS
) -> list[tuple[str, int, float, float, float, float]]:
    """Each group: shapes, median and 90th percentile of the error, and their targets."""
    rows = []
    for group, (median, p90) in targets.items():
        errors = [abs(one.error) for one in found if one.group == group]
        row = group, len(errors), quantile(errors, 0.5), quantile(errors, 0.9), median, p90
        rows.append(row)
    return rows


def said(found: list[Outcome], targets: Targets = TARGETS) -> str:
    """Where it was measured, and the table, as published."""
    machine = f"{machine_name(torch.device('cpu'))}, torch {torch.__version__}"
    threads = torch.get_num_threads()
    lines = [
        "| held out | shapes | median error | 90th percentile | targets | met |",
        "|---|---|---|---|---|---|",
    ]
    for group, count, median, p90, most, most_p90 in table(found, targets):
        met = "yes" if median <= most and p90 <= most_p90 else "no"
        lines.append(
            f"| {group} | {count} | {median:.1%} | {p90:.1%} | {most:.0%}, {most_p90:.0%} | {met} |"
        )
    today = datetime.now(UTC).date()
    return "\n".join([f"{machine}, {threads} threads, {today}\n", *lines])


def test_held_out_shapes() -> None:
    """Median and 90th percentile of each group keep their targets."""
    held, log = measured(float(os.environ.get("MOBISIM_BENCH_S", "420")), threads=1)
    found = outcomes(held, log, 1, log.spent_s)
    sys.stderr.write(f"\n{said(found)}\n")
    assert all(median <= a and p90 <= b for _, _, median, p90, a, b in table(found))


def publish(budget_s: float, threads: int, clock: str, folder: Path) -> None:
    """Measure, and write the shapes, the curve and the table."""
    held, log = measured(budget_s, threads, clock)
    steps = [step for step in CURVE_S if step < log.spent_s] + [log.spent_s]
    first = least_seconds(log)
    curve = [(step, outcomes(held, log, threads, step)) for step in steps if step >= first]
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{threads}t-{clock}"
    write_shapes(folder / f"shapes-{stem}.csv", curve[-1][1])
    write_curve(folder / f"curve-{stem}.csv", curve)
    draw_curve(folder / f"curve-{stem}.png", curve, threads, clock)
    print(f"grid measured for {log.spent_s:.0f} s")  # noqa: T201
    print(said(curve[-1][1]))  # noqa: T201


CURVE_S = (10.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 240.0, 360.0, 480.0)


def least_seconds(log: Log) -> float:
    """When each of the grid's cases had been seen once."""
    seen: dict[str, float] = {}
    for spent, name, _ in log.rows:
        if name in log.grid:
            seen.setdefault(name, spent)
    return max(seen.values())


def write_shapes(path: Path, found: list[Outcome]) -> None:
    """Each shape with prediction and measurement."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("group", "shape", "predicted_s", "measured_s", "error"))
        for one in found:
            times = f"{one.predicted_s:.6g}", f"{one.actual_s:.6g}", f"{one.error:+.4f}"
            writer.writerow((one.group, one.name, *times))


def write_curve(path: Path, curve: list[tuple[float, list[Outcome]]]) -> None:
    """Error against seconds of measuring the grid."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("grid_s", "group", "median_error", "p90_error"))
        for seconds, found in curve:
            for group, _, median, p90, *_targets in table(found):
                writer.writerow((f"{seconds:.0f}", group, f"{median:.4f}", f"{p90:.4f}"))


def clock_words(threads: int, clock: str) -> str:
    """What a picture says of the clock."""
    what = "wall clock" if clock == "wall" else "processor time"
    return f"{threads} thread{'s' * (threads > 1)}, {what}"


def draw_curve(
    path: Path, curve: list[tuple[float, list[Outcome]]], threads: int, clock: str
) -> None:
    """The curve as a picture."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the backend

    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    minutes = [seconds / 60 for seconds, _ in curve]
    for number, group in enumerate(TARGETS):
        rows = [next(row for row in table(found) if row[0] == group) for _, found in curve]
        colour = f"C{number}"
        axes.plot(minutes, [100 * row[2] for row in rows], "o-", color=colour, label=group)
        axes.plot(minutes, [100 * row[3] for row in rows], "s--", color=colour, alpha=0.5)
    axes.set(
        xlabel="minutes spent on the grid",
        ylabel="error of predicted time (%)",
        title=f"Error at held-out shapes, {clock_words(threads, clock)}\n"
        "solid: median, dashed: 90th percentile",
    )
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    publish(float(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
