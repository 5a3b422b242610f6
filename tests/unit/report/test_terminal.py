"""The terminal summary answers first, fits its terminal and survives what is missing."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mobisim.report.terminal import print_summary

Summary = dict[str, Any]

NOTHING: Summary = {
    "makespan_s": None,
    "num_steps": 0,
    "uplink_bytes": 0,
    "uplink_payload_bytes": 0,
    "downlink_bytes": 0,
    "time_to_target_s": None,
    "initial_metric": None,
    "final_metric": None,
    "bottleneck": None,
    "blame_s": None,
    "step_breakdown_s": None,
    "utilisation": {},
    "energy_j": None,
    "energy_parts_j": None,
}


def _printed(summary: Summary, width: int = 80, **more: Any) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    print_summary(summary, console, **more)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _sentences(text: str) -> str:
    return " ".join(text.split())


def test_answer_comes_first(summary: Summary) -> None:
    """The first sentence names what sets the pace and by how much."""
    lines = [line for line in _printed(summary).splitlines() if line.strip()]
    assert lines[1] == "The uplink sets the pace: 94 % of the critical path, latency included."


def test_bottleneck_is_the_summary_s(summary: Summary) -> None:
    """The named part follows the summary, not a habit."""
    blame = {"device": 30.0, "uplink": 8.0, "latency": 0.0, "server": 2.0, "downlink": 0.0}
    text = _printed(summary | {"bottleneck": "device", "blame_s": blame, "makespan_s": 40.0})
    assert "The device sets the pace: 75 % of the critical path." in text


def test_what_if_stays_within_the_blame(summary: Summary) -> None:
    """A part twice as fast saves half of its blame at most."""
    blame = {"device": 2.0, "uplink": 8.0, "latency": 0.0, "server": 0.0, "downlink": 0.0}
    busy = {"device-0": 0.2, "uplink-0": 0.8}
    text = _printed(summary | {"makespan_s": 10.0, "blame_s": blame, "utilisation": busy})
    assert "save at most 4 s (40 %)" in text
    assert "2 s remain: device-0 is busy that long" in text


def test_what_if_stays_within_the_next_busiest(summary: Summary) -> None:
    """What another actor works anyway cannot be saved, however large the blame."""
    blame = {"device": 2.0, "uplink": 8.0, "latency": 0.0, "server": 0.0, "downlink": 0.0}
    busy = {"uplink-0": 0.8, "server/worker-0": 0.9}
    text = _printed(summary | {"makespan_s": 10.0, "blame_s": blame, "utilisation": busy})
    assert "save at most 1 s (10 %)" in text
    assert "9 s remain: server/worker-0" in text


@pytest.mark.parametrize(
    ("rate", "words"), [(2 / 3, "67 % of the samples"), (0.0, "0 % of the samples")]
)
def test_cache_says_how_many_samples_it_had(summary: Summary, rate: float, words: str) -> None:
    """The hit rate where the server keeps samples, none included."""
    lines = _printed(summary | {"cache_hit_rate": rate}).splitlines()
    assert [line.split() for line in lines if "cache hits" in line] == [
        ["cache", "hits", *words.split()]
    ]


def test_no_cache_has_no_hits(summary: Summary) -> None:
    """Where nothing is kept there is no rate to tell."""
    assert "cache hits" not in _printed(summary | {"cache_hit_rate": None})


def test_latency_is_told_from_rate(summary: Summary) -> None:
    """Latency counts to the link's share, and the summary says that no rate shortens it."""
    blame = {"device": 1.0, "uplink": 2.0, "latency": 7.0, "server": 0.0, "downlink": 0.0}
    text = _printed(summary | {"makespan_s": 10.0, "blame_s": blame})
    assert "The uplink sets the pace: 90 % of the critical path, latency included." in text
    assert "save at most 1 s" in text
    assert "70 % is latency" in text


@pytest.mark.parametrize("width", [80, 120])
def test_lines_fit(summary: Summary, width: int) -> None:
    """No line is wider than the terminal, whatever the names are."""
    long = {
        "name": "n" * 60,
        "model": "organisation/model-with-a-rather-long-name-1.5b",
        "extrapolated": ["forward of 262144 tokens on jetson-xavier-nx (measured up to 8192)"],
        "warnings": ["word " * 40],
        "utilisation": {f"server/worker-{n}": 0.5 for n in range(1000)},
    }
    text = _printed(summary | long, width, result_dir=Path("results") / ("r" * 200))
    assert max(map(len, text.splitlines())) <= width


def test_memory_comes_first_where_it_does_not_fit(summary: Summary) -> None:
    """A run that does not fit says so before anything else, and by how much."""
    short: Summary = {
        "ended_by": "memory",
        "device_fits": False,
        "device_peak_bytes": 9_640_000_000,
        "device_capacity_bytes": 8_140_000_000,
        "device_short_bytes": 1_500_000_000,
    }
    text = _printed(summary | NOTHING | short)
    lines = [line for line in text.splitlines() if line.strip()]
    assert lines[1] == "It does not fit: the device is 1.5 GB short of memory."
    assert lines[2] == "It needs 9.64 GB and has 8.14 GB."
    assert "not met" not in text


