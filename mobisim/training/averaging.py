"""What a device learns apart from others, and what several come to (FedAvg, FedBuff)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mobisim.training.learner import Snapshot


class Contribution(NamedTuple):
    """What one device has learned: its parameters, from so many samples, at that mean loss."""

    parameters: Snapshot
    num_samples: int
    loss: float


def averaged(learned: Sequence[Snapshot], weights: Sequence[float]) -> Snapshot:
    """The weighted mean, parameter by parameter: the first, and what the others differ from it.

    So the mean of one, or of equals, is that very one. Sums are of double precision.
    """
    total = sum(weights)
    return [
        _mean(values, [weight / total for weight in weights])
        for values in zip(*learned, strict=True)
    ]


def moved(
    newest: Snapshot,
    began: Sequence[Snapshot],
    learned: Sequence[Snapshot],
    shares: Sequence[float],
) -> Snapshot:
    """The newest parameters, and of what each learned from where it began its share.

    Sums are of double precision, so that a single whole share of what began with the newest is
    what was learned.
    """
    sums = [value.double() for value in newest]
    for start, end, share in zip(began, learned, shares, strict=True):
        for total, before, after in zip(sums, start, end, strict=True):
            total.add_(share * (after.double() - before.double()))
    return [total.to(value.dtype) for total, value in zip(sums, newest, strict=True)]


def _mean(values: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    first = values[0].double()
    apart = sum(
        ((value.double() - first) * share for value, share in zip(values, shares, strict=True)),
        start=torch.zeros_like(first),
    )
    return (first + apart).to(values[0].dtype)
