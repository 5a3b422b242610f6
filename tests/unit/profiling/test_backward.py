"""The timed training pass computes what autograd does, and names each of its parts."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from mobisim.profiling.backward import TrainingBlock, TrainingPass
from mobisim.profiling.blocks import BlockSizes
from mobisim.profiling.stopwatch import Timed

OPT = BlockSizes(32, 4, 8, 4, 128, modern=False)
LLAMA = BlockSizes(48, 4, 8, 2, 96, modern=True)


def trained(sizes: BlockSizes) -> tuple[torch.Tensor, torch.Tensor, list[Timed]]:
    """The input's gradient by autograd, the one by the timed pass, and what that told."""
    torch.manual_seed(0)
    block = TrainingBlock(sizes, "fp32", torch.device("cpu"), 4)
    for up in block.up_from_rank.parameters():  # the whole block's forward has no low-rank pairs
        torch.nn.init.zeros_(up)
    h_BTD = torch.randn(2, 5, sizes.width, requires_grad=True)
    gradient_BTD = torch.randn(2, 5, sizes.width)
    (expected,) = torch.autograd.grad(block(h_BTD), h_BTD, gradient_BTD)
    told: list[Timed] = []
    run = TrainingPass(block, told.append)
    out = run.forward(h_BTD.detach())
    torch.testing.assert_close(out, block(h_BTD).detach())
    found = run.backward(gradient_BTD)
    run.others()
    return expected, found, told


@pytest.mark.parametrize("sizes", [OPT, LLAMA])
def test_its_gradient_is_autograds(sizes: BlockSizes) -> None:
    """Operator by operator, added up where a value was read twice."""
    expected, found, _ = trained(sizes)
    torch.testing.assert_close(found, expected)


def test_it_tells_every_part_at_its_sizes() -> None:
    """OPT's six products and two low-rank pairs, three gradients each where there is a bias."""
    _, _, told = trained(OPT)
    counts = Counter(one.operator for one in told)
    assert counts["linear:training"] == counts["linear:grad_input"] == 10
    assert counts["linear:grad_weight"] == 10
    assert counts["linear:grad_bias"] == 6
    assert counts["norm:layer:grad_weight"] == counts["norm:layer:backward"] == 2
    assert counts["add:backward"] == 2 + 2 + 2  # residuals; queries, keys, values; low-rank pairs
    assert {(one.width, one.width_out) for one in told if one.operator == "linear:grad_weight"} == {
        (32, 32), (32, 128), (128, 32), (32, 4), (4, 32),
    }  # fmt: skip
    others = {"attention:full:backward", "activation:gelu:backward"}
    assert others <= counts.keys()
