"""Learning on the timeline, end to end on the built-in task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tasks import write_task

import mobisim
from mobisim.training.codec import decode, encode
from mobisim.training.data import load_task, mini_batches
from mobisim.training.learner import TrainingConfig
from mobisim.training.side_network import Ragged, SideNetwork, SideNetworkConfig
from mobisim.training.threads import one_thread_per_kernel
from mobisim.training.trainer import Trainer

SMALL = ("training.num_samples=96", "training.epochs=2", "training.evaluate_every=4")


Run = Callable[[Path, Sequence[str]], mobisim.Result]


def _run(place: Path, overrides: Sequence[str]) -> mobisim.Result:
    options = mobisim.Options(plots=False, out=place)
    return mobisim.run(mobisim.load("wifi_5mbps", overrides), options)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> str:
    """All that the built-in task has to learn from, and a share to be judged on in no time."""
    return str(write_task(tmp_path_factory.mktemp("task"), train=2000, dev=120))


@pytest.fixture(scope="module")
def run(task: str) -> Run:
    """Runs the default scenario on it with overrides."""
    return lambda place, overrides: _run(place, [f"training.task={task}", *overrides])


def _steps(result: mobisim.Result) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = pq.read_table(result.path / "steps.parquet").to_pydict()
    return columns


@pytest.fixture(scope="module")
def small(run: Run, tmp_path_factory: pytest.TempPathFactory) -> mobisim.Result:
    """A short run: 96 samples, two epochs."""
    return run(tmp_path_factory.mktemp("small") / "result", SMALL)


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> mobisim.Result:
    """The default run as a newcomer makes it, pictures left out."""
    return _run(tmp_path_factory.mktemp("default") / "result", ())


def test_a_restart_changes_no_learning(run: Run, tmp_path: Path) -> None:
    """A server that restarts in the middle learns the same from the same cache, and is later."""
    cached = (*SMALL, "method=pae-mobillm")
    calm = run(tmp_path / "calm", cached).summary
    assert calm.makespan_s is not None
    steps = pq.read_table(tmp_path / "calm" / "steps.parquet").column("end").to_pylist()
    windows = [[f"{steps[len(steps) // 2]} s", f"{calm.makespan_s + 5} s"]]
    restarts = f"server.restarts={{windows: {windows}}}"
    restarted = run(tmp_path / "restarted", (*cached, restarts)).summary
    names = ("num_steps", "final_metric", "cache_hit_rate", "server_memory_bytes", "uplink_bytes")
    told, expected = ([getattr(run, name) for name in names] for run in (restarted, calm))
    assert told == expected
    assert restarted.faults is not None
    assert restarted.faults.num_restarts == 1
    losses = [
        pq.read_table(tmp_path / name / "steps.parquet").column("loss").to_pylist()
        for name in ("calm", "restarted")
    ]
    assert losses[0] == losses[1]


def _plain_losses(task: str, seed: int = 0) -> list[float]:
    """Losses of a torch loop of a dozen lines, with none of the simulator in it."""
    data = load_task(task, backbone="builtin", sequence_length=64, num_samples=96, seed=seed)
    batches = mini_batches(96, 16, 2, seed)
    config = TrainingConfig(batch_size=16, epochs=2, sequence_length=64, seed=seed)
    # The very same activations: floats depend on which samples a backbone forwards together.
    exact = Trainer(mobisim_backbone(), data, config).activations
    width = exact.taps(batches[0])[0].shape[1]
    num_taps = len(exact.taps(batches[0]))
    side = SideNetwork(
        SideNetworkConfig(
            width=width, num_taps=num_taps, bottleneck=64, pooling="last", num_classes=2
        ),
        seed=seed,
    )
    optimizer = torch.optim.AdamW(side.parameters(), lr=1e-3, weight_decay=0.01)
    losses = []
    for batch in batches:
        taps = [
            decode(encode(tap, "nf4", 64), len(tap), width, "nf4", 64) for tap in exact.taps(batch)
        ]
        lengths = torch.from_numpy(data.train.lengths[batch])
        optimizer.zero_grad()
        loss = side.loss(taps, Ragged.of(lengths), torch.from_numpy(data.train.labels[batch]))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    return losses


def mobisim_backbone() -> Any:
    """The built-in backbone."""
    from mobisim.training.backbone import load_backbone  # noqa: PLC0415 - torch stays lazy

    return load_backbone("builtin")


def test_losses_equal_a_plain_torch_loop_bit_by_bit(small: mobisim.Result, task: str) -> None:
    """Training through the simulator is training."""
    with one_thread_per_kernel():
        assert _steps(small)["loss"] == _plain_losses(task)


def test_granularity_changes_times_and_not_learning(
    run: Run, small: mobisim.Result, tmp_path: Path
) -> None:
    """With one device the order of updates is the same, and so are all losses."""
    layered = run(tmp_path / "layer", (*SMALL, "granularity=layer"))
    assert _steps(layered)["loss"] == _steps(small)["loss"]
    assert layered.summary.makespan_s != small.summary.makespan_s


def test_several_workers_read_stale_versions(run: Run, tmp_path: Path) -> None:
    """Two slow workers overlap: from the second step on, gradients are one version old."""
    slow = "server.profile={kind: fixed, step_s: 60}"
    result = run(tmp_path / "stale", (*SMALL, slow, "server.workers=2"))
    staleness = _steps(result)["staleness"]
    assert set(staleness[1:]) == {1}
    assert result.summary.final_metric is not None


def test_saved_side_network_reproduces_the_final_metric(small: mobisim.Result, task: str) -> None:
    """Attached to its backbone, the file predicts the evaluation texts as the run did."""
    data = load_task(task, backbone="builtin", sequence_length=64).evaluation
    predictor = mobisim.load_side_network(small.path / "side_network.safetensors").attach("builtin")
    predicted = np.array(predictor.predict(list(data.texts)))
    assert float(np.mean(predicted == data.labels)) == small.summary.final_metric


def test_default_run_meets_its_target(default: mobisim.Result) -> None:
    """Side-tuning the built-in task passes 90 %, and says when it first did."""
    steps = _steps(default)
    reached = [
        end
        for end, metric in zip(steps["end"], steps["metric"], strict=True)
        if metric is not None and metric >= 0.9
    ]
    assert default.summary.final_metric is not None
    assert default.summary.final_metric >= 0.9
    assert default.summary.time_to_target_s == reached[0]
    assert default.summary.ended_by == "finished"


def test_default_run_says_what_stands_in_for_what(default: mobisim.Result) -> None:
    """The trained backbone is not the timed model."""
    assert default.summary.stand_in is not None
    assert default.summary.stand_in.model_dump() == {"trained": "builtin", "timed": "opt-350m"}


def test_default_run_is_bound_by_its_radio(default: mobisim.Result) -> None:
    """14 MB at 5 Mbit/s dwarf the forward, whatever in its range the device's rate is."""
    assert default.summary.bottleneck == "uplink"
    assert default.summary.num_steps == default.summary.num_batches == 375


