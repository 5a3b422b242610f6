"""The mini-batches that a learner can step through, and whose their samples are.

They are numbered: those of the devices, one device after the other, then those that are drawn from
what the server has kept. Never imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.int64]
Kept = NDArray[np.bool_]


@dataclass(frozen=True)
class MiniBatch:
    """Samples that are stepped together.

    Shapes: `samples`, the `devices` whose they are, and whether the server had `kept` each: [B].
    """

    samples: Samples
    devices: Samples
    kept: Kept

    def __len__(self) -> int:
        return len(self.samples)

    @classmethod
    def of(cls, parts: Iterable[MiniBatch]) -> Self:
        """Several as one."""
        columns = zip(*((part.samples, part.devices, part.kept) for part in parts), strict=True)
        return cls(*map(np.concatenate, columns))

    def at(self, rows: Samples) -> MiniBatch:
        """Some of it."""
        return MiniBatch(self.samples[rows], self.devices[rows], self.kept[rows])


@dataclass(frozen=True)
class Course:
    """All mini-batches; those of device d begin at `starts[d]`, and those drawn at the last."""

    mini_batches: tuple[MiniBatch, ...]
    starts: Samples
    epochs: int = 1

    @classmethod
    def of(
        cls,
        batches: Sequence[Samples],
        epochs: int = 1,
        *,
        starts: Samples | None = None,
        num_devices: int = 1,
        hits: Sequence[Kept] = (),
        drawn: Sequence[Samples] = (),
    ) -> Self:
        """The course of devices with these mini-batches, all alike where there are no `starts`.

        `hits` says of each mini-batch's samples which the server has kept, all of earlier epochs
        where it is empty. What is `drawn` are numbers of the devices' samples in their order.
        """
        if starts is None:
            starts = np.arange(num_devices + 1) * len(batches)
            batches, hits = [*batches] * num_devices, [*hits] * num_devices
        owned = [
            MiniBatch(samples, np.full(len(samples), device), kept)
            for samples, device, kept in zip(
                batches,
                np.repeat(np.arange(len(starts) - 1), np.diff(starts)).tolist(),
                hits or _seen(batches, starts, epochs),
                strict=True,
            )
        ]
        return cls((*owned, *_drawn(owned, drawn)), starts, epochs)

    @property
    def num_devices(self) -> int:
        """Devices."""
        return len(self.starts) - 1

    def number(self, device: int, batch: int) -> int:
        """The number of a device's mini-batch; of one that is drawn where `device` is -1."""
        return int(self.starts[device]) + batch

    def numbers(self, device: int, batches: range) -> list[int]:
        """The numbers of some of a device's mini-batches, which begin anew when all are through."""
        start, end = self.starts[device : device + 2].tolist()
        return [start + batch % (end - start) for batch in batches]

    def first_epoch(self, device: int) -> Sequence[MiniBatch]:
        """Those in which a device's samples come first."""
        start, end = self.starts[device : device + 2].tolist()
        return self.mini_batches[start : start + (end - start) // self.epochs]


def _seen(batches: Sequence[Samples], starts: Samples, epochs: int) -> list[Kept]:
    """Whether each sample came in an earlier epoch."""
    counts = np.repeat(np.diff(starts), np.diff(starts))
    within = np.arange(len(batches)) - np.repeat(starts[:-1], np.diff(starts))
    later = within >= counts // epochs
    return [np.full(len(samples), seen) for samples, seen in zip(batches, later, strict=True)]


def _drawn(owned: Sequence[MiniBatch], drawn: Sequence[Samples]) -> list[MiniBatch]:
    if not drawn:
        return []
    samples = np.concatenate([batch.samples for batch in owned])
    devices = np.concatenate([batch.devices for batch in owned])
    return [MiniBatch(samples[at], devices[at], np.ones(len(at), np.bool_)) for at in drawn]
