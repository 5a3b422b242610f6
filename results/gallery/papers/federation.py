"""The table that Fed MobiLLM's paper prints: what a device computes, sends and holds, by method.

Run from anywhere with `python results/gallery/papers/federation.py`: ten seconds. Nothing is
learned. How often the rivals go through their data is not stated in what we read, so it is varied.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from claims import Claim, claims_table
from matplotlib.axes import Axes

import mobisim
from mobisim.report.figure import CLEAR, GREY, INK, PALE, Box, Page, log_times, page
from mobisim.report.series import style
from mobisim.units import human_size, human_time

HERE = Path(__file__).parent
SCENARIO = "papers/fed_roberta"
OURS = "fed-mobillm"
RIVALS = ("fedavg-lora", "fedavg-adapters", "splitfed-lora", "fed-fwdllm")
ROUNDS = tuple(dict.fromkeys(round(10 ** (i / 12)) for i in range(25)))  # 1 to 100
SLOW = ("devices[0].profile=jetson-xavier-nx", "devices[1].profile=jetson-xavier-nx")
FAST = ("devices[0].profile=jetson-agx-xavier", "devices[1].profile=jetson-agx-xavier")
NOTE, PAPER = "public-note-67086776414", "fed-mobillm"
TERA, MB, GB = 1e12, 1e6, 1e9


@dataclass(frozen=True)
class Row:
    """What one device comes to, in the mean over all; memory is that of the one with least room."""

    method: str
    rounds: int
    flop: float
    up_bytes: float
    down_bytes: float
    peak_bytes: int
    runtime_bytes: int
    seconds: float

    @property
    def crossing_bytes(self) -> float:
        """What crosses while it learns: what is delivered in the end is not of it."""
        return self.up_bytes + (0.0 if self.method == OURS else self.down_bytes)

    @property
    def own_bytes(self) -> int:
        """Peak memory but for the assumed runtime."""
        return self.peak_bytes - self.runtime_bytes


def row(method: str, rounds: int, *changes: str) -> Row:
    """A method with so many rounds, in each of which all devices go through their data."""
    asked = (f"method={method}", f"federation.rounds.count={rounds}", *changes)
    found = mobisim.simulate(mobisim.load(SCENARIO, asked))
    summary, number = found.summary, found.scenario.num_devices
    assert summary.device_flop is not None
    assert summary.device_peak_bytes is not None
    assert summary.makespan_s is not None
    return Row(
        method, rounds, summary.device_flop / number, summary.uplink_bytes / number,
        summary.downlink_bytes / number, summary.device_peak_bytes,
        (summary.device_memory_bytes or {})["runtime"], summary.makespan_s,
    )  # fmt: skip


class Evidence:
    """What the claims are held against: our method once, its rivals by rounds."""

    def __init__(self) -> None:
        self.ours = row(OURS, 1)
        self.rivals = {name: [row(name, rounds) for rounds in ROUNDS] for name in RIVALS}

    @property
    def rows(self) -> Iterator[Row]:
        """All of them."""
        yield self.ours
        for rows in self.rivals.values():
            yield from rows

    def at(self, rounds: int) -> list[Row]:
        """The rivals with so many rounds."""
        return [row for rows in self.rivals.values() for row in rows if row.rounds == rounds]

    def holds_from(self, least: float, of: Callable[[Row], float]) -> str:
        """From how many rounds each rival takes `least` times what ours does."""
        return "; ".join(
            f"{name}: {_first(rows, least * of(self.ours), of)}"
            for name, rows in self.rivals.items()
        )


def _first(rows: list[Row], least: float, of: Callable[[Row], float]) -> str:
    """The first number of rounds that come to `least`, as all of these grow with rounds alike."""
    reached = next((row.rounds for row in rows if of(row) >= least), None)
    if reached is None:
        return f"not within {ROUNDS[-1]} rounds"
    return "from the first round on" if reached == 1 else f"from {reached} rounds on"


def span(values: list[float], unit: str) -> str:
    """The least and the most."""
    return f"{min(values):.3g} to {max(values):.3g} {unit}"


def memory(found: Evidence) -> str:
    """How many times as much each rival holds."""
    return "; ".join(
        f"{row.method}: {row.own_bytes / found.ours.own_bytes:.2f}x "
        f"({row.peak_bytes / found.ours.peak_bytes:.2f}x with the runtime)"
        for row in found.at(1)
    )


def split_traffic(found: Evidence) -> str:
    """Split learning's traffic, and ours."""
    each = {row.method: row for row in found.at(1)}["splitfed-lora"].crossing_bytes
    return (
        f"{each / found.ours.crossing_bytes:.0f}x in one pass: all activations of one cut and "
        "their gradients, in fp32"
    )


