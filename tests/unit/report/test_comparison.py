"""The table of a comparison, as wide as a terminal is."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from mobisim.report.comparison import AtRate, Comparison, Crossing, Interval, Standing
from mobisim.report.comparison_plot import drawn_comparison
from mobisim.report.comparison_table import print_comparison
from mobisim.report.comparison_times import apart, heading
from mobisim.report.figure import GREY
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
    makespan_s=353.4,
    step_s=178.2,
    time_to_target_s=88.8 * 60,
    num_met=5,
    final=Interval(0.8884, 0.7774, 0.9994, 5),
    against=Interval(-0.1114, -0.2224, 0.0006, 5),
    uplink_bytes=18.8e9,
    downlink_bytes=13.8e6,
    energy_j=44.8e3,
    device_busy_s=353.4,
    leaves={"activations": 18_800_000_000, "residuals": 28_800, "framing": 28_800},
)
KINDS = dict.fromkeys(("activations", "labels", "tokens", "model", "scalars"), 288_000_000)


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
        "pae-mobillm", "27.6", "GB", "2.97", "min", "5.89", "min", "5.89", "min", "18.8", "GB",
        "13.8", "MB", "44.8", "kJ",
    ]  # fmt: skip


def test_what_does_not_fit_is_told_with_what_it_lacks(lines: list[str]) -> None:
    """The capacity heads the column of memory; which side lacks how much is a note."""
    assert [line for line in lines if "38.9 GB" in line] == [lines[4]]
    assert "memory of" in lines[3]
    short = replace(WIDE, method="full", fits=False, short_side="device", short_bytes=10**8)
    server = replace(WIDE, fits=False, short_side="server", short_bytes=2_300_000_000)
    found = printed(comparison(short, server))
    assert "full does not fit: the device is short by 100 MB" in found
    assert "pae-mobillm does not fit: the server is short by 2.3 GB" in found


def test_methods_that_fail_alike_are_named_together() -> None:
    """One note for each reason, whichever name the error got."""
    failed = (Standing(name, error=f"no; got: {name}") for name in ("full", "lora"))
    found = printed(comparison(WIDE, *failed, Standing("lst", error="never")))
    assert "full, lora: no" in found
    assert "lst: never" in found


def test_without_learning_nothing_is_said_of_it() -> None:
    """Costs, what leaves the device, and who wins."""
    timed = replace(WIDE, final=None, against=None, time_to_target_s=None, learning_rate=None)
    found = printed(comparison(replace(timed, at_edge=False, device_busy_s=0.0)))
    assert not any("held out" in line or "learning rate" in line for line in found)
    busy = next(line for line in found if line.startswith("pae-mobillm"))
    assert busy.split()[5:8] == ["5.89", "min", "-"]


def test_whose_bytes_they_are_is_said(lines: list[str]) -> None:
    """Those of one device, or of all of them."""
    assert any(line.startswith("leaves the device ") for line in lines)
    assert not any("together" in line for line in lines)
    found = printed(replace(comparison(replace(WIDE, leaves=KINDS)), num_devices=100_000))
    assert any(line.startswith("leaves 100,000 devices ") for line in found)
    assert "Bytes and energy are those of all 100,000 devices together." in found
    assert max(map(len, found)) <= 80


def test_who_misses_the_target_is_named_where_lines_are() -> None:
    """Above all others, under a heading of their own, and in no line's colour."""
    missing = replace(WIDE, method="mobillm", num_met=0, time_to_target_s=None)
    seconds = {"pae-mobillm": 10.0, "mobillm": math.inf}
    rates = (AtRate(1e6, seconds), AtRate(1e8, seconds))
    with drawn_comparison(replace(comparison(WIDE, missing), rates=rates)) as page:
        words = {text.get_text(): text for text in page.figure.axes[0].texts}
    assert list(words) == ["pae-mobillm", "not met by", "mobillm"]
    assert words["mobillm"].get_position()[1] == 1
    assert words["mobillm"].get_color() == words["not met by"].get_color() == GREY


def test_the_heading_says_what_is_timed() -> None:
    """To the target, or the whole run: methods with rounds see other samples."""
    found = comparison(WIDE)
    assert heading(found) == "time to accuracy 0.9 in validation against the uplink"
    assert heading(replace(found, timed_by="makespan")).startswith("time of the whole run")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=16))
def test_names_keep_their_order_and_their_distance(places: list[float]) -> None:
    """Within the axis, at least the gap apart, and where they were if nothing is in the way."""
    at = {str(number): place for number, place in enumerate(places)}
    found = list(apart(at, 0.06).items())
    assert [name for name, _ in found] == sorted(at, key=lambda name: at[name])
    assert all(b - a > 0.06 - 1e-9 for (_, a), (_, b) in pairwise(found))
    assert all(-1e-9 < place < 1 + 1e-9 for _, place in found)
    alone = {"low": 0.2, "high": 0.8}
    assert apart(alone, 0.06) == pytest.approx(alone)
