"""Gradients from forward passes alone, as FwdLLM takes them.

Along a random direction v the loss has the slope (loss(w + h v) - loss(w)) / h, one number, and the
mean of slope times v over normal directions is the gradient in expectation. Whoever knows the seed
knows the directions, so the slopes are all that has to be sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

LENGTH = 1e-3  # h: of a finite difference in single precision

Directions = Callable[[int], list[Tensor]]


def directions(parameters: Sequence[nn.Parameter], seed: int, mini_batch: int) -> Directions:
    """The directions of one mini-batch by number: independent standard normal values."""

    def direction(number: int) -> list[Tensor]:
        source = np.random.SeedSequence([seed, mini_batch, number])
        random = torch.Generator().manual_seed(int(source.generate_state(1)[0]))
        return [torch.randn(p.shape, generator=random) for p in parameters]

    return direction


def slopes(
    parameters: Sequence[nn.Parameter],
    loss: Callable[[], float],
    direction: Directions,
    count: int,
) -> tuple[float, Tensor]:
    """The device's part: the loss, and its slope along each direction, fp32 [count]."""
    here = [parameter.data for parameter in parameters]
    value = loss()
    found = [
        (_moved_loss(parameters, here, direction(number), loss) - value) / LENGTH
        for number in range(count)
    ]
    return value, torch.tensor(found)


def _moved_loss(
    parameters: Sequence[nn.Parameter],
    here: Sequence[Tensor],
    direction: Sequence[Tensor],
    loss: Callable[[], float],
) -> float:
    for parameter, value, way in zip(parameters, here, direction, strict=True):
        parameter.data = value.add(way, alpha=LENGTH)
    try:
        return loss()
    finally:
        for parameter, value in zip(parameters, here, strict=True):
            parameter.data = value


def gradient(direction: Directions, slopes_K: Tensor) -> Iterator[Tensor]:
    """The server's part: the estimated gradient, parameter by parameter."""
    ways = [direction(number) for number in range(len(slopes_K))]
    for column in zip(*ways, strict=True):
        yield torch.tensordot(slopes_K, torch.stack(column), dims=1) / len(slopes_K)