def mixed(_: Evidence) -> str:
    """How much longer each takes where all boards are the slow ones, and where two thirds are."""
    told = []
    for method in (OURS, *RIVALS):
        fast, mix, slow = (row(method, 1, *boards).seconds for boards in (FAST, (), SLOW))
        told.append(f"{method}: {mix / fast:.2f}x, {slow / fast:.2f}x")
    return "; ".join(told)


CLAIMS: tuple[Claim[Evidence], ...] = (
    Claim(
        "a device sends 1.1 MB", "S", NOTE,
        lambda e: f"{e.ours.up_bytes / MB:.3g} MB",
        "one token of 12 taps for each of 30 samples in fp32, which is how we read the 1.1 MB; "
        "ours has residuals and packet overhead besides",
    ),
    Claim(
        "a device computes 2.7 TFLOP", "S", NOTE,
        lambda e: f"{e.ours.flop / TERA:.3g} TFLOP",
        "512 tokens a sample, which is how we read it; 2.6 without attention's own products",
    ),
    Claim(
        "a device holds 0.38 GB", "S", NOTE,
        lambda e: f"{e.ours.own_bytes / GB:.2f} GB in fp16, and {e.ours.runtime_bytes / GB:.2f} GB "
        "of assumed runtime",
        "what is counted is not stated; no runtime of PyTorch on a Jetson fits into it, and fp32 "
        "weights (0.50 GB) do not either",
    ),
    Claim(
        "at least 95.2 % less computation", "P", PAPER,
        lambda e: e.holds_from(1 / (1 - 0.952), lambda row: row.flop),
        "how often the rivals go through their data is not stated; the secondary source's own "
        "figures (2.7 and about 390 TFLOP) are 99.3 % apart",
    ),
    Claim(
        "at least 93.2 % less communication", "P", PAPER,
        lambda e: e.holds_from(1 / (1 - 0.932), lambda row: row.crossing_bytes),
        "as above; what trained is delivered once in the end besides (ours: "
        "4.9 MB), which the claim leaves out; FwdLLM sends numbers up, and the model comes down",
    ),
    Claim(
        "rivals compute about 390 TFLOP", "S", NOTE,
        lambda e: "; ".join(
            f"{row.method}: {row.flop / TERA:.3g} TFLOP a round" for row in e.at(1)
        ),
        "rounds not stated, so neither is the product",
    ),
    Claim(
        "rivals communicate 23 to 5,437 MB, split learning most", "S", NOTE,
        lambda e: "; ".join(
            f"{row.method}: {row.crossing_bytes / MB:.3g} MB in a round" for row in e.at(1)
        ),
        "rounds, rank and precision not stated; split learning is the most here, too",
    ),
    Claim(
        "up to 175x less than split learning communicates", "S", NOTE, split_traffic,
        "5,437 MB over 175 is 31 MB and no method's 1.1 MB: it compares with something else",
    ),
    Claim(
        "2.68x less memory", "S", NOTE, memory,
        "against which rival is not stated; ours: 10 x 512 tokens in fp16, the cut in the middle",
    ),
    Claim(
        "at least 5.1x faster to the target accuracy", "P", PAPER,
        lambda e: f"one pass of ours takes {human_time(e.ours.seconds)}; 5.1 times as long are "
        f"{e.holds_from(5.1, lambda row: row.seconds)}",
        "times of rounds, not to an accuracy: nothing is learned here (results/gallery/federation "
        "has what devices learn of the built-in task); link, and replay at the server, not stated",
    ),
    Claim(
        "5.1 to 6.0 min to the target accuracy", "S", NOTE,
        lambda e: f"{human_time(e.ours.seconds)} for the pass alone",
        "the pass does not fill minutes on any link above 1 Mbit/s: the rest may be the server's "
        "replay, their network or their boards, of which none is stated",
    ),
    Claim(
        "wall clock nearly the same for homogeneous and mixed fleets, while rivals fall to the "
        "slowest device", "S", NOTE, mixed,
        "two thirds of the boards slow, then all, over none, for one pass: a pass ends with its "
        "slowest device here as well; what does not wait is the server, which learns meanwhile",
    ),
)  # fmt: skip


