"""Sweeps end to end: one table, learning paid for once, nothing lost and nothing done twice."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import TOY
from commands import mobisim as command
from pools import AtOnce
from tasks import write_task

import mobisim
from mobisim.report.sweep_table import metrics
from mobisim.scenario import catalog
from mobisim.scenario.document import parse
from mobisim.sweeps.grid import parse_axis
from mobisim.sweeps.plan import plan_sweep
from mobisim.sweeps.run import Swept, sweep
from mobisim.sweeps.work import judge, look, play, train
from mobisim.training.backbone import Backbone

UPLINK = "devices[*].link.uplink=1,5,200 Mbit/s"


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small share of the built-in task."""
    return write_task(tmp_path_factory.mktemp("task"), train=64, dev=32)


def swept(
    place: Path,
    scenario: str,
    axes: Sequence[str],
    overrides: Sequence[str] = (),
    executor: AtOnce | None = None,
    **more: Any,
) -> Swept:
    """A sweep in this process."""
    document = parse(TOY, "toy.yaml") if scenario == "toy" else catalog.scenario(scenario)
    options = mobisim.Options(out=place, train=more.pop("train", True))
    parsed = [parse_axis(text) for text in axes]
    plan = plan_sweep(document, parsed, options, overrides=overrides, **more)
    return sweep(plan, (executor or AtOnce()).pool())


def calls(executor: AtOnce, work: Any) -> int:
    """How often some work was handed out."""
    return sum(call[0] is work for call in executor.calls)


def small(task: Path) -> list[str]:
    """What makes the default scenario small."""
    return [f"training.task={task}", "training.epochs=3", "training.evaluate_every=2"]


def assert_equal_to_runs(found: Swept, at: Path) -> None:
    """Each row of a sweep is that of a run of its own."""
    for number, row in enumerate(found.rows):
        point = found.plan.points[number]
        assert point.scenario is not None
        options = mobisim.Options(plots=False, out=at / str(number))
        alone = mobisim.run(point.scenario, options)
        expected = metrics(alone.summary.model_dump(mode="json"))
        assert {name: row[name] for name in expected} == expected
        there = found.path / "points" / row["digest"]
        for name in ("summary.json", "spans.parquet", "steps.parquet"):
            assert (there / name).read_bytes() == (alone.path / name).read_bytes()


def test_learning_once_equals_training_every_point(task: Path, tmp_path: Path) -> None:
    """Rows, spans and steps, bit for bit: two codecs, links that change hands, stale versions."""
    overrides = [*small(task), "server.profile={kind: fixed, step_s: 3}"]
    axes = [UPLINK, "wire.codec=nf4,int2", "server.workers=1,2"]
    executor = AtOnce()
    found = swept(tmp_path / "s", "wifi_5mbps", axes, overrides, executor)
    assert len(found.rows) == 12
    assert found.num_trajectories == len({row["trajectory"] for row in found.rows}) == 4
    assert calls(executor, train) == 4
    assert_equal_to_runs(found, tmp_path)


def test_ends_at_targets_and_horizons_are_cut_from_one_training(task: Path, tmp_path: Path) -> None:
    """Slow links meet the horizon, fast ones the target; each ends as a run of its own does."""
    target = "training.target={metric: accuracy, value: 2}"
    overrides = [*small(task), target, "training.stop_at_target=true", "horizon=250 s"]
    axes = [UPLINK, "training.target.value=0.2,2"]
    found = swept(tmp_path / "s", "wifi_5mbps", axes, overrides)
    assert found.num_trajectories == 1
    assert {row["ended_by"] for row in found.rows} == {"target", "horizon", "finished"}
    assert_equal_to_runs(found, tmp_path)


def test_held_out_samples_are_read_where_a_run_ends(task: Path, tmp_path: Path) -> None:
    """With a validation split, at every end of one training, as runs of their own do."""
    target = "training.target={metric: accuracy, value: 2}"
    overrides = [*small(task), target, "training.stop_at_target=true", "training.validation=0.25"]
    axes = [UPLINK, "training.target.value=0.2,2"]
    found = swept(tmp_path / "s", "wifi_5mbps", axes, [*overrides, "horizon=130 s"])
    assert found.num_trajectories == 1
    assert {row["ended_by"] for row in found.rows} == {"target", "horizon", "finished"}
    assert_equal_to_runs(found, tmp_path)


def test_held_out_samples_may_wait_for_another_sweep(task: Path, tmp_path: Path) -> None:
    """What was not to be read is not; a sweep that reads it trains nothing again."""
    overrides = [*small(task), "training.validation=0.25"]
    document, axes = catalog.scenario("wifi_5mbps"), [parse_axis("wire.codec=nf4,int2")]
    plan = plan_sweep(document, axes, mobisim.Options(out=tmp_path / "a"), overrides=overrides)
    apart = replace(plan, trajectories=tmp_path / "learned", reads_held_out=False)
    first = sweep(apart, AtOnce().pool())
    assert [row["final_metric"] for row in first.rows] == [None, None]
    assert all(row["validation_metric"] > 0 for row in first.rows)
    options, executor = mobisim.Options(out=tmp_path / "b"), AtOnce()
    second = sweep(replace(apart, options=options, reads_held_out=True), executor.pool())
    assert (calls(executor, train), calls(executor, judge)) == (0, 2)
    assert list((tmp_path / "learned").glob("*/*.safetensors")) == []
    assert_equal_to_runs(second, tmp_path)


