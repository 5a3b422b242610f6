"""The cost room's side network against the real one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mobisim.cost.side_network import SideCost
from mobisim.cost.wire import CODEC_BITS, UNSCALED, payload_parts
from mobisim.cost.work import BatchShape
from mobisim.errors import InputError
from mobisim.scenario.schema import Wire
from mobisim.training.codec import CODECS
from mobisim.training.side_network import Ragged, SideNetwork, SideNetworkConfig

TAPS, WIDTH, BOTTLENECK, CLASSES = 3, 32, 8, 2
LENGTHS = [5, 7, 4]


def _real() -> SideNetwork:
    config = SideNetworkConfig(
        width=WIDTH, num_taps=TAPS, bottleneck=BOTTLENECK, num_classes=CLASSES
    )
    return SideNetwork(config, seed=0)


COST = SideCost(num_taps=TAPS, width=WIDTH, bottleneck=BOTTLENECK, head_width=CLASSES)


def test_trainable_parameters_are_exact() -> None:
    """Every trainable value is counted, gates and head included."""
    assert COST.trainable_parameters == sum(p.numel() for p in _real().parameters())


def test_step_flops_equal_torchs_count() -> None:
    """Forward and backward FLOPs of a step are those that torch counts.

    The first tap's input needs no gradient beyond its gate, which torch computes all the same.
    """
    shape = BatchShape.of_lengths(LENGTHS)
    taps = [torch.randn(shape.num_tokens, WIDTH) for _ in range(TAPS)]
    labels = torch.tensor([0, 1, 0])
    side_network = _real()
    with FlopCounterMode(display=False) as counter:
        loss = side_network.loss(taps, Ragged.of(torch.tensor(LENGTHS)), labels)
        loss.backward()  # type: ignore[no-untyped-call]
    assert COST.step(shape).flop == pytest.approx(counter.get_total_flops(), rel=0.005)


def test_optimiser_state_is_exact() -> None:
    """AdamW keeps two values per trainable one; with values and gradients that is four."""
    side_network = _real()
    optimizer = torch.optim.AdamW(side_network.parameters())
    for parameter in side_network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    kept = sum(
        state[name].numel()
        for state in optimizer.state.values()
        for name in ("exp_avg", "exp_avg_sq")
    )
    parameters = sum(p.numel() for p in side_network.parameters())
    assert COST.state_bytes == 4 * (kept + 2 * parameters)


@pytest.mark.parametrize("codec", list(CODEC_BITS))
def test_both_rooms_know_the_same_codecs(codec: str) -> None:
    """Bits and scales agree between the predicting and the doing room."""
    assert CODECS[codec].bits == CODEC_BITS[codec]  # type: ignore[index]
    assert CODECS[codec].has_scales == (codec not in UNSCALED)


def test_no_codec_is_known_to_one_room_only() -> None:
    """The lists are the same."""
    assert set(CODECS) == set(CODEC_BITS)


def test_a_stated_payload_is_split_without_loss() -> None:
    """With layer granularity the parts of a stated payload add up to it."""
    parts = payload_parts(Wire(payload_bytes=1001), None, 0, 4, by_layer=True)
    assert parts == (251, 250, 250, 250)


def test_stored_activations_are_what_autograd_keeps() -> None:
    """Bytes kept for the backward, decoded taps included, within five per cent."""
    lengths = [40, 60, 28]
    shape = BatchShape.of_lengths(lengths)
    taps = [torch.randn(shape.num_tokens, WIDTH) for _ in range(TAPS)]
    side_network = _real()
    weights = {p.untyped_storage().data_ptr() for p in side_network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tensor.is_floating_point():
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = side_network.loss(taps, Ragged.of(torch.tensor(lengths)), torch.tensor([0, 1, 0]))
        assert loss.requires_grad
    assert COST.stored_bytes(shape) == pytest.approx(sum(kept.values()), rel=0.05)


def test_a_payload_smaller_than_its_messages_is_refused() -> None:
    """No message may silently carry nothing."""
    with pytest.raises(InputError, match="at least one byte"):
        payload_parts(Wire(payload_bytes=3), None, 0, 4, by_layer=True)


def test_projections_cost_what_torch_counts() -> None:
    """Forward and weight gradients of a matrix for each tap; the activations need none."""
    shape, own = BatchShape.of_lengths(LENGTHS), 48
    cost = replace(COST, projected=((own, 1.0),), projections=(own,))
    matrices = [torch.nn.Linear(own, WIDTH, bias=False) for _ in range(TAPS)]
    taps = [torch.randn(shape.num_tokens, own) for _ in range(TAPS)]
    side_network = _real()
    with FlopCounterMode(display=False) as counter:
        projected = [matrix(tap) for matrix, tap in zip(matrices, taps, strict=True)]
        loss = side_network.loss(
            projected, Ragged.of(torch.tensor(LENGTHS)), torch.tensor([0, 1, 0])
        )
        loss.backward()  # type: ignore[no-untyped-call]
    modules = [side_network, *matrices]
    assert cost.step(shape).flop == pytest.approx(counter.get_total_flops(), rel=0.005)
    assert cost.trainable_parameters == sum(p.numel() for m in modules for p in m.parameters())