def write_rows(found: Evidence) -> None:
    """The table as CSV."""
    rows = [asdict(row) for row in found.rows]
    with (HERE / "federation.csv").open("w", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def draw(found: Evidence) -> None:
    """Computation, traffic and time over rounds, and memory."""
    with page(12.2, 4.9) as sheet:
        sheet.write(
            0.3, 0.2, "One of a hundred devices: RoBERTa-base, 30 samples each", fontsize=13
        )
        about = "dotted: what the paper claims, at least so much more than Fed MobiLLM's one pass"
        sheet.write(0.3, 0.52, about, color=GREY)
        flop = _panel(sheet, 0, "computation", found, lambda row: row.flop)
        flop.yaxis.set_major_formatter(lambda value, _: f"{value / TERA:g} TFLOP")
        _margin(flop, found.ours.flop / (1 - 0.952), "95.2 % less")
        sent = _panel(sheet, 1, "traffic, up and down", found, lambda row: row.crossing_bytes)
        sent.yaxis.set_major_formatter(lambda value, _: human_size(value))
        _margin(sent, found.ours.crossing_bytes / (1 - 0.932), "93.2 % less")
        took = _panel(sheet, 2, "time", found, lambda row: row.seconds)
        log_times(took.yaxis, *took.get_ylim())
        _margin(took, found.ours.seconds * 5.1, "5.1x faster")
        took.legend(
            frameon=False, fontsize=8.5, ncols=5, loc="upper center", bbox_to_anchor=(-0.9, -0.2)
        )
        _draw_memory(sheet.axes(Box(10.55, 1.25, 0.9, 2.5)), found)
        sheet.write(9.3, 0.99, "memory of the device")
        sheet.save(HERE / "federation.png")


def _panel(
    sheet: Page, number: int, heading: str, found: Evidence, of: Callable[[Row], float]
) -> Axes:
    box = Box(1.1 + 2.9 * number, 1.25, 1.85, 2.5)
    sheet.write(box.left - 0.65, box.top - 0.26, heading)
    axes = sheet.axes(box)
    for place, (name, rows) in enumerate({OURS: [found.ours], **found.rivals}.items()):
        look, values = style(place), [of(row) for row in rows]
        if name == OURS:  # once, whatever the rivals do
            axes.axhline(values[0], color=look.colour, lw=1.8, label=name)
            continue
        shown = [row.rounds for row in rows]
        axes.plot(shown, values, color=look.colour, ls=look.dashes, lw=1.5, label=name)
    axes.set(xscale="log", yscale="log", xlabel="rounds of the rivals")
    axes.set_xticks([1, 10, 100], ["1", "10", "100"])
    axes.grid(color=PALE, lw=0.6)
    return axes


def _margin(axes: Axes, value: float, words: str) -> None:
    axes.axhline(value, color=GREY, lw=1.2, ls=":")
    axes.annotate(
        words, (100, value), xytext=(0, 2), textcoords="offset points", fontsize=8, color=GREY,
        ha="right", bbox=CLEAR,
    )  # fmt: skip


def _draw_memory(axes: Axes, found: Evidence) -> None:
    rows = [found.ours, *found.at(1)]
    for number, row in enumerate(rows):
        axes.barh(number, row.runtime_bytes / GB, color=PALE, height=0.6)
        axes.barh(
            number, row.own_bytes / GB, left=row.runtime_bytes / GB, color="#5b9bd5", height=0.6
        )
        axes.annotate(
            f"{row.peak_bytes / GB:.2f}", (row.peak_bytes / GB, number), xytext=(3, 0),
            textcoords="offset points", fontsize=8.5, va="center", color=INK,
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [row.method for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("GB; grey: runtime")


def table(found: Evidence) -> str:
    """What the paper's table has, for one round and for ten, in Markdown."""
    lines = [
        "| method | rounds | computes, TFLOP | sends, MB | gets, MB | holds, GB | time |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in (found.ours, *found.at(1), *found.at(10)):
        rounds = "one pass" if row.method == OURS else row.rounds
        sizes = f"{row.up_bytes / MB:.3g} | {row.down_bytes / MB:.3g} | {row.peak_bytes / GB:.2f}"
        lines.append(
            f"| {row.method} | {rounds} | {row.flop / TERA:.3g} | {sizes} | "
            f"{human_time(row.seconds)} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Make all of it."""
    found = Evidence()
    write_rows(found)
    draw(found)
    text = f"{table(found)}\n{claims_table(CLAIMS, found)}"
    (HERE / "federation.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
