"""The pictures of sweeps: what they compute, and that each is drawn, the same every time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mobisim.errors import InputError
from mobisim.report.bandwidth import Spot, crossings, floor, spots
from mobisim.report.frontier import Mark, frontier
from mobisim.report.kinds import KINDS, plot
from mobisim.report.results import write_json
from mobisim.report.series import bandwidth, by, graded, ordered, others, style
from mobisim.report.sweep_table import Row, Sweep, Varied, read_all, read_sweep

UPLINK = Varied("devices[*].link.uplink", "uplink", "bit/s", (1e6, 2e6, 4e6, 8e6))
CODEC = Varied("wire.codec", "codec", None, ("fp16", "nf4"))
SEED = Varied("seed", "seed", None, (0, 1))
FORWARD, STEPS, BYTES = 2.0, 100, {"fp16": 1e6, "nf4": 2.5e5}


def row(rate: float, codec: str, seed: int, place: Path) -> Row:
    """A point of one device: the slower of forward and transfer sets the pace."""
    carry = BYTES[codec] * 8 / rate
    pace = max(FORWARD, carry)
    makespan = STEPS * pace
    met = codec == "fp16" or rate > 1e6
    return {
        UPLINK.path: rate,
        "wire.codec": codec,
        "seed": seed,
        "digest": f"{codec}-{rate:g}-{seed}",
        "place": place,
        "name": "made",
        "makespan_s": makespan,
        "target.metric": "accuracy",
        "target.value": 0.8,
        "time_to_target_s": makespan * (0.5 + 0.1 * seed) if met else None,
        "metric_name": "accuracy",
        "initial_metric": 0.5,
        "final_metric": {"fp16": 0.9, "nf4": 0.85}[codec] + 0.01 * seed,
        "bottleneck": "uplink" if carry > FORWARD else "device",
        "utilisation.device": STEPS * FORWARD / makespan,
        "utilisation.uplink": STEPS * carry / makespan,
        "step_breakdown_s.forward": FORWARD,
        "step_breakdown_s.transfer": carry,
        "step_breakdown_s.step": 0.1,
        "error": None,
    }


@pytest.fixture
def made(tmp_path: Path) -> Sweep:
    """A sweep of four bandwidths, two codecs and two seeds."""
    rows = []
    for rate in UPLINK.values:
        for codec in CODEC.values:
            for seed in SEED.values:
                point = row(rate, codec, seed, tmp_path / f"{codec}-{rate:g}-{seed}")
                point["place"].mkdir()
                ends = [point["makespan_s"] * share for share in (0.25, 0.5, 1.0)]
                metric = [0.6, None, point["final_metric"]]
                table = pa.table({"end": ends, "loss": [0.7, 0.6, 0.5], "metric": metric})
                pq.write_table(table, point["place"] / "steps.parquet")
                rows.append(point)
    return Sweep("made", (UPLINK, CODEC, SEED), 2, tuple(rows))


def test_lines_run_along_the_bandwidth(made: Sweep) -> None:
    """What else varies tells lines apart; seeds are one line."""
    assert bandwidth(made) == ordered(made) == UPLINK
    assert others(made, UPLINK) == [CODEC]
    assert [(s.label, len(s.rows)) for s in by(made.rows, [CODEC])] == [("fp16", 8), ("nf4", 8)]


def test_spots_are_means_with_ranges_over_seeds(made: Sweep) -> None:
    """From low to high bandwidth; where a seed misses the target there is none."""
    fp16, nf4 = by(made.rows, [CODEC])
    line = spots(fp16, UPLINK, "time_to_target_s")
    assert [spot.rate for spot in line] == [1e6, 2e6, 4e6, 8e6]
    first = line[0]
    assert (first.least, first.most) == (400.0, 480.0)
    assert first.mean == pytest.approx(440.0)
    assert [spot.rate for spot in spots(nf4, UPLINK, "time_to_target_s")] == [2e6, 4e6, 8e6]


def test_the_bottleneck_changes_hands_where_both_are_equally_busy(made: Sweep) -> None:
    """A transfer of fp16 takes as long as a forward at 4 Mbit/s, whatever the grid."""
    fp16, nf4 = (spots(s, UPLINK, "makespan_s") for s in by(made.rows, [CODEC]))
    (one,) = crossings([spot for spot in fp16 if spot.rate != 4e6])
    assert one.rate == pytest.approx(4e6)
    assert one.time == pytest.approx(STEPS * FORWARD)
    assert (one.before, one.after) == ("uplink", "device")
    assert crossings(nf4) == []


def test_the_floor_is_what_the_others_need(made: Sweep) -> None:
    """Also where no bandwidth of the grid reaches it."""
    line = spots(by(made.rows, [CODEC])[0], UPLINK, "makespan_s")
    assert floor(line) == pytest.approx(STEPS * FORWARD)
    assert floor(line[:2]) == pytest.approx(STEPS * FORWARD)


def test_a_crossing_without_utilisation_lies_between() -> None:
    """Nothing better is known of it."""
    low = Spot(1e6, 10.0, 10.0, 10.0, 0.0, 0.0, "uplink")
    high = Spot(4e6, 5.0, 5.0, 5.0, 0.0, 0.0, "server")
    assert crossings([low, high])[0].rate == pytest.approx(2e6)


def test_the_frontier_is_beaten_by_nobody() -> None:
    """Slower and no better is not on it, nor is what misses the target; losses count downwards."""
    marks = [mark(1, 0.6), mark(2, 0.5), mark(3, 0.7), mark(3, 0.9), mark(0.5, 0.99, met=False)]
    assert [(m.time, m.quality) for m in frontier(marks)] == [(1, 0.6), (3, 0.9)]
    assert [(m.time, m.quality) for m in frontier(marks, -1)] == [(1, 0.6), (2, 0.5)]


def mark(time: float, quality: float, *, met: bool = True) -> Mark:
    """A mark without spread."""
    return Mark("", time, quality, (time, time), (quality, quality), met)


@pytest.mark.parametrize("kind", ["convergence", "bandwidth", "breakdown", "frontier"])
@pytest.mark.parametrize("ending", [".png", ".svg"])
def test_pictures_are_the_same_every_time(
    kind: str, ending: str, made: Sweep, tmp_path: Path
) -> None:
    """To the last byte."""
    files = [tmp_path / f"{number}{ending}" for number in range(2)]
    for file in files:
        KINDS[kind](made, file)
    first, second = (file.read_bytes() for file in files)
    assert first == second
    assert len(first) > 5_000


@pytest.mark.parametrize(
    ("kind", "says"),
    [("bandwidth", "no bandwidth"), ("convergence", "nothing was trained"),
     ("frontier", "nothing was trained"), ("breakdown", "do not make"), ("timeline", "one run")],
)  # fmt: skip
def test_what_cannot_be_drawn_is_said(kind: str, says: str, tmp_path: Path) -> None:
    """With nothing written."""
    with pytest.raises(InputError, match=says):
        KINDS[kind](Sweep("empty", (CODEC,), 0, ()), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_too_many_lines_are_refused(made: Sweep, tmp_path: Path) -> None:
    """With how many there may be."""
    rows = tuple(made.rows[0] | {UPLINK.path: float(rate)} for rate in range(1, 60))
    with pytest.raises(InputError, match="at most 16"):
        KINDS["convergence"](Sweep("many", (UPLINK,), 1, rows), tmp_path / "a.png")


def test_lines_differ_in_grey() -> None:
    """By dashes and marks; those of an order get lighter, too."""
    looks = [style(number) for number in range(8)]
    assert len({(str(look.dashes), look.mark) for look in looks}) == 8
    blues = [int(graded(number, 9).colour[5:], 16) for number in range(9)]
    assert blues == sorted(blues)
    assert len({str(graded(number, 8).dashes) for number in range(8)}) == 8


def write(folder: Path, rows: list[dict[str, Any]]) -> None:
    """The files of a sweep."""
    folder.mkdir()
    axes = [{"path": CODEC.path, "unit": None, "values": list(CODEC.values)}]
    about = {"name": "made", "command": "mobisim sweep", "num_trajectories": 1, "axes": axes}
    write_json(folder / "sweep.json", about)
    if rows:
        pq.write_table(pa.Table.from_pylist(rows), folder / "table.parquet")


def test_several_results_are_told_apart(made: Sweep, tmp_path: Path) -> None:
    """By a field of their own."""
    rows = [{k: v for k, v in r.items() if k != "place"} for r in made.rows[:2]]
    for name in ("one", "two"):
        write(tmp_path / name, rows)
    found = read_all([tmp_path / "one", tmp_path / "two"])
    assert [field.name for field in found.varied] == ["result", "codec"]
    assert len({found_row["result"] for found_row in found.rows}) == 2
    assert len(found.rows) == 4


def test_an_unfinished_sweep_says_how_to_go_on(tmp_path: Path) -> None:
    """And a folder without any says what was expected."""
    write(tmp_path / "s", [])
    with pytest.raises(InputError, match="not finished"):
        read_sweep(tmp_path / "s")
    with pytest.raises(InputError, match="no result here"):
        plot([tmp_path], "bandwidth", tmp_path / "out" / "picture")
    assert not (tmp_path / "out").exists()


def test_values_are_shown_as_people_say_them() -> None:
    """Rates and times with their prefixes, others with their unit."""
    assert UPLINK.shown(2.5e6) == "2.5 Mbit/s"
    assert CODEC.shown("nf4") == "nf4"
    assert Varied("a.power", "power", "W", (15.0,)).shown(15.0) == "15 W"
    assert Varied("a.n", "n", None, (3,)).shown(3) == "3"
    assert math.isfinite(UPLINK.values[0])
