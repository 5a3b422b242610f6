"""What papers claim of MobiLLM and PAE MobiLLM, what we get, and why they differ, side by side.

Run from anywhere with `python results/gallery/papers/make.py`: times, memory and bytes, a minute.
With `--train` the methods learn as well, for time to target and accuracy: with three seeds some two
hours on one core (`--seeds`, `--jobs`). What is done is kept beside it: it can be interrupted and
resumed, and more seeds take those that are there. Each trajectory is trained once for all
scenarios, since what learns is the built-in stand-in.
"""

from __future__ import annotations

import argparse
import csv
import math
import shutil
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

from claims import Claim, claims_table
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator

import mobisim
from mobisim.compare.question import ask
from mobisim.compare.run import compare
from mobisim.fit_methods import Fit, fit_of
from mobisim.progress import showing_progress
from mobisim.report.comparison import Comparison
from mobisim.report.comparison_table import interval
from mobisim.report.figure import GREY, INK, Box, Page, page
from mobisim.report.fit_map import TITLES
from mobisim.report.series import style
from mobisim.scenario.catalog import scenario
from mobisim.scenario.load import resolve
from mobisim.scenario.methods import METHODS
from mobisim.sweeps.pools import here, processes
from mobisim.units import human_rate

HERE = Path(__file__).parent
RUNS = HERE / "sweeps"
SCENARIOS = ("opt350m_xavier_nx", "opt1_3b_xavier_nx", "opt350m_laptop", "opt1_3b_laptop")
XAVIER, SMALL = "opt1_3b_xavier_nx", "opt350m_xavier_nx"
RATES = tuple(rate * 1e6 for rate in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000))
LEARNING_RATES = (3e-3, 1e-3, 3e-4)
# Those of the papers' tables, and the ladder; `server-only` learns what `lora` does.
LEARNING = (
    "mobillm", "pae-mobillm", "full", "lora", "bitfit", "adapters", "lst", "server-only",
)  # fmt: skip
COMPARED = (*LEARNING, "split-lora", "fwdllm")
BATCHES, LENGTHS = (1, 2, 4, 8, 16, 32), (64, 128, 256, 512)
PEFT = ("lora", "bitfit", "adapters")
BASELINES = ("full", "lora", "bitfit")  # those that readers of the papers name
GB = 1e9


class Evidence:
    """What the claims are held against: comparisons, and memory at any shape.

    `timed` are comparisons of times for the same samples, `learned` those to a target, if any.
    """

    def __init__(self, timed: Mapping[str, Comparison], learned: Mapping[str, Comparison]) -> None:
        self.timed, self.learned = timed, learned

    @cached_property
    def fits(self) -> dict[str, Fit]:
        """The methods on the devices of each scenario."""
        return {name: fit_of(resolve(scenario(f"papers/{name}"))) for name in SCENARIOS}

    def peak(self, name: str, method: str, batch: int, length: int) -> int:
        """Bytes of the device."""
        fit = self.fits[name]
        return fit.memory(METHODS[method], fit.shaped(method, batch, length)).peak

    def ratios(self, name: str, methods: tuple[str, ...]) -> list[float]:
        """Peaks of methods over MobiLLM's, over all shapes."""
        return [
            self.peak(name, method, batch, length) / self.peak(name, "mobillm", batch, length)
            for method in methods
            for batch in BATCHES
            for length in LENGTHS
        ]


def speed_ups(found: Comparison, method: str = "mobillm") -> dict[float, float]:
    """By rate, the time of the fastest of full fine-tuning, LoRA and BitFit over a method's."""
    ratios = {}
    for at in found.rates:
        alone = min((at.seconds.get(name, math.inf) for name in BASELINES), default=math.inf)
        ours = at.seconds.get(method, math.inf)
        if math.isfinite(alone) and math.isfinite(ours):
            ratios[at.rate] = alone / ours
    return ratios


def spread(values: list[float], unit: str = "") -> str:
    """The least and the most."""
    return f"{min(values):.2g} to {max(values):.2g}{unit}"


