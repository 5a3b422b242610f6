"""The side network: parallel adapters with learned gates, and the heads on top of them.

Axes: N real tokens of the mini-batch, B samples, D width, L taps, r bottleneck, C classes, V words.

x_i = (1 - mu_i) a_i + mu_i s_{i-1};  s_i = x_i + phi(x_i W_dn) W_up;  mu_i = sigmoid(alpha_i);
s_0 = a_1, for taps i = 1..L. All of it is position-wise, so it runs on the real tokens of a
mini-batch laid end to end, and no padding ever reaches it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mobisim.scenario.methods import Learns
from mobisim.training.message import NO_LABEL

Activation = Literal["gelu", "relu"]
HeadKind = Literal["classification", "next_token"]
Pooling = Literal["mean", "first", "last"]
Layer = tuple[Tensor, Tensor, Tensor]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "relu": functional.relu,
}


@dataclass(frozen=True)
class SideNetworkConfig:
    """What defines a side network; `num_classes` is 0 for next-token.

    One that learns residuals begins at none: its head is zero.
    """

    width: int
    num_taps: int
    bottleneck: int
    activation: Activation = "gelu"
    head: HeadKind = "classification"
    pooling: Pooling = "mean"
    num_classes: int = 2
    learns: Learns = "labels"

    @property
    def num_parameters(self) -> int:
        """Trainable parameters: L(2Dr + 1), and the classification head."""
        adapters = self.num_taps * (2 * self.width * self.bottleneck + 1)
        return adapters + self.num_classes * (self.width + 1)


@dataclass(frozen=True)
class Ragged:
    """Where each sample lies among the tokens laid end to end.

    Shapes: starts_B, lengths_B int64 [B].
    """

    starts_B: Tensor
    lengths_B: Tensor

    @classmethod
    def of(cls, lengths_B: Tensor) -> Ragged:
        """Samples of these lengths, one after the other."""
        return cls(lengths_B.cumsum(0) - lengths_B, lengths_B)


class SideNetwork(nn.Module):
    """Adapters over L taps with a head, all on the server."""

    def __init__(
        self, config: SideNetworkConfig, *, seed: int = 0, frozen_tail: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.config = config
        random = torch.Generator().manual_seed(seed)
        layers, width, rank = config.num_taps, config.width, config.bottleneck
        # Stacked over the taps: three tensors to optimise in place of 3 L.
        self.down_LDr = nn.Parameter(_uniform((layers, width, rank), width, random))
        self.up_LrD = nn.Parameter(torch.zeros(layers, rank, width))
        self.gate_L = nn.Parameter(torch.zeros(layers))
        self.head = _build_head(config, random, frozen_tail)

    def hidden(self, taps: Sequence[Tensor]) -> Tensor:
        """The last adapter's output s_L.

        Shapes: L tensors [N, D] -> [N, D].
        """
        state_ND = taps[0]
        for layer, tap_ND in zip(self.layers(), taps, strict=True):
            state_ND = self.adapt(layer, tap_ND, state_ND)
        return state_ND

    def layers(self) -> list[Layer]:
        """The parameters of each tap: gate, then W_dn and W_up."""
        # unbind, not indexing: its backward stacks once, where L indexings would add L full copies
        gates = torch.sigmoid(self.gate_L).unbind()
        return list(zip(gates, self.down_LDr.unbind(), self.up_LrD.unbind(), strict=True))

    def adapt(self, layer: Layer, tap_ND: Tensor, state_ND: Tensor) -> Tensor:
        """One adapter's output s_i from its tap a_i and s_{i-1}: [N, D]."""
        gate, down_Dr, up_rD = layer
        x_ND = torch.lerp(tap_ND, state_ND, gate)
        return torch.addmm(x_ND, ACTIVATIONS[self.config.activation](x_ND @ down_Dr), up_rD)

    def forward(self, taps: Sequence[Tensor], samples: Ragged) -> Tensor:
        """Logits: [B, C] for classification, [N, V] for next-token."""
        logits: Tensor = self.head(self.hidden(taps), samples)
        return logits

    def loss(self, taps: Sequence[Tensor], samples: Ragged, labels: Tensor) -> Tensor:
        """Mean cross-entropy over the samples, or over the positions with a next token.

        Shapes: labels int64 [B], or [N] with NO_LABEL where there is no next token.
        """
        return self.loss_of(self.hidden(taps), samples, labels)

    def loss_of(self, hidden_ND: Tensor, samples: Ragged, labels: Tensor) -> Tensor:
        """The loss of the last adapter's output."""
        return mean_loss(self.head(hidden_ND, samples), labels)


class ClassificationHead(nn.Module):
    """Pools the tokens of each sample, then one linear layer."""

    def __init__(
        self, width: int, num_classes: int, pooling: Pooling, random: torch.Generator
    ) -> None:
        super().__init__()
        self.pooling = pooling
        self.weight_CD = nn.Parameter(_uniform((num_classes, width), width, random))
        self.bias_C = nn.Parameter(torch.zeros(num_classes))

    def forward(self, hidden_ND: Tensor, samples: Ragged) -> Tensor:
        """Logits of each sample: [N, D] -> [B, C]."""
        pooled_BD = pool(hidden_ND, samples, self.pooling)
        return functional.linear(pooled_BD, self.weight_CD, self.bias_C)


class NextTokenHead(nn.Module):
    """The backbone's own final norm, projection and output embedding, copied and frozen."""

    def __init__(self, tail: nn.Module) -> None:
        super().__init__()
        self.tail = tail.requires_grad_(requires_grad=False)

    def forward(self, hidden_ND: Tensor, samples: Ragged) -> Tensor:  # noqa: ARG002 (head contract)
        """Logits of each position: [N, D] -> [N, V]."""
        logits: Tensor = self.tail(hidden_ND)
        return logits


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits, positions without a label left out.

    Where labels are no classes but residuals of probabilities [B, C], their mean squared error.
    """
    if labels.is_floating_point():
        return functional.mse_loss(logits, labels)
    return functional.cross_entropy(logits, labels, ignore_index=NO_LABEL)


def pool(hidden_ND: Tensor, samples: Ragged, pooling: Pooling) -> Tensor:
    """One vector per sample: the mean of its tokens, its first or its last token.

    Shapes: [N, D] -> [B, D].
    """
    if pooling == "mean":
        ends_B = samples.starts_B + samples.lengths_B
        offsets = torch.cat([samples.starts_B, ends_B[-1:]])
        return torch.segment_reduce(hidden_ND, "mean", offsets=offsets, axis=0)
    last = samples.lengths_B - 1 if pooling == "last" else 0
    return hidden_ND[samples.starts_B + last]


def _build_head(
    config: SideNetworkConfig, random: torch.Generator, frozen_tail: nn.Module | None
) -> nn.Module:
    if config.head == "classification":
        head = ClassificationHead(config.width, config.num_classes, config.pooling, random)
        if config.learns == "residuals":
            nn.init.zeros_(head.weight_CD)
        return head
    assert frozen_tail is not None, "a next-token head needs the backbone's tail"
    return NextTokenHead(frozen_tail)


def _uniform(shape: tuple[int, ...], fan_in: int, random: torch.Generator) -> Tensor:
    """Uniform in ±1/sqrt(fan in), torch's own default for linear layers."""
    bound = 1 / math.sqrt(fan_in)
    return (torch.rand(shape, generator=random) * 2 - 1) * bound
