"""When learning ends a run."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow.parquet as pq
from tasks import write_task

import mobisim
from mobisim.scenario.schema import Metric, Target
from mobisim.stopping import Stop

NAN = math.nan


def after(
    *metrics: float,
    target: float | None = None,
    patience: int | None = None,
    metric: Metric = "accuracy",
) -> int | None:
    """After how many steps a run ends."""
    goal = None if target is None else Target(metric=metric, value=target)
    return Stop(goal, patience, metric).after(metrics)


def test_a_target_ends_a_run_where_it_is_first_met() -> None:
    """At the step of that evaluation; steps without one count as steps."""
    assert after(0.5, NAN, 0.9, 0.95, target=0.9) == 3
    assert after(0.5, NAN, 0.8, target=0.9) is None


def test_patience_ends_after_so_many_that_are_no_better() -> None:
    """Than the best before them, which starts the count anew; equal is not better."""
    assert after(0.5, 0.6, 0.55, 0.6, 0.59, patience=3) == 5
    assert after(0.5, NAN, 0.4, NAN, NAN, 0.3, patience=2) == 6
    assert after(0.5, 0.4, 0.6, 0.5, 0.7, patience=2) is None


def test_lower_is_better_for_losses() -> None:
    """A loss that falls goes on."""
    assert after(1.0, 0.9, 0.8, 0.85, patience=1, metric="loss") == 4


def test_whichever_comes_first() -> None:
    """Target and patience together."""
    assert after(0.5, 0.4, 0.9, target=0.9, patience=1) == 2
    assert after(0.5, 0.9, 0.4, target=0.9, patience=1) == 2


def test_a_run_ends_where_it_gets_no_better(tmp_path: Path) -> None:
    """And is a prefix of the one that goes on."""
    task = write_task(tmp_path, train=96, dev=64)
    overrides = [f"training.task={task}", "training.epochs=3", "training.evaluate_every=1"]
    runs = {
        name: mobisim.run(
            mobisim.load("wifi_5mbps", [*overrides, *more]),
            mobisim.Options(plots=False, out=tmp_path / name),
        )
        for name, more in {"whole": [], "short": ["training.patience=2"]}.items()
    }
    whole, short = (
        pq.read_table(run.path / "steps.parquet").column("metric").to_pylist()
        for run in runs.values()
    )
    assert Stop(None, 2, "accuracy").after(whole) == len(short) < len(whole)
    assert short == whole[: len(short)]
    assert runs["short"].summary.ended_by == "plateau"
