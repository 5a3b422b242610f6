"""The table of a comparison, as wide as a terminal is."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from mobisim.report.comparison import AtRate, Comparison, Crossing, Interval, Standing
from mobisim.report.comparison_table import print_comparison
from mobisim.scenario.methods import METHODS

WIDE = Standing(
    method="pae-mobillm",
    fits=True,
    peak_bytes=27_600_000_000,
    capacity_bytes=38_900_000_000,
    learning_rate=0.0003,
    at_edge=True,
    num_seeds=5,
    num_steps=100,
    makespan_s=118 * 60,
    step_s=0.888,
    time_to_target_s=88.8 * 60,
    num_met=5,
    final=Interval(0.8884, 0.7774, 0.9994, 5),
    against=Interval(-0.1114, -0.2224, 0.0006, 5),
    uplink_bytes=18.8e9,
    downlink_bytes=13.8e6,
    energy_j=44.8e3,
    device_busy_s=118 * 60,
    leaves={"activations": 18_800_000_000, "residuals": 28_800, "framing": 28_800},
)
KINDS = {"activations": 10**9, "labels": 28_800, "tokens": 28_800, "scalars": 28_800}


def comparison(*standings: Standing) -> Comparison:
    """A trained one whose every cell is as long as it gets."""
    names = [standing.method for standing in standings]
    return Comparison(
        name="opt350m_xavier_nx", digest="", model="opt-350m", device="jetson-xavier-nx",
        link="wifi-5mbps", server="a100-80gb", rate=5e6, metric="accuracy", target=0.9,
        stand_in="trained: builtin stand-in, timed: opt-350m", num_seeds=5,
        learning_rates=(3e-4, 1e-3), timed_by="time to target", standings=standings,
        rates=(AtRate(100e6, dict.fromkeys(names, 5331.0)),),
        crossings=(Crossing("adapters", "pae-mobillm", 78.8e6, None),),
    )  # fmt: skip


def printed(found: Comparison) -> list[str]:
    """What a terminal of 80 columns shows, without spaces at the ends of lines."""
    text = io.StringIO()
    print_comparison(found, Console(file=text, width=80))
    return [line.rstrip() for line in text.getvalue().splitlines()]


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """Of all methods."""
    others = (replace(WIDE, method=name, leaves=KINDS) for name in METHODS if name != WIDE.method)
    return printed(comparison(WIDE, *others))


def test_no_row_breaks_at_80_columns(lines: list[str]) -> None:
    """Three tables, in each of which every method has one line, and none is cut off."""
    assert max(map(len, lines)) <= 80
    for method in METHODS:
        assert sum(line.split(" ")[0] == method for line in lines) == 3
    assert not any("…" in line for line in lines)
    first = next(line for line in lines if line.startswith("pae-mobillm"))
    assert first.split() == [
        "pae-mobillm", "27.6", "GB", "11.3", "GB", "888", "ms", "118", "min", "118", "min",
        "18.8", "GB", "13.8", "MB", "44.8", "kJ",
    ]  # fmt: skip


def test_what_fits_is_told_with_what_is_left(lines: list[str]) -> None:
    """The capacity heads the column; what lacks is below zero; the server's lack is a note."""
    assert [line for line in lines if "38.9 GB" in line] == [lines[4]]
    assert "free of" in lines[3]
    short = replace(WIDE, method="full", fits=False, peak_bytes=39_000_000_000)
    server = replace(WIDE, fits=False, short_side="server", short_bytes=2_300_000_000)
    found = printed(comparison(short, server))
    assert "-100 MB" in next(line for line in found if line.startswith("full"))
    assert "pae-mobillm: the server is short by 2.3 GB" in found


def test_without_learning_nothing_is_said_of_it() -> None:
    """Costs, what leaves the device, and who wins."""
    timed = replace(WIDE, final=None, against=None, time_to_target_s=None, learning_rate=None)
    found = printed(comparison(replace(timed, at_edge=False, device_busy_s=0.0)))
    assert not any("held out" in line or "learning rate" in line for line in found)
    busy = next(line for line in found if line.startswith("pae-mobillm"))
    assert busy.split()[7:10] == ["118", "min", "-"]
