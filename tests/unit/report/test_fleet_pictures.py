"""Pictures of fleets: what devices waited for, and where a server is saturated."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest
from worlds import columns_of, device, failing, random_world, stated, without_horizon, world_of

from mobisim import Options, run
from mobisim.errors import InputError
from mobisim.report.fairness import draw_fairness, spreads
from mobisim.report.kinds import plot
from mobisim.report.results import write_json
from mobisim.report.saturation import Spot, knee
from mobisim.report.series import Series
from mobisim.report.stragglers import DelaysFold, make_bars
from mobisim.report.sweep_table import Row, Sweep, Varied
from mobisim.span import STEP
from mobisim.world import World


def last_steps(world: World) -> np.ndarray:
    """When each device's last mini-batch was stepped."""
    columns, found = columns_of(world), np.zeros(world.actors.num_devices)
    steps = columns[(columns.kind == STEP) & ~columns.cut]
    np.maximum.at(found, steps.device, steps.end)
    return found


@pytest.mark.parametrize("seed", range(60))
def test_what_devices_wait_for_adds_up(seed: int) -> None:
    """Work, waits and what follows the last hand-over fill the time up to the last step."""
    choose = Random(seed)
    world = without_horizon(random_world(choose))
    world = failing(choose, world) if seed % 2 else world
    fold = DelaysFold(world.actors)
    columns = columns_of(world)
    fold.add(columns[:20])
    fold.add(columns[20:])
    assert fold.delays.finished == pytest.approx(last_steps(world), rel=1e-9)
    assert (fold.delays.seconds >= 0).all()


def test_a_large_fleet_has_two_bars_for_each_group() -> None:
    """The mean, and the last device; a small fleet has a bar for each, the first through on top."""
    groups = [device(1.0, count=30), device(3.0, count=2)]
    world = world_of(stated(4, *groups, step_s=0.01))
    fold = DelaysFold(world.actors)
    fold.add(columns_of(world))
    bars = make_bars(fold.delays, groups)
    assert [bar.label.partition(" ")[0] for bar in bars] == ["30", "the", "2", "the"]
    assert bars[3].seconds.sum() == fold.delays.finished.max()


def test_the_knee_is_where_work_meets_capacity() -> None:
    """Ten devices make 2 mini-batches a second, the server steps 8: it keeps up with forty."""
    line = [Spot(10, 2.0, 0.25, 0.0), Spot(20, 4.0, 0.5, 0.1), Spot(100, 8.0, 1.0, 9.0)]
    assert knee(line) == pytest.approx(40.0)
    assert knee([Spot(10, 2.0, 0.0, 0.0)]) is None


def test_a_run_has_a_picture_of_its_stragglers(tmp_path: Path) -> None:
    """PNG and SVG from a published run."""
    scenario = stated(4, device(1.0, count=3), device(3.0), step_s=0.3)
    place = run(scenario, Options(plots=False, out=tmp_path / "result")).path
    files = plot([place], "stragglers", tmp_path / "picture")
    assert [file.suffix for file in files] == [".png", ".svg"]
    assert all(file.stat().st_size > 1000 for file in files)


def made(place: Path, seed: int, alpha: float) -> Row:
    """A point of two groups, the second of which learns less."""
    place.mkdir(parents=True)
    scenario = {"devices": [{"count": 3, "backbone": "builtin"}, {"count": 2}]}
    write_json(place / "manifest.json", {"scenario": scenario})
    means = 0.8 + 0.01 * seed, 0.6
    found = {
        f"metric_of_groups[{group}].{name}": mean + by
        for group, mean in enumerate(means)
        for name, by in (("mean", 0.0), ("least", -0.1), ("greatest", 0.05))
    }
    about = {"makespan_s": 1.0, "metric_name": "accuracy", "place": place, "name": "made"}
    return about | found | {"seed": seed, "alpha": alpha}


def test_groups_are_compared_over_seeds(tmp_path: Path) -> None:
    """The mean of means, the extremes of all, a line for whatever else varies; and it is drawn."""
    rows = [made(tmp_path / f"{s}-{a}", s, a) for s in (0, 1) for a in (0.1, 1.0)]
    fields = Varied("seed", "seed", None, (0, 1)), Varied("alpha", "alpha", None, (0.1, 1.0))
    sweep = Sweep("made", fields, 0, tuple(rows))
    found = spreads(Series("", tuple(rows[::2])), 2)
    assert [one.mean for one in found] == pytest.approx([0.805, 0.6])
    assert [one.least for one in found] == pytest.approx([0.7, 0.5])
    assert [one.greatest for one in found] == pytest.approx([0.86, 0.65])
    draw_fairness(sweep, tmp_path / "fairness.png")
    assert (tmp_path / "fairness.png").stat().st_size > 1000


def test_one_device_has_nobody_to_be_compared_with(tmp_path: Path) -> None:
    """Without groups that learn there is no picture."""
    with pytest.raises(InputError, match="no groups of devices"):
        draw_fairness(Sweep("none", (), 0, ()), tmp_path / "fairness.png")
