"""Methods from scenario to result: each learns on its own timeline, and leaves what it learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tasks import write_task

import mobisim
from mobisim.training.data import load_task

SMALL = (
    "training.num_samples=48",
    "training.epochs=2",
    "training.batch_size=8",
    "training.evaluate_every=12",
    "tuning.perturbations=2",
)
ASKED = {  # a trainer of each sort, and the options of those with a side network
    "split-lora": ("method=split-lora",),
    "server-only": ("method=server-only",),
    "fwdllm": ("method=fwdllm",),
    "pae-mobillm": ("method=pae-mobillm",),
    "little and filtered": (
        "backbone_weights=nf4",
        "training.pooling=mean",
        "wire.keep={score: norm, tokens: 0.5, taps: 2}",
    ),
    "a small cache and words": (
        "method=pae-mobillm",
        "cache={capacity: 20 kB, codec: int8}",
        "side_network={prediction: verbaliser, words: [good, bad]}",
    ),
}


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A share of the built-in task."""
    return str(write_task(tmp_path_factory.mktemp("task"), train=200, dev=120))


def _run(place: Path, task: str, overrides: tuple[str, ...]) -> mobisim.Result:
    options = mobisim.Options(plots=False, ignore_memory=True, out=place)
    scenario = mobisim.load("wifi_5mbps", [f"training.task={task}", *SMALL, *overrides])
    return mobisim.run(scenario, options)


def _accuracy(result: mobisim.Result, task: str) -> float:
    """Of what the run left, read from its file and attached to its backbone."""
    data = load_task(task, backbone="builtin", sequence_length=64, num_samples=1).evaluation
    path = result.path / "tuned.safetensors"
    if path.exists():
        predicted = mobisim.load_tuned(path).attach("builtin").predict(list(data.texts))
    else:
        path = result.path / "side_network.safetensors"
        predicted = mobisim.load_side_network(path).attach("builtin").predict(list(data.texts))
    return float(np.mean(np.array(predicted) == data.labels))


@pytest.mark.parametrize("asked", ASKED)
def test_a_run_learns(task: str, tmp_path: Path, asked: str) -> None:
    """What it leaves predicts as well as its last evaluation said."""
    result = _run(tmp_path / "result", task, ASKED[asked])
    assert result.summary.num_steps == 12
    assert result.summary.final_metric == _accuracy(result, task)
