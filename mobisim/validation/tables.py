"""What a validation says, in the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from mobisim.units import human_time
from mobisim.validation.compare import Comparison, Line
from mobisim.validation.suite import Accuracy, accuracies, line_of, lines_of

NAMES = {"uplink": "link"}


def print_comparison(found: Comparison, console: Console) -> None:
    """Measured, simulated, error and spread of each quantity; then who is to blame."""
    table = Table(box=None, pad_edge=False)
    for heading in ("", "measured", "simulated", "error", "spread of repeats"):
        table.add_column(heading, justify="right" if heading else "left")
    for line in found.lines:
        table.add_row(line.name, _time(line.measured), _time(line.simulated), *_shares(line))
    table.add_section()
    for line in found.busy:
        busy = (f"{share * 100:.0f} %" for share in (line.measured, line.simulated))
        table.add_row(f"{line.name} busy", *busy, *_shares(line))
    console.print(table)
    console.print(f"\npace        {NAMES.get(found.bottleneck, found.bottleneck)} in the real run")
    console.print(f"furthest    {found.blamed}: that kind of span is to blame where they part")
    console.print(
        f"neighbours  other processes took at most {found.others * 100:.1f} % of the cores"
    )
    if found.missed and any(found.missed):
        console.print(f"target      {_missed(found.missed, len(found.real))}")
    if found.loss_gap is not None:
        apart = f"at most {found.loss_gap:.2g} apart" if found.loss_gap else "equal to the last bit"
        console.print(f"losses      {apart}")


def _missed(missed: Sequence[int], count: int) -> str:
    """Which runs missed the target, so that no time can be compared."""
    if list(missed) == [count, count]:
        return "not met, as simulated"
    real, simulated = missed
    return f"missed by {real} of {count} real runs, {simulated} of {count} simulated"


def _time(seconds: float) -> str:
    return human_time(seconds)


def _shares(line: Line) -> tuple[str, str]:
    return _error(line.error, line.doubt), f"{line.spread * 100:.1f} %"


def _error(error: float, doubt: float | None) -> str:
    """With its standard error where there is one."""
    give = "" if doubt is None else f" ± {doubt * 100:.1f}"
    return f"{error * 100:+.1f}{give} %"


SETTINGS = ("Mbit/s", "codec", "batch", "granularity", "run-ahead", "bottleneck")
FOUND = (
    "step, real", "simulated", "error", "spread", "runs", "makespan", "to target", "to blame",
    "others",
)  # fmt: skip
UNSEEN = (*SETTINGS, "simulated", "to blame", "others", "runs")  # in a terminal of 80 columns
SUITE_COLUMNS = ("configuration", "paced by", *SETTINGS, *FOUND)


def suite_rows(rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """One line for each configuration."""
    found: list[tuple[str, ...]] = []
    for row in rows:
        step, makespan = line_of(row, "step time"), line_of(row, "makespan")
        found.append((
            row["name"], NAMES.get(row["bottleneck"], row["bottleneck"]), f"{row['mbit']:g}",
            row["codec"], str(row["batch_size"]), row["granularity"], str(row["run_ahead"]),
            str(_width_of(row)), _time(step["measured"]), _time(step["simulated"]),
            _error(step["error"], step["doubt"]), f"{step['spread'] * 100:.1f} %",
            str(len(row["real"])), f"{makespan['error'] * 100:+.1f} %", _to_target(row),
            row["blamed"], f"{row['others'] * 100:.1f} %",
        ))  # fmt: skip
    return found


def _to_target(row: dict[str, Any]) -> str:
    for line in lines_of(row, "time to target"):
        return f"{line['error'] * 100:+.1f} %"
    return _missed(row["missed"], len(row["real"])) if row.get("missed") else ""


def _width_of(row: dict[str, Any]) -> int:
    return int(row["side_bottleneck"])


def accuracy_rows(rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Median and 90th percentile of absolute errors, by group."""
    return [
        (name, NAMES.get(group, group), str(one.count), *_accuracy(one))
        for name in ("step time", "makespan", "time to target")
        for group, one in accuracies(rows, name).items()
    ]


def _accuracy(one: Accuracy) -> tuple[str, ...]:
    return tuple(f"{share * 100:.1f} %" for share in (one.median, one.p90, one.median_spread))


ACCURACY_COLUMNS = (
    "of", "paced by", "number", "median error", "90th percentile", "spread",
)  # fmt: skip


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def print_found(rows: Sequence[Sequence[str]], console: Console) -> None:
    """What a suite found, as much of it as a terminal is wide."""
    kept = [number for number, name in enumerate(SUITE_COLUMNS) if name not in UNSEEN]
    columns = [SUITE_COLUMNS[number] for number in kept]
    print_rows(columns, [[row[number] for number in kept] for row in rows], console)


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[str]], console: Console) -> None:
    """The same in the terminal."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    console.print(table)
