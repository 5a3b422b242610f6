"""A comparison in the terminal: the methods, what leaves the device, and who wins at which rate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from mobisim.report.comparison import AtRate, Comparison, Crossing, Interval, Standing
from mobisim.report.wording import count
from mobisim.scenario.methods import METHODS
from mobisim.units import human_energy, human_rate, human_size, human_time

WIDTH = 80
STATISTIC = (
    "95 %, Student t over seeds; differences are paired by seed, and not corrected for being many"
)


def print_comparison(found: Comparison, console: Console) -> None:
    """Print the answer, in at most 80 columns."""
    parts: list[RenderableType] = [_title(found), Text(), _costs(found)]
    parts += [Text(), _lessons(found)] if found.trained else []
    parts += [Text(), *_ledger(found)] if found.leaving else []
    parts += [Text(), _rates(found)] if found.rates else []
    parts += [Text(), *_crossings(found)]
    parts += [Text(), *(Text(note, "dim") for note in _notes(found))]
    console.print(Group(*parts), width=min(WIDTH, console.width), highlight=False)


def _title(found: Comparison) -> Text:
    text = Text(f"{found.name}: ", "bold")
    text.append(f"{found.model or 'stated times'} on {found.device}, {found.link}, {found.server}")
    if found.stand_in:
        text.append(f"\n{found.stand_in}", "yellow")
    return text


def _costs(found: Comparison) -> Table:
    """What each method takes: memory, time, bytes, energy."""
    capacity = next((s.capacity_bytes for s in found.standings if s.capacity_bytes), None)
    memory = f"memory of\n{human_size(capacity)}" if capacity else "memory"
    headings = (memory, "a step", "in all", "device busy", "up", "down", "energy")
    table = _table("method", headings)
    for standing in _known(found):
        times = (standing.step_s, standing.makespan_s, standing.device_busy_s)
        sizes = (standing.uplink_bytes, standing.downlink_bytes)
        energy = "" if standing.energy_j is None else human_energy(standing.energy_j)
        peak = Text(_size(standing.peak_bytes), "bold red" if standing.fits is False else "")
        table.add_row(standing.method, peak, *map(_time, times), *map(_size, sizes), energy)
    return table


def _lessons(found: Comparison) -> Table:
    """What each method learns, and how soon."""
    headings = [f"{(found.metric or '').replace('_', ' ')}, held out", f"less {found.reference}'s"]
    to_target = [] if found.target is None else [f"to {found.target:g}"]
    tuned = ["learning rate"] if found.learning_rates else []
    table = _table("method", [*to_target, *headings, *tuned], padding=2)
    for standing in _known(found):
        cells = [interval(standing.final), interval(standing.against, sign="+")]
        reached = [_reached(standing)] if to_target else []
        rate = [_rate(standing)] if tuned else []
        table.add_row(standing.method, *reached, *cells, *rate)
    return table


def _table(first: str, headings: Iterable[str], padding: int = 1) -> Table:
    """Methods, left, and numbers, right; where they must wrap, between words."""
    table = Table(box=None, padding=(0, padding, 0, 0), pad_edge=False)
    table.add_column(first, no_wrap=True)
    for heading in headings:
        widest = max(map(len, heading.split()))  # else words are broken in two
        table.add_column(heading, justify="right", overflow="fold", min_width=widest)
    return table


def _known(found: Comparison) -> Iterator[Standing]:
    return (standing for standing in found.standings if standing.error is None)


def _rate(standing: Standing) -> str:
    rate = standing.learning_rate
    return "" if rate is None else f"{rate:g}{'*' if standing.at_edge else ''}"


def interval(found: Interval | None, sign: str = "") -> str:
    """A mean with half the width of its interval."""
    if found is None:
        return ""
    half = "" if found.high is None else f" ± {found.high - found.mean:.2g}"
    return f"{found.mean:{sign}.3f}{half}"


def _time(seconds: float | None) -> str:
    return "" if seconds is None else human_time(seconds) if seconds else "-"


def _reached(standing: Standing) -> str:
    if standing.num_met is None:
        return ""
    if standing.time_to_target_s is None:
        return standing.met
    return human_time(standing.time_to_target_s)


def _size(num_bytes: float | None) -> str:
    return "" if num_bytes is None else human_size(num_bytes) if num_bytes else "-"


def _ledger(found: Comparison) -> Iterator[Table | Text]:
    kinds = found.leaving
    table = _table(f"leaves {found.devices}", kinds)
    for standing in found.standings:
        if standing.leaves is not None:
            cells = (_size(standing.leaves.get(kind, 0)) for kind in kinds)
            table.add_row(standing.method, *cells)
    yield table
    for standing in found.standings:
        if standing.labels_given_away is not None:
            share = f"{standing.labels_given_away * 100:.3g} %"
            yield Text(f"{standing.method}: its residuals' argmax gives {share} of the labels away")


def _rates(found: Comparison) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    timed = "whole run" if found.timed_by == "makespan" else found.timed_by
    table.add_column(f"uplink ({timed})", no_wrap=True)
    for heading in ("fastest", "", "then", ""):
        table.add_column(heading, justify="left" if heading else "right")
    for at in found.rates:
        table.add_row(human_rate(at.rate), *_places(at))
    return table


def _places(at: AtRate) -> Iterator[str]:
    order = sorted((s, name) for name, s in at.seconds.items() if math.isfinite(s))
    for seconds, name in order[:2] or [(math.inf, "none")]:
        yield name
        yield human_time(seconds) if math.isfinite(seconds) else ""


def _crossings(found: Comparison) -> Iterator[Text]:
    if not found.crossings:
        yield Text("No crossing: no method on the device alone and one over the link both run.")
    for one in found.crossings:
        yield Text(crossing(one))


def crossing(found: Crossing) -> str:
    """Below which rate which method is faster, as a sentence."""
    if found.rate is not None:
        rate = human_rate(found.rate)
        return f"Below {rate} {found.alone} is faster than {found.other}, above it slower."
    slower = found.other if found.faster == found.alone else found.alone
    return f"{found.faster} is faster than {slower} at every rate from 10 kbit/s to 10 Gbit/s."


def _notes(found: Comparison) -> Iterator[str]:
    for why, methods in _failed(found).items():
        yield f"{', '.join(methods)}: {why}"
    for standing in found.standings:
        if standing.fits is False:
            short = human_size(standing.short_bytes or 0)
            yield f"{standing.method} does not fit: the {standing.short_side} is short by {short}"
    if found.num_devices > 1:
        yield f"Bytes and energy are those of all {found.devices} together."
    if any(METHODS[one.method].rounds for one in _known(found)):
        yield "With rounds a step is the average that ends one."
    if found.trained:
        judged = (
            "Evaluations before the end are on a validation split cut from the training samples"
        )
        yield f"{judged}; the held-out samples are read once."
    if found.trained and found.num_seeds > 1:
        yield f"{count(found.num_seeds, 'seed')}. Intervals: {STATISTIC}."
    if any(standing.at_edge for standing in found.standings):
        yield "*: the best learning rate is at the edge of the grid; one beyond it may be better."
    yield from found.notes


def _failed(found: Comparison) -> dict[str, list[str]]:
    """Why methods could not be run, and which; that an error got the method's name says nothing."""
    reasons: dict[str, list[str]] = {}
    for one in found.standings:
        if one.error is not None:
            reasons.setdefault(one.error.removesuffix(f"; got: {one.method}"), []).append(
                one.method
            )
    return reasons