@pytest.mark.parametrize(
    "overrides",
    [
        ("training.optimizer={name: sgd, lr: 1e-4, momentum: 0.9}",),
        ("training.pooling=mean", "training.padding=none"),
        ("side_network.taps=[12, 24]", "wire.codec=int8"),
    ],
    ids=["sgd", "mean pooling without padding", "two taps of eight bits"],
)
def test_variants_learn(run: Run, overrides: tuple[str, ...], tmp_path: Path) -> None:
    """Each trains: the loss of the last five steps lies below that of the first five."""
    result = run(
        tmp_path / "variant", ("training.num_samples=320", "training.epochs=1", *overrides)
    )
    losses = _steps(result)["loss"]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_next_token_head_learns_and_reports_perplexity(run: Run, tmp_path: Path) -> None:
    """The backbone's own head, frozen on the server: perplexity falls with learning."""
    head = ("training.head=next_token", "training.target={metric: perplexity, value: 1}")
    summary = run(tmp_path / "next", (*SMALL, *head)).summary
    assert summary.metric_name == "perplexity"
    assert summary.final_metric is not None
    assert summary.initial_metric is not None
    assert summary.final_metric < summary.initial_metric
    assert summary.time_to_target_s is None


def test_diverged_learning_is_said(run: Run, tmp_path: Path) -> None:
    """A hopeless learning rate ends in a warning that names the step, not in a crash."""
    wild = "training.optimizer={name: sgd, lr: 1e30}"
    summary = run(tmp_path / "wild", (*SMALL, wild)).summary
    assert any("diverged: from step" in warning for warning in summary.warnings)