def saved(found: Evidence, methods: tuple[str, ...]) -> str:
    """The share of memory that MobiLLM saves, over all shapes."""
    shares = [100 * (1 - 1 / ratio) for ratio in found.ratios(XAVIER, methods)]
    ours, lora = (found.peak(XAVIER, method, 8, 512) for method in ("mobillm", "lora"))
    at = 100 - 100 * ours / lora
    return f"{spread(shares, ' %')} over all shapes; LoRA at 8 x 512 tokens: {at:.0f} %"


def speed(found: Evidence) -> str:
    """The speed-up by scenario, at the slowest and the fastest link, both ways of timing."""
    told = [_speeds("for the same samples", found.timed, "mobillm")]
    if found.learned:
        goal = f"to accuracy {found.learned[SMALL].target:g} in validation"
        told += [_speeds(goal, found.learned, method) for method in ("mobillm", "pae-mobillm")]
    return ". ".join(told)


def _speeds(what: str, compared: Mapping[str, Comparison], method: str) -> str:
    each = "; ".join(_speed(name, speed_ups(compared[name], method)) for name in SCENARIOS)
    return f"{method} {what}: {each}"


def _speed(name: str, by_rate: Mapping[float, float]) -> str:
    if not by_rate:
        return f"{name}: nothing to compare"
    low, high = min(by_rate), max(by_rate)
    return (
        f"{name}: {by_rate[low]:.2g}x at {human_rate(low)}, {by_rate[high]:.2g}x at "
        f"{human_rate(high)}"
    )


def loss_of_quality(found: Evidence) -> str:
    """Held-out accuracy of full fine-tuning less MobiLLM's, in points."""
    if not found.learned:
        return "not learned here; results/gallery/methods has what each method learns"
    by_name = {standing.method: standing for standing in found.learned[SMALL].standings}
    mobillm, full = by_name["mobillm"], by_name["full"]
    return (
        f"full fine-tuning less MobiLLM: {interval(full.against, sign='+')} of accuracy "
        f"(MobiLLM: {interval(mobillm.final)})"
    )


def less_traffic(found: Evidence) -> str:
    """How much less PAE MobiLLM sends."""
    by_name = {standing.method: standing for standing in found.timed[SMALL].standings}
    pae, whole = (by_name[name].uplink_bytes for name in ("pae-mobillm", "mobillm"))
    return f"{100 * (1 - pae / whole):.2f} % less" if pae and whole else "not simulated"


CLAIMS: tuple[Claim[Evidence], ...] = (
    Claim(
        "device memory up to 4x lower than the state of the art", "P", "mobillm",
        lambda e: f"OPT-1.3B, full fine-tuning, PEFT and LST over MobiLLM: "
        f"{spread(e.ratios(XAVIER, ('full', *PEFT, 'lst')), 'x')}",
        "shape and precision not stated; ours are 1 to 32 samples of 64 to 512 tokens in fp16",
    ),
    Claim(
        "68 % of memory saved against PEFT", "S-", "ownyourai-mobillm",
        lambda e: saved(e, PEFT),
        "shapes not stated; the share grows with the tokens of a mini-batch",
    ),
    Claim(
        "about 75 % saved against LoRA and BitFit", "S", "public-note-66433903398",
        lambda e: saved(e, ("lora", "bitfit")), "as above; the two figures contradict each other",
    ),
    Claim(
        "OPT-1.3B with MobiLLM takes 4.49 GB on a Xavier NX", "S", "public-note-62971911184",
        lambda e: f"{e.peak(XAVIER, 'mobillm', 16, 64) / GB:.2f} GB at 16 x 64 tokens, "
        f"{e.peak(XAVIER, 'mobillm', 8, 512) / GB:.2f} GB at 8 x 512",
        "shape and codec not stated; 1.07 GB of ours are an assumed runtime",
    ),
    Claim(
        "LoRA on a 1.3 B model takes more than 14.5 GB", "S", "public-note-67086776414",
        lambda e: f"{e.peak(XAVIER, 'lora', 16, 64) / GB:.1f} GB at 16 x 64 tokens, "
        f"{e.peak(XAVIER, 'lora', 8, 512) / GB:.1f} GB at 8 x 512",
        "shape not stated; activations grow with the tokens of a mini-batch",
    ),
    Claim(
        "convergence up to 2.3x faster", "P", "mobillm", speed,
        "link, shape, task and the baselines' settings not stated; ours depends on the uplink, "
        "rests on assumed rates of the device and, to a target, on what a small stand-in learns of "
        "a built-in task",
    ),
    Claim(
        "accuracy 1.9 % below full fine-tuning", "S-", "ownyourai-mobillm", loss_of_quality,
        "task, model and seeds not stated; ours is the built-in task on a stand-in, not theirs",
    ),
    Claim(
        "PAE MobiLLM communicates more than 90 % less", "S-", "newx-pae-mobillm", less_traffic,
        "what it is compared with is not stated; ours counts one epoch of the tokens in the loss "
        "against all tokens in every epoch",
    ),
)  # fmt: skip


