from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from mobisim.training.message import NO_LABEL
from mobisim.training.side_network import Ragged, SideNetwork, SideNetworkConfig, pool

LENGTHS = torch.tensor([3, 1, 4])
SAMPLES = Ragged.of(LENGTHS)


def taps(num_taps: int = 3, width: int = 8) -> list[torch.Tensor]:
    source = torch.Generator().manual_seed(3)
    return [torch.randn(8, width, generator=source) for _ in range(num_taps)]


def network(**changes: object) -> SideNetwork:
    """A side network whose zero initial parameters are replaced by random ones."""
    fields: dict[str, object] = {"width": 8, "num_taps": 3, "bottleneck": 5, "num_classes": 4}
    side_network = SideNetwork(SideNetworkConfig(**(fields | changes)), seed=1)  # type: ignore[arg-type]
    source = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in (side_network.up_LrD, side_network.gate_L):
            parameter.copy_(torch.randn(parameter.shape, generator=source))
    return side_network


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_recursion_is_that_of_the_paper(activation: str) -> None:
    """The output equals the published equations written out with einsum."""
    side_network = network(activation=activation)
    state = taps()[0]
    for i, tap in enumerate(taps()):
        mu = 1 / (1 + torch.exp(-side_network.gate_L[i]))
        x = (1 - mu) * tap + mu * state
        inner = torch.einsum("nd,dr->nr", x, side_network.down_LDr[i])
        state = x + torch.einsum(
            "nr,rd->nd", getattr(functional, activation)(inner), side_network.up_LrD[i]
        )
    torch.testing.assert_close(side_network.hidden(taps()), state)


def test_gradients_are_those_of_the_written_out_recursion() -> None:
    """Stacked parameters get the gradients that separate ones would get."""
    side_network = network()
    downs = [nn.Parameter(d.detach().clone()) for d in side_network.down_LDr]
    state = taps()[0]
    for tap, gate, down, up in zip(
        taps(), side_network.gate_L.detach(), downs, side_network.up_LrD.detach(), strict=True
    ):
        mu = torch.sigmoid(gate)
        x = (1 - mu) * tap + mu * state
        state = x + functional.gelu(x @ down) @ up
    state.square().sum().backward()  # type: ignore[no-untyped-call]
    side_network.hidden(taps()).square().sum().backward()  # type: ignore[no-untyped-call]
    assert side_network.down_LDr.grad is not None
    theirs = torch.stack([down.grad for down in downs if down.grad is not None])
    torch.testing.assert_close(side_network.down_LDr.grad, theirs)


def test_starts_as_a_plain_mix_of_the_taps() -> None:
    """Before training the adapters add nothing and every gate stands at one half."""
    side_network = SideNetwork(SideNetworkConfig(8, 3, 5))
    first, second, third = taps()
    expected = (first + second) / 4 + third / 2
    torch.testing.assert_close(side_network.hidden(taps()), expected)


@pytest.mark.parametrize(("layers", "width", "rank"), [(24, 1024, 64), (6, 384, 64), (1, 4, 2)])
def test_trainable_parameters_are_counted(layers: int, width: int, rank: int) -> None:
    """L(2Dr + 1) for the adapters and C(D + 1) for the head."""
    config = SideNetworkConfig(width, layers, rank, num_classes=3)
    with torch.device("meta"):
        count = sum(p.numel() for p in nn.ParameterList(_parameters(config)))
    assert count == layers * (2 * width * rank + 1) + 3 * (width + 1) == config.num_parameters


def _parameters(config: SideNetworkConfig) -> list[nn.Parameter]:
    # the generator of the initial values lives on the CPU
    with torch.device("cpu"):
        return list(SideNetwork(config).parameters())


def test_same_seed_same_start() -> None:
    """The initial values follow the seed and leave torch's own generator alone."""
    config = SideNetworkConfig(8, 3, 5)
    before = torch.get_rng_state()
    first, again, other = (SideNetwork(config, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.down_LDr, again.down_LDr)
    assert not torch.equal(first.down_LDr, other.down_LDr)


def test_pooling_by_hand() -> None:
    """Mean, first and last look at each sample's own tokens only."""
    hidden = torch.arange(8.0).unsqueeze(1)
    assert pool(hidden, SAMPLES, "mean").flatten().tolist() == [1.0, 3.0, 5.5]
    assert pool(hidden, SAMPLES, "first").flatten().tolist() == [0.0, 3.0, 4.0]
    assert pool(hidden, SAMPLES, "last").flatten().tolist() == [2.0, 3.0, 7.0]


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_a_sample_is_judged_alone(pooling: str) -> None:
    """The logits of a sample do not depend on its neighbours in the mini-batch."""
    side_network = network(pooling=pooling)
    together = side_network(taps(), SAMPLES)
    alone = side_network([tap[4:] for tap in taps()], Ragged.of(torch.tensor([4])))
    torch.testing.assert_close(together[2:], alone)


def test_next_token_head_is_frozen() -> None:
    """Only the adapters learn under a next-token head, and the loss skips the last positions."""
    tail = nn.Linear(8, 11, bias=False)
    config = SideNetworkConfig(8, 3, 5, head="next_token", num_classes=0)
    side_network = SideNetwork(config, frozen_tail=tail)
    trainable = [p for p in side_network.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trainable) == config.num_parameters
    labels = torch.tensor([1, 2, NO_LABEL, NO_LABEL, 3, 4, 5, NO_LABEL])
    logits = side_network.hidden(taps()) @ tail.weight.T
    known = labels != NO_LABEL
    expected = functional.cross_entropy(logits[known], labels[known])
    torch.testing.assert_close(side_network.loss(taps(), SAMPLES, labels), expected)
