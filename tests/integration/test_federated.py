"""Fed MobiLLM as users run it: mixed fleets from end to end, and what they learn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pools import AtOnce
from tasks import write_task

import mobisim
from mobisim.compare.question import ask
from mobisim.compare.run import compare
from mobisim.errors import InputError
from mobisim.prepare import Options
from mobisim.runner import run
from mobisim.scenario import catalog
from mobisim.scenario.load import load

FEW = (
    "training.num_samples=96",
    "federation.replay.steps=4",
    "training.evaluate_every=100",
)
FLEET = (
    "method=fed-mobillm",
    "training.epochs=1",
    "training.num_samples=200",
    "devices[0].count=5",
    "federation.partition={kind: dirichlet, alpha: 0.3}",
    "federation.replay={steps: 6}",
)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small share of the built-in task."""
    return write_task(tmp_path_factory.mktemp("task"), train=96, dev=16)


def test_one_device_learns_bit_by_bit_as_an_epoch_of_pae_mobillm(
    task: Path, tmp_path: Path
) -> None:
    """Without replay and projection: the same losses, metrics and parameters."""
    found = []
    for name, more in (
        ("pae-mobillm", []),
        ("fed-mobillm", ["federation.partition={kind: quantity, alpha: 1}"]),
    ):
        overrides = [f"method={name}", "training.epochs=1", f"training.task={task}", *more]
        result = run(load("wifi_5mbps", overrides), Options(out=tmp_path / name, plots=False))
        steps = pq.read_table(result.path / "steps.parquet").to_pydict()
        parameters = (result.path / "side_network.safetensors").read_bytes()
        found.append((steps, parameters, result.summary.final_metric, result.summary.makespan_s))
    assert found[0] == found[1]


def test_a_federation_runs_from_end_to_end(tmp_path: Path) -> None:
    """Samples dealt by label, then a replay: all of it in steps, spans, summary and pictures."""
    scenario = load("wifi_5mbps", FLEET)
    result = run(scenario, Options(out=tmp_path / "fleet", train=False))
    steps = pq.read_table(result.path / "steps.parquet")
    owned = steps.filter(steps["device"].is_valid())
    replayed = steps.filter(steps["device"].is_null())
    assert sum(owned["num_samples"].to_pylist()) == 200
    assert replayed["num_samples"].to_pylist() == [16] * 6
    assert set(replayed["epoch"].to_pylist()) == {None}
    summary = json.loads((result.path / "summary.json").read_text())
    assert summary["num_steps"] == summary["num_batches"] + 6
    assert summary["ended_by"] == "finished"
    assert 0 < summary["cache_hit_rate"] < 1
    assert (result.path / "timeline.png").stat().st_size > 0


def test_a_mixed_fleet_learns_one_side_network(tmp_path: Path) -> None:
    """Steps at the versions of the timeline, a metric of each group, and a predictor of each."""
    more = ["server.workers=2", *(f"devices[{i}].count=2" for i in range(3))]
    scenario = load("fed_builtin", [*more, *FEW])
    result = run(scenario, Options(out=tmp_path / "fleet", plots=False))
    steps = pq.read_table(result.path / "steps.parquet")
    assert steps["loss"].null_count == 0
    replayed = steps.filter(steps["device"].is_null())
    assert replayed["staleness"].to_pylist() == [0, 1, 1, 1]
    summary = result.summary
    assert summary.metric_of_groups is not None
    means = [group.mean for group in summary.metric_of_groups]
    assert summary.final_metric == pytest.approx(sum(filter(None, means)) / 3)
    assert summary.stand_in is not None
    assert summary.stand_in.trained == "builtin-small, builtin:3, builtin"
    path = result.path / "side_network.safetensors"
    texts = ["the visit was a delight ?", "we were bored ?"]
    for device, name in ((0, "builtin-small"), (3, "builtin:3"), (5, "builtin")):
        predictor = mobisim.load_side_network(path, device).attach(name)
        assert predictor.predict_proba(texts).sum(dim=1).tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("where", "overrides"),
    [
        ("devices[0].backbone", ["devices[0].backbone=minilm"]),
        ("devices[0].backbone", ["devices[0].backbone=builtin:9"]),
        ("devices[1].backbone", ["method=server-only", "devices[0].backbone=builtin"]),
    ],
)
def test_backbones_that_cannot_learn_together_are_refused(where: str, overrides: list[str]) -> None:
    """Other tokens, layers that there are not, or a method that trains the backbone."""
    alike = ["federation.replay=null", "devices[0].model=null", "devices[2].model=null"]
    base = alike if "server" in overrides[0] else []
    with pytest.raises(InputError) as refused:
        mobisim.run(load("fed_builtin", [*base, *overrides]))
    assert where in str(refused.value.where)


