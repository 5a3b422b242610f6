"""The built-in task is neither trivial nor hopeless, and it notices what a codec costs."""

from __future__ import annotations

import functools
import statistics
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from mobisim.training.backbone import Backbone, load_backbone
from mobisim.training.builtin.language import labelled_task
from mobisim.training.data import TaskData, load_task
from mobisim.training.learner import TrainingConfig
from mobisim.training.threads import one_thread_per_kernel
from mobisim.training.tokens import load_tokenizer, tokenise
from mobisim.training.trainer import Trainer

LENGTH = 64
SEEDS = range(5)
CODECS = ("nf4", "int2")
REGULARISATIONS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
Pooled = Literal["last", "mean"]


@functools.cache
def _backbone() -> Backbone:
    return load_backbone("builtin")


@functools.cache
def _task() -> TaskData:
    return load_task("builtin", backbone="builtin", sequence_length=LENGTH)


@functools.cache
def _features(split: str) -> dict[Pooled, NDArray[np.float32]]:
    """The frozen last layer of each text, pooled in each way."""
    texts = labelled_task()[split].texts
    tokens = tokenise(load_tokenizer("builtin"), texts, LENGTH)
    backbone = _backbone()
    samples: list[NDArray[np.float32]] = []
    for start in range(0, len(tokens), 50):
        some = list(tokens[start : start + 50])
        hidden = backbone.taps(some, [backbone.num_layers])[0].numpy()
        ends = np.cumsum([len(ids) for ids in some])
        samples += np.split(hidden, ends[:-1])
    return {
        "last": np.stack([sample[-1] for sample in samples]),
        "mean": np.stack([sample.mean(axis=0) for sample in samples]),
    }


def _accuracy_of_probe(pooling: Pooled) -> float:
    """A logistic regression fitted to convergence; its regularisation chosen on validation."""
    task = labelled_task()
    scaler = StandardScaler()
    train = scaler.fit_transform(_features("train")[pooling])
    validation, test = (
        scaler.transform(_features(split)[pooling]) for split in ("validation", "test")
    )
    probes = [
        LogisticRegression(C=c, max_iter=20_000).fit(train, task["train"].labels)
        for c in REGULARISATIONS
    ]
    best = max(probes, key=lambda probe: probe.score(validation, task["validation"].labels))
    return float(best.score(test, task["test"].labels))


@functools.cache
def _accuracies_of_side_tuning(seed: int) -> dict[str, float]:
    """Three epochs of side-tuning with the default scenario's settings, by codec.

    The backbone forwards the same mini-batches for each, and so once for all.
    """
    with tempfile.TemporaryDirectory() as shared:
        return {codec: _accuracy_of_side_tuning(codec, seed, Path(shared)) for codec in CODECS}


def _accuracy_of_side_tuning(codec: str, seed: int, shared: Path) -> float:
    config = TrainingConfig(
        batch_size=16, epochs=3, sequence_length=LENGTH, codec=codec, bottleneck=64, seed=seed
    )
    trainer = Trainer(_backbone(), _task(), config, shared=shared)
    for batch in range(len(trainer.batches)):
        trainer.step(batch)
    return trainer.evaluate()["accuracy"]


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_linear_probe_of_the_last_layer_stays_under_80_percent(pooling: Pooled) -> None:
    """What the frozen backbone says linearly is not enough."""
    with one_thread_per_kernel():
        assert _accuracy_of_probe(pooling) < 0.8


@pytest.mark.parametrize("seed", SEEDS)
def test_side_tuning_passes_90_percent(seed: int) -> None:
    """With four-bit activations, as the default scenario has them, on every seed."""
    assert _accuracies_of_side_tuning(seed)["nf4"] > 0.9


def test_two_bits_cost_at_least_three_points_and_more_than_their_spread() -> None:
    """Against four bits, in the mean of five seeds."""
    four, two = ([_accuracies_of_side_tuning(seed)[codec] for seed in SEEDS] for codec in CODECS)
    cost = statistics.mean(four) - statistics.mean(two)
    assert cost >= 0.03
    assert cost > statistics.stdev(two)


def test_no_text_is_in_two_splits() -> None:
    """Train, validation and test share no text."""
    texts = [set(split.texts) for split in labelled_task().values()]
    assert sum(map(len, texts)) == len(set().union(*texts))


def test_labels_are_balanced() -> None:
    """Guessing gives half."""
    for split in labelled_task().values():
        assert statistics.mean(split.labels) == pytest.approx(0.5, abs=0.05)