def test_both_sides_that_do_not_fit_are_named(summary: Summary) -> None:
    """Device and server are judged each by its own."""
    short = {
        "ended_by": "memory",
        "device_fits": False,
        "device_capacity_bytes": 1_000_000_000,
        "server_fits": False,
        "server_capacity_bytes": 800_000_000,
    }
    text = _printed(summary | NOTHING | short)
    assert "the device is 270 MB short" in text
    assert "the server is 100 MB short" in text


def test_run_that_goes_on_regardless_still_warns(summary: Summary) -> None:
    """Where memory was ignored, the memory section says what is short."""
    short = {"device_fits": False, "device_capacity_bytes": 1_000_000_000}
    assert "does not fit: 1.27 GB of 1 GB, 270 MB short" in _printed(summary | short)


def test_horizon_is_said(summary: Summary) -> None:
    """A run that was cut says so and promises no savings."""
    text = _printed(summary | {"ended_by": "horizon"})
    assert "The horizon cut the run" in text
    assert "save at most" not in text


@pytest.mark.parametrize("ended_by", ["finished", "horizon", "target", "memory"])
def test_missing_values_do_not_matter(summary: Summary, ended_by: str) -> None:
    """Every value that may be null may be."""
    kept = ("name", "digest", "seed", "ended_by", "num_batches", "num_steps")
    empty = {key: value if key in kept else None for key, value in summary.items()}
    assert "toy_pipeline" in _printed(empty | {"ended_by": ended_by})
    assert "None" not in _printed(empty | {"ended_by": ended_by, "stand_in": None})


def test_target_is_reported(summary: Summary) -> None:
    """Time to target where it was met, and that it was not where it was not."""
    assert "accuracy 0.9 met after 30 s" in _printed(summary | {"time_to_target_s": 30.0})
    assert "accuracy 0.9 not met" in _printed(summary | {"time_to_target_s": None})


def test_stand_in_is_said(summary: Summary) -> None:
    """What was trained in place of what was timed is named."""
    assert "trained: builtin stand-in, timed: opt-350m" in _printed(summary)
    assert "stand-in" not in _printed(summary | {"stand_in": None})


def test_trust_names_what_is_assumed_and_outside(summary: Summary) -> None:
    """The sorts of values are counted, and shapes outside what was measured are listed."""
    text = _printed(summary | {"extrapolated": ["forward of 9000 tokens on pixel-8"]})
    assert "25 values: 4 measured, 9 published, 7 assumed, 5 stated" in text
    assert "outside what was measured: forward of 9000 tokens on pixel-8" in _sentences(text)


@pytest.mark.parametrize(("fraction", "said"), [(0.61, True), (0.05, False), (None, False)])
def test_padding_is_warned_of(summary: Summary, fraction: float | None, *, said: bool) -> None:
    """Padding is worth a warning where it is large."""
    text = _printed(summary | {"padding_fraction": fraction})
    assert ("tokens sent are padding" in text) is said


def test_padding_is_said_once(summary: Summary) -> None:
    """A summary that already warns of padding is not repeated."""
    text = _printed(summary | {"warnings": ["61 % of tokens are padding; try longest"]})
    assert text.count("padding") == 1


def test_many_actors_of_a_role_are_summed_up(summary: Summary) -> None:
    """Ten devices are one line with their mean and spread; a lone worker keeps its name."""
    busy = {f"device-{n}": n / 20 for n in range(1, 11)} | {"server/worker-0": 0.9}
    text = _printed(summary | {"utilisation": busy})
    assert "10 devices" in text
    assert "from 5 % to 50 %" in text
    assert "server/worker-0" in text


def test_place_of_the_files_is_told(summary: Summary) -> None:
    """The directory of the result stands at the end."""
    text = _printed(summary, result_dir=Path("results/toy/3f2a"))
    assert text.rstrip().endswith("results/toy/3f2a")


def test_colour_only_adds(summary: Summary) -> None:
    """A terminal with colour shows the words that a file shows."""
    file = io.StringIO()
    print_summary(summary, Console(file=file, width=80, force_terminal=True, no_color=True))
    plain = _sentences(_printed(summary))
    assert "The uplink sets the pace" in file.getvalue()
    assert "\x1b" not in plain


def test_ascii_terminals_are_served(summary: Summary) -> None:
    """Where the output knows only ASCII, nothing else is written."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    print_summary(summary, Console(file=file, width=80))
    file.flush()
    assert "The uplink sets the pace" in raw.getvalue().decode("ascii")
    assert "##" in raw.getvalue().decode("ascii")


def test_import_stays_light() -> None:
    """The terminal summary needs neither matplotlib nor pandas nor pyarrow."""
    heavy = "{'matplotlib', 'pandas', 'pyarrow', 'torch'}"
    code = f"import sys, mobisim.report.terminal; sys.exit(str({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "set()"


def test_timing_only_says_nothing_of_quality(summary: Summary) -> None:
    """A target that nobody trained for was not missed."""
    untrained = {"final_metric": None, "time_to_target_s": None, "stand_in": None}
    assert "quality" not in _printed(summary | untrained)


@pytest.mark.parametrize(("joules", "words"), [(412.0, "412 J"), (36_000.0, "10 Wh")])
def test_energy_has_one_unit(summary: Summary, joules: float, words: str) -> None:
    """The parts are told in the unit of the whole."""
    text = _printed(summary | {"energy_j": joules, "energy_parts_j": {"idle": joules}})
    assert _sentences(text).count(words) == 2
