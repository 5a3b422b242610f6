"""Quantised backbones: bytes counted against packed weights, and what they change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import tuned_models
from torch import nn
from transformers.pytorch_utils import Conv1D

from mobisim.cost.architecture import architecture
from mobisim.cost.compute import BatchCost, batch_cost
from mobisim.cost.memory import DeviceMemory, device_memory
from mobisim.cost.quantised import PackedWeights
from mobisim.cost.system import System
from mobisim.cost.work import BatchShape
from mobisim.errors import InputError
from mobisim.prepare import Options, prepare
from mobisim.scenario.load import load
from mobisim.training.backbone import Backbone
from mobisim.training.codec import encode
from mobisim.training.quantised import BLOCK_SIZE

SHAPE = BatchShape.uniform(16, 64)
OPT_350M = 303_000_000  # roughly, the linear weights of its blocks


@pytest.mark.parametrize("codec", ["int8", "nf4"])
@pytest.mark.parametrize("family", ["opt", "gpt2", "bert", "llama"])
def test_bytes_are_those_of_the_packed_weights(family: str, codec: Any) -> None:
    """Of every linear layer in the blocks, scales included."""
    backbone = Backbone(tuned_models.backbone(family), family)
    found, values = 0, 0
    for module in backbone.blocks.modules():
        if isinstance(module, nn.Linear | Conv1D):
            weight: torch.Tensor = module.weight.data
            weight = weight.T.contiguous() if isinstance(module, Conv1D) else weight
            found += len(encode(weight, codec, BLOCK_SIZE))
            values += weight.numel()
    packed = PackedWeights(architecture(tuned_models.CONFIGS[family]), codec)
    assert packed.num_bytes * backbone.num_layers == found
    assert packed.num_values * backbone.num_layers == values


def _device(*overrides: str) -> tuple[DeviceMemory, BatchCost]:
    scenario = load("layer_streaming", overrides)
    system, group = System(scenario), scenario.devices[0]
    memory = device_memory(system, group, SHAPE, 0, 0)
    assert memory is not None
    return memory, batch_cost(system, group, SHAPE)


@pytest.mark.parametrize(("weights", "bits"), [("int8", 8.5), ("nf4", 4.5)])
def test_fewer_bits_take_less_memory_and_more_time(weights: str, bits: float) -> None:
    """A scale of 32 bits for 64 weights; each is unpacked to 16 bits before it is multiplied."""
    (plain, fast), (packed, slow) = _device(), _device(f"backbone_weights={weights}")
    saved = plain.weights - packed.weights
    assert saved == pytest.approx(OPT_350M * (16 - bits) / 8, rel=0.01)
    assert packed.transient - plain.transient == 2 * 1024 * 4096
    assert packed.peak < plain.peak
    assert sum(slow.forward_s) > sum(fast.forward_s)
    assert slow.payload_bytes == fast.payload_bytes


def test_a_profile_that_was_measured_so_tells_the_time() -> None:
    """Where the device computes in int8 already, nothing is unpacked."""
    own = "devices[0].profile.precision.value=int8"
    (plain, fast), (packed, same) = _device(own), _device(own, "backbone_weights=int8")
    assert same == fast
    assert packed.weights > plain.weights  # by the scales
    with pytest.raises(InputError, match="integers already"):
        prepare(load("layer_streaming", [own, "backbone_weights=nf4"]), Options())