def test_the_backbone_runs_once_for_all_codecs(
    task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many forwards as for one codec; nothing of them is left behind."""
    forwards: list[int] = []
    taps = Backbone.taps

    def count(self: Backbone, *arguments: Any) -> Any:
        forwards[-1] += 1
        return taps(self, *arguments)

    monkeypatch.setattr(Backbone, "taps", count)
    for codecs in ("fp16", "fp16,int8,nf4,int2"):
        forwards.append(0)
        found = swept(tmp_path / codecs, "wifi_5mbps", [f"wire.codec={codecs}"], small(task))
        assert found.num_failed == 0
        assert not (found.path / "activations").exists()
    assert forwards[0] == forwards[1] > 0


def test_the_bandwidth_curve_is_the_slowest_stage(tmp_path: Path) -> None:
    """max(f, c(b), s) a mini-batch for one device, after one time through all three."""
    forward, step, num_bytes, batches = 0.4, 0.2, 1_000_000, 5
    axes = ["devices[*].link.uplink=1,2,5,10,25,50,100 Mbit/s", "num_batches=1,5,50"]
    found = swept(tmp_path / "s", "toy", axes, ["devices[0].link.latency=0 s"])
    for row in found.rows:
        carry = num_bytes * 8 / row["devices[*].link.uplink"]
        batches = row["num_batches"]
        expected = forward + carry + step + (batches - 1) * max(forward, carry, step)
        assert row["makespan_s"] == pytest.approx(expected, rel=1e-12)
        slowest = {forward: "device", carry: "uplink", step: "server"}[max(forward, carry, step)]
        assert batches == 1 or row["bottleneck"] == slowest


def test_seeds_share_their_randomness_between_points(tmp_path: Path) -> None:
    """The same seed draws the same forwards on every link, so that only the link differs."""
    forward = "{mean: 0.4 s, distribution: exponential}"
    profile = f"devices[0].profile={{kind: fixed, encode_s: 0.0, forward_s: {forward}}}"
    axes = ["devices[*].link.uplink=100,200 Mbit/s"]
    found = swept(tmp_path / "s", "toy", axes, [profile], num_seeds=3)
    forwards: dict[int, list[list[float]]] = {}
    for row in found.rows:
        spans = pq.read_table(found.path / "points" / row["digest"] / "spans.parquet").to_pylist()
        lasted = [s["end"] - s["start"] for s in spans if s["kind"] == "forward"]
        forwards.setdefault(row["seed"], []).append(lasted)
    assert sorted(forwards) == [0, 1, 2]
    assert all(np.allclose(one, other) for one, other in forwards.values())
    assert not np.allclose(forwards[0][0], forwards[1][0])


def test_failures_of_single_points_are_rows(tmp_path: Path) -> None:
    """With their error; they are tried again, the others are not."""
    overrides = ["num_batches=3", "side_network.taps=[1, 2]", "model=opt-125m"]
    axes = ["side_network.taps=[1],[1, 99]", "devices[*].link.uplink=1,2 Mbit/s"]
    first, second = AtOnce(), AtOnce()
    found = swept(tmp_path / "s", "toy", axes, overrides, first)
    table = (found.path / "table.csv").read_bytes()
    assert [row["error"] is None for row in found.rows] == [True, True, False, False]
    assert found.num_failed == 2
    assert "1 to 12" in found.rows[3]["error"]
    assert calls(first, play) == 2
    again = swept(tmp_path / "s", "toy", axes, overrides, second)
    assert (again.path / "table.csv").read_bytes() == table
    assert (calls(second, look), calls(second, play)) == (4, 0)


def test_a_point_that_does_not_fit_in_memory_is_an_answer(tmp_path: Path) -> None:
    """A row without makespan, and no error."""
    overrides = ["training=null", "num_batches=2", "batch_size=1", "sequence_length=64"]
    found = swept(tmp_path / "s", "wifi_5mbps", ["devices[*].profile.memory=8,1 GiB"], overrides)
    assert [row["ended_by"] for row in found.rows] == ["finished", "memory"]
    assert found.rows[1]["makespan_s"] is None
    assert found.num_failed == 0


def test_equal_points_are_done_once(tmp_path: Path) -> None:
    """Two ways to say the same are two rows of one point."""
    executor = AtOnce()
    axes = ["devices[*].link.uplink=1000 kbit/s,1 Mbit/s"]
    found = swept(tmp_path / "s", "toy", axes, (), executor)
    assert calls(executor, play) == 1
    assert found.rows[0] == found.rows[1]


def test_tables_agree_and_hold_plain_numbers(tmp_path: Path) -> None:
    """Parquet and CSV have the same columns and rows; varied fields come first, in SI units."""
    found = swept(tmp_path / "s", "toy", ["devices[*].link.uplink=1,2.5 Mbit/s", "seed=7,8"])
    table = pq.read_table(found.path / "table.parquet")
    lines = (found.path / "table.csv").read_text("utf-8").splitlines()
    assert lines[0].split(",") == table.column_names
    assert table.column_names[:2] == ["devices[*].link.uplink", "seed"]
    assert table.column("devices[*].link.uplink").to_pylist() == [1e6, 1e6, 2.5e6, 2.5e6]
    assert len(lines) == 1 + table.num_rows == 5
    assert "utilisation.uplink" in table.column_names
    about = json.loads((found.path / "sweep.json").read_text("utf-8"))
    assert [axis["unit"] for axis in about["axes"]] == ["bit/s", None]


def test_another_sweep_is_never_overwritten(tmp_path: Path) -> None:
    """Nor is anything else."""
    swept(tmp_path / "s", "toy", ["seed=1,2"])
    with pytest.raises(mobisim.InputError, match="something else"):
        swept(tmp_path / "s", "toy", ["seed=1,2,3"])


def test_two_at_work_on_one_sweep_are_refused(tmp_path: Path) -> None:
    """The second says so, and the first goes on."""

    class Meanwhile(AtOnce):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            if args[0] is play and not refused:
                refused.append(True)
                with pytest.raises(mobisim.InputError, match="another process is at work"):
                    swept(tmp_path / "s", "toy", ["seed=1,2"])
            return super().submit(fn, *args, **kwargs)

    refused: list[bool] = []
    assert swept(tmp_path / "s", "toy", ["seed=1,2"], (), Meanwhile()).num_failed == 0
    assert refused


def test_the_command_says_what_it_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row per point, counts, and where the table is."""
    monkeypatch.chdir(tmp_path)
    Path("toy.yaml").write_text(TOY, "utf-8")
    ran = command(capsys, "sweep", "toy.yaml", "--vary", "devices[*].link.uplink=1,50 Mbit/s",
                  "--seeds", "2", "--jobs", "1")  # fmt: skip
    assert ran.code == 0, ran.err
    assert "4 points" in ran.out
    assert "50 Mbit/s" in ran.out
    (folder,) = Path("results/toy").iterdir()
    assert f"results/toy/{folder.name}" in ran.out
    assert {p.name for p in folder.iterdir()} == {
        ".lock", "sweep.json", "table.csv", "table.parquet", "points",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--vary", "devices[*].link.uplnk=1,2 Mbit/s"], "did you mean 'uplink'"),
        ([], "--vary or --seeds"),
        (["--seeds", "2", "--vary", "seed=1,2"], "varied twice"),
    ],
)
def test_bad_commands_end_with_what_to_do(
    words: list[str], says: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """And leave nothing behind."""
    monkeypatch.chdir(tmp_path)
    Path("toy.yaml").write_text(TOY, "utf-8")
    ran = command(capsys, "sweep", "toy.yaml", *words)
    assert ran.code == 2
    assert says in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["toy.yaml"]


def test_a_scheduler_that_is_not_there_leaves_what_was_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table of the earlier call is as it was."""
    pytest.importorskip("distributed")
    monkeypatch.setattr("mobisim.sweeps.pools.CONNECT_TIMEOUT_S", 0.2)
    found = swept(tmp_path / "s", "toy", ["seed=1,2"])
    before = {p: p.read_bytes() for p in found.path.rglob("*") if p.is_file()}
    scenario = tmp_path / "toy.yaml"
    scenario.write_text(TOY, "utf-8")
    ran = command(capsys, "sweep", scenario, "--vary", "seed=1,2", "--out", found.path,
                  "--scheduler", "tcp://127.0.0.1:1")  # fmt: skip
    assert ran.code == 2
    assert "no Dask scheduler answers" in ran.err
    assert {p: p.read_bytes() for p in found.path.rglob("*") if p.is_file()} == before


def test_interrupted_training_loses_no_step(task: Path, tmp_path: Path) -> None:
    """A trajectory's losses are the same whichever point of it is asked for first."""
    one = swept(tmp_path / "one", "wifi_5mbps", [UPLINK], small(task))
    history = next((one.path / "trajectories").glob("*.json"))
    kept = json.loads(history.read_text("utf-8"))
    assert len(kept["loss"]) == 12
    assert all(math.isfinite(loss) for loss in kept["loss"])
    executor = AtOnce()
    (one.path / "points" / one.rows[0]["digest"]).rename(tmp_path / "lost")
    again = swept(tmp_path / "one", "wifi_5mbps", [UPLINK], small(task), executor)
    assert (calls(executor, train), calls(executor, play)) == (0, 1)
    assert again.rows == one.rows
