"""Trace files: found beside the scenario, read by their columns, refused by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobisim.errors import InputError
from mobisim.scenario.load import load, loads
from mobisim.scenario.profiles import TraceLink
from mobisim.scenario.provenance import origins
from mobisim.scenario.schema import Scenario
from mobisim.scenario.traces import OpportunityTrace, RateTrace

SCENARIO = """\
# A question
name: own
wire: {payload_bytes: 1000}
num_batches: 3
deliver: none
devices:
  - profile: {kind: fixed, forward_s: 0.4, encode_s: 0}
    link:
      kind: trace
      uplink: up.csv
      downlink: 40 Mbit/s
      latency: 20 ms
      overhead_bytes: 0
server: {profile: {kind: fixed, step_s: 0.2}}
"""
GOOD = "t_s,mbps\n0,5\n1,0\n2.5,10\n"


def own(folder: Path, content: str = GOOD, name: str = "up.csv") -> Path:
    """A scenario with a trace beside it."""
    (folder / name).write_text(content, encoding="utf-8")
    path = folder / "own.yaml"
    path.write_text(SCENARIO.replace("up.csv", name), encoding="utf-8")
    return path


def link_of(scenario: Scenario) -> TraceLink:
    """The link of the first group."""
    link = scenario.devices[0].link
    assert isinstance(link, TraceLink)
    return link


def test_a_csv_is_read_by_its_columns(tmp_path: Path) -> None:
    """Times in seconds and rates in bit/s, whatever the file's units and order of columns."""
    trace = link_of(load(str(own(tmp_path)))).uplink.value
    assert isinstance(trace, RateTrace)
    assert (trace.time_s, trace.bit_per_s) == ((0.0, 1.0, 2.5), (5e6, 0.0, 10e6))
    assert trace.period_s == 4.0
    assert trace.mean_bits_per_s == pytest.approx(5e6)
    swapped = own(tmp_path, "kbps,time_ms\n5000,0\n0,1000\n10000,2500\n")
    again = link_of(load(str(swapped))).uplink.value
    assert isinstance(again, RateTrace)
    assert again.time_s == pytest.approx(trace.time_s)
    assert again.bit_per_s == trace.bit_per_s


def test_any_other_file_is_read_as_mahimahi_writes_it(tmp_path: Path) -> None:
    """Each line is the millisecond of 1,500 bytes, the last one the period."""
    trace = link_of(load(str(own(tmp_path, "1\n2\n2\n4\n", "lte.up")))).uplink.value
    assert isinstance(trace, OpportunityTrace)
    assert (trace.ms, trace.period_s) == ((1, 2, 2, 4), 0.004)
    assert trace.mean_bits_per_s == pytest.approx(12e6)


def test_a_link_may_change_hands_between_rate_and_trace(tmp_path: Path) -> None:
    """Overrides set a rate, another file, or a field of the link, as on any link."""
    path = str(own(tmp_path))
    (tmp_path / "other.up").write_text("5\n10\n", encoding="utf-8")
    at = "devices[0].link"
    assert link_of(load(path, [f"{at}.uplink=7 Mbit/s"])).uplink.value == 7e6
    other = link_of(load(path, [f"{at}.uplink={tmp_path}/other.up"])).uplink.value
    assert isinstance(other, OpportunityTrace)
    assert link_of(load(path, [f"{at}.offset=random"])).offset == "random"
    with pytest.raises(InputError, match="did you mean 'uplink'"):
        load(path, [f"{at}.uplnk=7 Mbit/s"])


def test_a_scenario_carries_its_trace(tmp_path: Path) -> None:
    """What is written of a scenario reads back without the file, and the digest covers it."""
    link = "devices[0].link"
    outages = "{up: {mean: 60 s, distribution: exponential}, down: 5 s}"
    varied = [f"{link}.tcp={{loss: 0.01}}", f"{link}.outages={outages}", f"{link}.offset=3 s"]
    scenario = load(str(own(tmp_path)), varied)
    assert loads(scenario.model_dump_json()) == scenario
    (named,) = [o for o in origins(scenario) if o.path == "devices[0].link.uplink"]
    assert named.value == "up.csv: 5 Mbit/s over 4 s"


