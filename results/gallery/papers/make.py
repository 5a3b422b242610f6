"""What papers claim of MobiLLM and PAE MobiLLM, what we get, and why they differ, side by side.

Run from anywhere with `python results/gallery/papers/make.py`: times, memory and bytes, a minute.
With `--train` every method learns as well, three seeds at three learning rates, for time to target
and accuracy: that takes hours. What is done is kept beside it: it can be interrupted and resumed.
Each trajectory is trained once for all scenarios, since what learns is the built-in stand-in.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

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
LEARNING_RATES, SEEDS = (3e-3, 1e-3, 3e-4), 3
BATCHES, LENGTHS = (1, 2, 4, 8, 16, 32), (64, 128, 256, 512)
PEFT = ("lora", "bitfit", "adapters")
BASELINES = ("full", "lora", "bitfit")  # those that readers of the papers name
GB = 1e9


class Evidence:
    """What the claims are held against: comparisons, and memory at any shape."""

    def __init__(self, compared: Mapping[str, Comparison]) -> None:
        self.compared = compared

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

    def speed_ups(self, name: str) -> dict[float, float]:
        """By rate, the time of the fastest of full fine-tuning, LoRA and BitFit over MobiLLM's."""
        found = {}
        for at in self.compared[name].rates:
            alone = [at.seconds[m] for m in BASELINES if m in at.seconds]
            if alone and "mobillm" in at.seconds:
                found[at.rate] = min(alone) / at.seconds["mobillm"]
        return found


@dataclass(frozen=True)
class Claim:
    """What a source says, how sure that is, what we get, and why it differs.

    `grade`: P, read in the source; S, a secondary source, not checked; S-, a weak one.
    """

    says: str
    grade: str
    source: str
    ours: Callable[[Evidence], str]
    why: str


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
    """The speed-up by scenario, at the slowest and the fastest link."""
    return "; ".join(_speed(name, found.speed_ups(name)) for name in SCENARIOS)


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
    by_name = {standing.method: standing for standing in found.compared[SMALL].standings}
    full = by_name["full"]
    if full.against is None:
        return "not learned here; results/gallery/methods has what each method learns"
    return f"full fine-tuning less MobiLLM: {interval(full.against, sign='+')} of accuracy"


def less_traffic(found: Evidence) -> str:
    """How much less PAE MobiLLM sends."""
    by_name = {standing.method: standing for standing in found.compared[SMALL].standings}
    pae, whole = (by_name[name].uplink_bytes for name in ("pae-mobillm", "mobillm"))
    return f"{100 * (1 - pae / whole):.2f} % less" if pae and whole else "not simulated"


CLAIMS = (
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
        "link, shape, task and the baselines' settings not stated; ours is the time for the same "
        "samples, not to a target, depends on the uplink, and rests on assumed rates of the device",
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


def compared(name: str, progress: mobisim.Progress, *, train: bool) -> Comparison:
    """A scenario's comparison, made or gone on with; its picture and table beside this file."""
    kind = "trained" if train else "timed"
    options = mobisim.Options(train=train, out=RUNS / kind / name, progress=progress)
    question = ask(
        scenario(f"papers/{name}"),
        options,
        learning_rates=LEARNING_RATES,
        num_seeds=SEEDS if train else 1,
        rates=RATES,
        trajectories=RUNS / "trajectories",
    )
    place, found = compare(question, processes() if train else here())
    shutil.copyfile(place / "compare.png", HERE / f"{name}.png")
    shutil.copyfile(place / "compare.csv", HERE / f"{name}.csv")
    return found


def memory_rows(found: Evidence) -> Iterator[dict[str, object]]:
    """Peak memory by scenario, method, batch and length."""
    for name, fit in found.fits.items():
        for method in METHODS:
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
        for number, method in enumerate(METHODS):
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
    with page(7.6, 4.4) as sheet:
        sheet.write(0.3, 0.2, "How many times as fast as training on the device?", fontsize=13)
        sheet.write(0.3, 0.52, f"MobiLLM against the fastest of {', '.join(BASELINES)}", color=GREY)
        axes = sheet.axes(Box(0.75, 0.95, 4.9, 2.75))
        for number, name in enumerate(SCENARIOS):
            by_rate, look = found.speed_ups(name), style(number)
            label = f"{name}" if by_rate else f"{name}: no time to compare"
            axes.plot(
                list(by_rate), list(by_rate.values()), color=look.colour, ls=look.dashes,
                marker=look.mark, ms=4.5, label=label,
            )  # fmt: skip
        axes.axhline(1, color=GREY, lw=0.8)
        axes.axhline(2.3, color=GREY, lw=0.8, ls=":")
        axes.annotate("reported: up to 2.3", (RATES[0], 2.3), xytext=(0, 3),
                      textcoords="offset points", fontsize=8, color=GREY)  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel="uplink (Mbit/s)")
        axes.set_xticks(RATES, [f"{rate / 1e6:g}" for rate in RATES])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_yticks([0.01, 0.1, 1, 10], ["0.01", "0.1", "1", "10"])
        axes.yaxis.set_minor_locator(NullLocator())
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        sheet.save(HERE / "speed.png")


def claims_table(found: Evidence) -> str:
    """Claim, grade and source, ours, and why they differ, in Markdown."""
    lines = ["| claim | grade, source | ours | why they differ |", "|---|---|---|---|"]
    for claim in CLAIMS:
        cells = (claim.says, f"{claim.grade}, {claim.source}", claim.ours(found), claim.why)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Make all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", action="store_true", help="learn as well, which takes hours")
    train = parser.parse_args().train
    with showing_progress() as progress:
        found = Evidence({name: compared(name, progress, train=train) for name in SCENARIOS})
    write_memory(found)
    draw_speed(found)
    (HERE / "claims.md").write_text(claims_table(found), encoding="utf-8")


if __name__ == "__main__":
    main()