def compared(name: str, progress: mobisim.Progress, seeds: int = 0, jobs: int = 1) -> Comparison:
    """A scenario's comparison, made or gone on with, learned with so many seeds.

    Its picture and table lie beside this file.
    """
    kind = f"trained-{seeds}" if seeds else "timed"
    options = mobisim.Options(train=seeds > 0, out=RUNS / kind / name, progress=progress)
    question = ask(
        scenario(f"papers/{name}"),
        options,
        methods=LEARNING if seeds else COMPARED,
        learning_rates=LEARNING_RATES,
        num_seeds=max(seeds, 1),
        rates=RATES,
        trajectories=RUNS / "trajectories",
    )
    place, found = compare(question, processes(jobs) if seeds else here())
    told = f"{name}-learned" if seeds else name
    shutil.copyfile(place / "compare.png", HERE / f"{told}.png")
    shutil.copyfile(place / "compare.csv", HERE / f"{told}.csv")
    return found


def memory_rows(found: Evidence) -> Iterator[dict[str, object]]:
    """Peak memory by scenario, method, batch and length."""
    for name, fit in found.fits.items():
        for method in COMPARED:
            for batch in BATCHES:
                for length in LENGTHS:
                    peak = found.peak(name, method, batch, length)
                    yield {
                        "scenario": name, "method": method, "batch_size": batch,
                        "sequence_length": length, "peak_bytes": peak,
                        "capacity_bytes": fit.capacity, "fits": peak <= fit.capacity,
                    }  # fmt: skip


