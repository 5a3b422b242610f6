"""How samples are dealt to devices, and each device's to mini-batches: arrays over the fleet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mobisim.scenario.federation import Partition
from mobisim.streams import generator

Integers = NDArray[np.int64]


def owners(partition: Partition, labels: Integers, num_devices: int, seed: int) -> Integers:
    """The device that has each sample, given their labels.

    iid: equal shares, at random. dirichlet: of each label, devices have shares drawn from a
    symmetric Dirichlet law (as niid-bench). quantity: of all samples, whatever
    their label. A device may be left with none.
    """
    draws = generator(seed, "partition")
    found = np.zeros(len(labels), np.int64)
    if partition.kind == "dirichlet":
        for label in np.unique(labels):
            mine = np.flatnonzero(labels == label)
            sizes = _sizes(partition, len(mine), num_devices, draws)
            found[draws.permutation(mine)] = np.repeat(np.arange(num_devices), sizes)
        return found
    sizes = _sizes(partition, len(labels), num_devices, draws)
    return draws.permutation(np.repeat(np.arange(num_devices), sizes))


def sizes_of(partition: Partition, num_samples: int, num_devices: int, seed: int) -> Integers:
    """How many samples each device has, where these have no labels; as `owners` deals them."""
    return _sizes(partition, num_samples, num_devices, generator(seed, "partition"))


def _sizes(
    partition: Partition, num_samples: int, num_devices: int, draws: np.random.Generator
) -> Integers:
    if partition.kind == "iid":
        return num_samples // num_devices + (np.arange(num_devices) < num_samples % num_devices)
    shares = draws.dirichlet(np.full(num_devices, partition.alpha))
    ends = np.round(np.cumsum(shares) * num_samples).astype(np.int64)
    ends[-1] = num_samples
    return np.asarray(np.diff(ends, prepend=0))


@dataclass(frozen=True)
class Dealt:
    """Mini-batches of devices with so many samples each, device by device, epoch by epoch.

    Shapes: `sizes` is [devices], and so are `per_epoch` and `epochs`; everything else but
    `starts`, [devices + 1], is [mini-batches].
    """

    sizes: Integers
    batch_size: int
    epochs: int | Integers = 1

    @cached_property
    def per_epoch(self) -> Integers:
        """Mini-batches of each device in an epoch."""
        return -(-self.sizes // self.batch_size)

    @cached_property
    def starts(self) -> Integers:
        """Where the mini-batches of each device begin, and where the last one's end."""
        return np.append(0, np.cumsum(self.per_epoch * self.epochs))

    @cached_property
    def _device(self) -> Integers:
        return np.repeat(np.arange(len(self.sizes)), np.diff(self.starts))

    @cached_property
    def _within(self) -> tuple[Integers, Integers]:
        """The epoch of each mini-batch, and its number within that."""
        number = np.arange(self.starts[-1]) - self.starts[self._device]
        epoch, within = np.divmod(number, self.per_epoch[self._device])
        return epoch, within

    @cached_property
    def counts(self) -> Integers:
        """Samples of each mini-batch; the last of a device's epoch may be short."""
        left = self.sizes[self._device] - self._within[1] * self.batch_size
        return np.asarray(np.minimum(left, self.batch_size))

    def samples(self, owner: Integers, orders: Iterable[Integers]) -> list[Integers]:
        """The samples of each mini-batch.

        Args:
            owner: the device of each sample.
            orders: of each epoch, in which all devices' samples come; each takes its own in turn.
        """
        firsts = np.cumsum(self.sizes) - self.sizes
        at = firsts[self._device] + self._within[1] * self.batch_size
        laid = [order[np.argsort(owner[order], kind="stable")] for order in orders]
        where = zip(self._within[0].tolist(), at.tolist(), self.counts.tolist(), strict=True)
        return [laid[epoch][start : start + count] for epoch, start, count in where]