def test_devices_that_train_by_themselves_are_not_many(tmp_path: Path) -> None:
    """Whose parameters would be read by whom is a matter of another method."""
    scenario = load("wifi_5mbps", ["method=split-lora", "devices[0].count=2"])
    with pytest.raises(InputError, match="not built yet") as refused:
        run(scenario, Options(out=tmp_path / "two"))
    assert refused.value.where == "devices"


ROUNDS = (
    "devices[0].count=4",
    "federation={partition: {kind: dirichlet, alpha: 0.5}, rounds: {count: 2, participants: 3}}",
)


@pytest.mark.parametrize("method", ["fedavg-lora", "splitfed-lora", "fed-fwdllm", "fedbuff-lora"])
def test_rounds_learn_from_end_to_end(task: Path, tmp_path: Path, method: str) -> None:
    """Each step is an average of what devices learned, and what it comes to is saved."""
    scenario = load("wifi_5mbps", [f"method={method}", f"training.task={task}", *ROUNDS])
    result = run(scenario, Options(out=tmp_path / "run", plots=False))
    steps = pq.read_table(result.path / "steps.parquet").to_pydict()
    assert steps["batch"] == [0, 1]
    assert steps["device"] == steps["num_samples"] == [None, None]
    assert all(loss > 0 for loss in steps["loss"])
    assert result.summary.final_metric is not None
    assert (result.path / "tuned.safetensors").stat().st_size > 0


@pytest.mark.parametrize(
    ("method", "more"), [("fedavg-lora", ()), ("fedbuff-lora", ("federation.rounds.buffer=1",))]
)
def test_a_comparison_trains_rounds_as_a_run_does(
    task: Path, tmp_path: Path, method: str, more: tuple[str, ...]
) -> None:
    """By the order that its timeline says: the metric is that of the run with the same split."""
    learn = (f"training.task={task}", "training.validation=0.2", "training.epochs=1")
    more = (*learn, *ROUNDS, *more)
    single = run(
        load("wifi_5mbps", [f"method={method}", *more]),
        Options(out=tmp_path / "run", plots=False),
    )
    options = Options(out=tmp_path / "all", plots=False)
    question = ask(
        catalog.scenario("wifi_5mbps"), options, methods=(method,), rates=(1e6,),
        overrides=more,
    )  # fmt: skip
    compare(question, AtOnce().pool())
    (point,) = tmp_path.glob("all/methods/points/*/summary.json")
    summary = json.loads(point.read_text())
    assert summary["final_metric"] == single.summary.final_metric
    assert summary["makespan_s"] == single.summary.makespan_s


def test_a_server_that_batches_learns_from_everything_once(tmp_path: Path) -> None:
    """Fewer steps on more samples each."""
    few = [*FLEET, "training.num_samples=96", "federation.replay=null", "training.evaluate_every=3"]
    scenario = load("wifi_5mbps", [*few, "server.batching={window: 10 s, most: 4}"])
    result = run(scenario, Options(out=tmp_path / "several", plots=False))
    summary = result.summary
    steps = pq.read_table(result.path / "steps.parquet")
    samples = steps["num_samples"].to_pylist()
    assert summary.num_learned == summary.num_batches
    assert summary.num_steps < summary.num_batches / 2
    assert sum(samples) == 96
    assert max(samples) > 16
    # Evaluations are counted in mini-batches, as ever: one follows a step that passes three more.
    spans = result.spans
    written = spans.version_written[spans.kind.isin(["step", "joint"])]
    learned = np.cumsum(written.value_counts().sort_index())
    judged = np.diff(learned // 3, prepend=0) > 0
    judged[-1] = True
    assert [metric is not None for metric in steps["metric"].to_pylist()] == judged.tolist()
    assert summary.final_metric is not None
    assert summary.final_metric > 0.5