BROKEN = {
    "backwards": ("t_s,mbps\n0,5\n2,5\n1,5\n", "up.csv:4", "time goes backwards"),
    "standing still": ("t_s,mbps\n0,5\n0,5\n", "up.csv:3", "time goes backwards"),
    "empty": ("", "up.csv:1", "the file is empty"),
    "no rows": ("t_s,mbps\n", "up.csv:2", "too short"),
    "one row": ("t_s,mbps\n0,5\n", "up.csv:3", "at least two rows"),
    "nan": ("t_s,mbps\n0,5\n1,nan\n2,5\n", "up.csv:3", "no rate"),
    "infinite time": ("t_s,mbps\n0,5\ninf,5\n", "up.csv:3", "no time"),
    "negative": ("t_s,mbps\n0,-5\n1,5\n", "up.csv:2", "at least zero"),
    "zero": ("t_s,mbps\n0,0\n1,0\n2,0\n", "up.csv:4", "zero throughout"),
    "words": ("t_s,mbps\n0,5\n1,fast\n", "up.csv:3", "no number"),
    "cells": ("t_s,mbps\n0,5\n1\n", "up.csv:3", "number of cells"),
    "unit": ("t_s,mbpss\n0,5\n1,5\n", "up.csv:1", "mbit_per_s, mbps"),
    "header": ("0,5\n1,5\n", "up.csv:1", "does not name"),
    "mahimahi backwards": ("1\n3\n2\n", "lte.up:3", "time goes backwards"),
    "mahimahi empty": ("", "lte.up:1", "empty"),
    "mahimahi zero": ("0\n0\n", "lte.up:2", "no length"),
    "mahimahi words": ("1\n2.5\n", "lte.up:2", "whole number of milliseconds"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_trace_names_its_line(tmp_path: Path, case: str) -> None:
    """File, line, what is wrong, and what was expected."""
    content, where, wrong = BROKEN[case]
    with pytest.raises(InputError) as error:
        load(str(own(tmp_path, content, where.partition(":")[0])))
    assert where in str(error.value).splitlines()[0]
    assert wrong in str(error.value)


WRONG = {
    "devices[0].link.uplink=gone.csv": "no such trace file",
    "devices[0].link.uplink=5 Mbits/s": "did you mean",
    "devices[0].link.uplink={format: csv, time_s: [0, 1], bit_per_s: [0, 0]}": "zero throughout",
    "devices[0].link.uplink={format: csv, time_s: [0], bit_per_s: [0, 0]}": "as many rates",
    "devices[0].link.uplink={format: mahimahi, ms: [3, 1]}": "backwards",
    "devices[0].link.kind=traces": "did you mean 'trace'",
    "devices[0].link.outages={up: 1 s}": "windows: [[start, end], ...], or up and down",
    "devices[0].link.outages={windows: [[2 s, 1 s]]}": "ascending order",
    "devices[0].link.outages={windows: [[0 s, 2 s], [1 s, 3 s]]}": "ascending order",
    "devices[0].link.tcp={loss: 1.5}": "below 1",
    "devices[0].link.tcp={slowstart: false}": "did you mean 'slow_start'",
}


@pytest.mark.parametrize("override", WRONG)
def test_a_wrong_link_says_what_was_expected(tmp_path: Path, override: str) -> None:
    """Links that vary are refused as clearly as any."""
    with pytest.raises(InputError) as error:
        load(str(own(tmp_path)), [override])
    assert WRONG[override] in str(error.value)


def test_tcp_needs_a_round_trip(tmp_path: Path) -> None:
    """Without latency its rounds would take no time and its limits would be infinite."""
    overrides = ["devices[0].link.latency=0", "devices[0].link.tcp={}"]
    with pytest.raises(InputError, match="latency above zero"):
        load(str(own(tmp_path)), overrides)


def test_mahimahi_takes_no_limit(tmp_path: Path) -> None:
    """Window and loss limit rates; opportunities have none."""
    path = str(own(tmp_path, "1\n2\n", "lte.up"))
    with pytest.raises(InputError, match="expected: a CSV"):
        load(path, ["devices[0].link.tcp={loss: 0.01}"])
