"""Alignment: how backbones of different width and depth feed one side network.

Axes: N tokens, L taps, E a backbone's width, D the side network's.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from mobisim.training.backbone import Backbone
from mobisim.training.course import Samples
from mobisim.training.side_network import SideNetwork


class Projection(nn.Module):
    """A trainable matrix for each tap, without bias: activations of width E become of width D.

    It begins at random and keeps the activations' mean square: uniform of variance 1 / E.
    """

    def __init__(self, num_taps: int, wide: int, width: int, seed: int) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        values = torch.rand(num_taps, wide, width, generator=random) * 2 - 1
        self.weight_LED = nn.Parameter(values * math.sqrt(3 / wide))

    def forward(self, taps: Sequence[Tensor]) -> list[Tensor]:
        """L tensors [N, E] -> L tensors [N, D]."""
        return project(taps, self.weight_LED)


def project(taps: Sequence[Tensor], weight_LED: Tensor) -> list[Tensor]:
    """L tensors [N, E], each times its matrix: L tensors [N, D]."""
    return [tap_NE @ own_ED for tap_NE, own_ED in zip(taps, weight_LED.unbind(), strict=True)]


class Aligned(nn.Module):
    """A side network and the projections that lead to it."""

    def __init__(self, side_network: SideNetwork, projections: Sequence[Projection]) -> None:
        super().__init__()
        self.side_network = side_network
        self.projections = nn.ModuleList(projections)


@dataclass(frozen=True)
class Fleet:
    """Devices with their backbones.

    Attributes:
        backbones: all that there are.
        taps: the tapped layers of each.
        width: that of the side network.
        of_device: the number of each device's backbone.
        projects_each: whether each device has a projection of its own, where its backbone needs
            any; otherwise each backbone has.
    """

    backbones: tuple[Backbone, ...]
    taps: tuple[tuple[int, ...], ...]
    width: int
    of_device: tuple[int, ...] = (0,)
    projects_each: bool = False

    @classmethod
    def alone(cls, backbone: Backbone, taps: tuple[int, ...] | None = None) -> Self:
        """One device, with these taps or with all."""
        return cls((backbone,), (taps or tuple(range(1, backbone.num_layers + 1)),), backbone.width)

    @cached_property
    def ways(self) -> list[tuple[int, int | None]]:
        """How activations come to the side network: through a backbone and a projection, if any."""
        return list(dict.fromkeys(self._way(device) for device in range(len(self.of_device))))

    @cached_property
    def way_of(self) -> Samples:
        """The number of each device's way."""
        numbers = {way: number for number, way in enumerate(self.ways)}
        return np.array([numbers[self._way(device)] for device in range(len(self.of_device))])

    def _way(self, device: int) -> tuple[int, int | None]:
        own = self.of_device[device]
        if self.backbones[own].width == self.width:
            return own, None
        return own, device if self.projects_each else own

    def projections(self, seed: int) -> dict[int, Projection]:
        """The projections of all ways that have one, by their number."""
        return {
            number: Projection(
                len(self.taps[own]),
                self.backbones[own].width,
                self.width,
                zlib.crc32(f"{seed}/projection/{name}".encode()),
            )
            for number, (own, name) in enumerate(self.ways)
            if name is not None
        }