def write_memory(found: Evidence) -> None:
    """The memory table, and a picture for each scenario."""
    rows = list(memory_rows(found))
    with (HERE / "memory.csv").open("w", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for name in SCENARIOS:
        draw_memory(found, name)


def draw_memory(found: Evidence, name: str) -> None:
    """A panel for each method: peak memory by batch and length, dark where it does not fit."""
    fit = found.fits[name]
    with page(12.4, 5.6) as sheet:
        sheet.write(0.3, 0.2, f"{name}: peak memory of the device, GB", fontsize=13)
        about = f"{fit.group.profile.name} has {fit.capacity / GB:.3g} GB; dark: does not fit"
        sheet.write(0.3, 0.52, about, color=GREY)
        for number, method in enumerate(COMPARED):
            row, column = divmod(number, 5)
            box = Box(0.75 + column * 2.35, 1.2 + row * 2.2, 1.95, 1.6)
            sheet.write(box.left, box.top - 0.24, TITLES[method])
            _panel(sheet, box, found, name, method)
        sheet.save(HERE / f"{name}-memory.png")


def _panel(sheet: Page, box: Box, found: Evidence, name: str, method: str) -> None:
    axes = sheet.axes(box)
    capacity = found.fits[name].capacity
    for y, batch in enumerate(BATCHES):
        for x, length in enumerate(LENGTHS):
            peak = found.peak(name, method, batch, length)
            fits = peak <= capacity
            axes.add_patch(Rectangle((x, y), 0.96, 0.94, color="#d6e6f4" if fits else "#44403c"))
            text = f"{peak / GB:.1f}" if peak < 99.5 * GB else f"{peak / GB:.0f}"
            axes.text(
                x + 0.48, y + 0.45, text, ha="center", va="center", fontsize=7.5,
                color=INK if fits else "white",
            )  # fmt: skip
    axes.set(xlim=(0, len(LENGTHS)), ylim=(0, len(BATCHES)))
    axes.set_xticks([x + 0.48 for x in range(len(LENGTHS))], list(map(str, LENGTHS)), fontsize=7.5)
    axes.set_yticks([y + 0.45 for y in range(len(BATCHES))], list(map(str, BATCHES)), fontsize=7.5)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_xlabel("tokens per sample", fontsize=7.5, labelpad=2)
    axes.set_ylabel("samples", fontsize=7.5, labelpad=2)


def draw_speed(found: Evidence) -> None:
    """How many times as fast as the baselines MobiLLM is, over the uplink."""
    panels: list[tuple[str, Mapping[str, Comparison], str]] = [
        ("MobiLLM, the same samples", found.timed, "mobillm")
    ]
    if found.learned:
        goal = f"to accuracy {found.learned[SMALL].target:g}"
        panels += [
            (f"MobiLLM, {goal}", found.learned, "mobillm"),
            (f"PAE MobiLLM, {goal}", found.learned, "pae-mobillm"),
        ]
    with page(2.9 + 4.2 * len(panels), 4.4) as sheet:
        sheet.write(0.3, 0.2, "How many times as fast as training on the device?", fontsize=13)
        against = f"against the fastest of {', '.join(BASELINES)}; dotted: reported, up to 2.3"
        sheet.write(0.3, 0.52, against, color=GREY)
        for number, (heading, compared, method) in enumerate(panels):
            box = Box(0.75 + 4.2 * number, 1.25, 3.55, 2.45)
            sheet.write(box.left, box.top - 0.26, heading)
            _draw_ratios(sheet.axes(box), compared, method)
        sheet.figure.axes[-1].legend(
            frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0)
        )
        sheet.save(HERE / "speed.png")


def _draw_ratios(axes: Axes, compared: Mapping[str, Comparison], method: str) -> None:
    for number, name in enumerate(SCENARIOS):
        by_rate, look = speed_ups(compared[name], method), style(number)
        axes.plot(
            list(by_rate), list(by_rate.values()), color=look.colour, ls=look.dashes,
            marker=look.mark, ms=4.5, label=name if by_rate else f"{name}: no time to compare",
        )  # fmt: skip
    axes.axhline(1, color=GREY, lw=0.8)
    axes.axhline(2.3, color=GREY, lw=0.8, ls=":")
    axes.set(xscale="log", yscale="log", xlabel="uplink (Mbit/s)")
    axes.set_xlim(RATES[0] / 1.4, RATES[-1] * 1.4)
    axes.set_xticks(RATES, [f"{rate / 1e6:g}" for rate in RATES], fontsize=7.5)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks([0.01, 0.1, 1, 10], ["0.01", "0.1", "1", "10"])
    axes.yaxis.set_minor_locator(NullLocator())


def main() -> None:
    """Make all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", action="store_true", help="learn as well")
    parser.add_argument("--seeds", type=int, default=3, help="with which to learn")
    parser.add_argument("--jobs", type=int, default=1, help="processes that learn")
    asked = parser.parse_args()
    with showing_progress() as progress:
        timed = {name: compared(name, progress) for name in SCENARIOS}
        learners = SCENARIOS if asked.train else ()
        learned = {name: compared(name, progress, asked.seeds, asked.jobs) for name in learners}
    found = Evidence(timed, learned)
    write_memory(found)
    draw_speed(found)
    (HERE / "claims.md").write_text(claims_table(CLAIMS, found), encoding="utf-8")


if __name__ == "__main__":
    main()
