"""Backbones with rounded weights."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import tuned_models

from mobisim.training.artifact import load_side_network, save_side_network
from mobisim.training.backbone import Backbone
from mobisim.training.codec import decode, encode
from mobisim.training.data import TaskData
from mobisim.training.learner import TrainingConfig
from mobisim.training.quantised import BLOCK_SIZE, quantised
from mobisim.training.trainer import Trainer


@pytest.mark.parametrize("codec", ["int8", "nf4"])
@pytest.mark.parametrize("family", ["opt", "gpt2", "bert"])
def test_linear_weights_of_blocks_are_rounded_and_nothing_else(family: str, codec: str) -> None:
    """Each by the codec, in blocks along its inputs; the backbone itself stays as it is."""
    torch.manual_seed(0)
    exact = Backbone(tuned_models.backbone(family), family)
    before = deepcopy(exact.base.state_dict())
    rounded = quantised(exact, codec)
    after = rounded.base.state_dict()
    changed = 0
    for name, value in exact.base.state_dict().items():
        assert torch.equal(value, before[name])
        if torch.equal(after[name], value):
            continue
        changed += 1
        weight = value.T if family == "gpt2" else value
        rows, width = weight.shape
        packed = encode(weight.contiguous(), codec, BLOCK_SIZE)
        expected = decode(packed, rows, width, codec, BLOCK_SIZE)
        assert torch.equal(after[name], expected.T if family == "gpt2" else expected)
    assert changed == 3 * (4 if family == "gpt2" else 6)


def test_eight_bits_move_activations_less_than_four(backbone: Backbone, task: TaskData) -> None:
    """By under a hundredth, and by under a fifth."""
    ids = task.train.tokens[:8]
    exact = backbone.taps(ids, (3,))[0]
    eight, four = (
        float((quantised(backbone, codec).taps(ids, (3,))[0] - exact).norm() / exact.norm())
        for codec in ("int8", "nf4")
    )
    assert 0 < eight < 0.01
    assert eight < four < 0.2


def test_what_was_saved_predicts_on_rounded_weights(
    backbone: Backbone, task: TaskData, tmp_path: Path
) -> None:
    """The file says what the weights were rounded to, and attaching rounds them."""
    config = TrainingConfig(batch_size=8, epochs=1, sequence_length=12, bottleneck=4)
    ours = Trainer(quantised(backbone, "nf4"), task, config)
    for index in range(len(ours.batches)):
        ours.step(index)
    save_side_network(tmp_path / "side_network.safetensors", ours)
    loaded = load_side_network(tmp_path / "side_network.safetensors")
    predicted = loaded.attach(backbone.name).predict(list(task.evaluation.texts))
    accuracy = np.mean(np.array(predicted) == task.evaluation.labels)
    assert accuracy == ours.evaluate()["accuracy"]
