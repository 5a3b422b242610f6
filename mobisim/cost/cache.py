"""What a server keeps of the samples that it has seen, visit by visit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mobisim.cost.sending import Padding, Sending
from mobisim.cost.system import System
from mobisim.cost.traffic import kept_bytes
from mobisim.cost.work import BatchShape

Hits = NDArray[np.bool_]


@dataclass(frozen=True)
class Visits:
    """The samples of a device's mini-batches, in their order, and the lengths of these.

    Shapes: `samples` and `lengths` have an entry per mini-batch, each of which has one per sample.
    Where devices have samples of their own, those of the i-th are from `starts[i]` on.
    """

    samples: Sequence[NDArray[np.int64]]
    lengths: Sequence[Sequence[int]]
    padding: Padding = "none"
    longest: int = 0
    starts: NDArray[np.int64] | None = None

    def between(self, first: int, last: int) -> Visits:
        """Some of the mini-batches."""
        return replace(self, samples=self.samples[first:last], lengths=self.lengths[first:last])

    def sent(self, sending: Sending) -> list[list[int]]:
        """Tokens that go up of each mini-batch's samples."""
        if self.padding == "none" or not sending.pads:
            return [list(map(sending.count, of)) for of in self.lengths]
        padded = [self.longest if self.padding == "fixed" else max(of) for of in self.lengths]
        return [[each] * len(of) for each, of in zip(padded, self.lengths, strict=True)]

    def shapes(self, sending: Sending) -> list[BatchShape]:
        """The shape of each mini-batch."""
        return [sending.shape(of, self.padding, self.longest) for of in self.lengths]


@dataclass(frozen=True)
class Served:
    """Mini-batches of which the server has kept some samples: which, and its bytes at most."""

    shapes: list[BatchShape]
    hits: tuple[Hits, ...]
    peak: int


def serve(system: System, sending: Sending, visits: Visits, shapes: list[BatchShape]) -> Served:
    """What of each mini-batch a server has kept, if it keeps as the scenario's options say.

    Devices have equal shares of the capacity, so that nothing depends on who comes first.
    """
    hits, peak = (_alike if visits.starts is None else _each)(system, sending, visits)
    padded = visits.padding != "none"
    found = [
        replace(whole, kept=_part(sending, lengths, hit, whole, padded=padded))
        for lengths, hit, whole in zip(visits.lengths, hits, shapes, strict=True)
    ]
    return Served(found, hits, peak)


def _alike(system: System, sending: Sending, visits: Visits) -> tuple[tuple[Hits, ...], int]:
    """What is kept of devices that all go through the same samples."""
    groups = list(zip(system.views, system.scenario.devices, strict=True))
    walks = {id(view): _walk(view, sending, visits) for view, _ in groups}
    hits, _ = walks[id(groups[0][0])]  # of all groups, since different models have no bound
    return hits, sum(group.count * walks[id(view)][1] for view, group in groups)


def _each(system: System, sending: Sending, visits: Visits) -> tuple[tuple[Hits, ...], int]:
    """What is kept of devices with samples of their own, device by device."""
    assert visits.starts is not None
    bounds = list(pairwise(visits.starts.tolist()))
    hits: list[Hits] = []
    peak = 0
    for view, devices in zip(system.views, system.scenario.ranges, strict=True):
        for first, last in bounds[devices.start : devices.stop]:
            found, most = _walk(view, sending, visits.between(first, last))
            hits.extend(found)
            peak += most
    return tuple(hits), peak


def _walk(system: System, sending: Sending, visits: Visits) -> tuple[tuple[Hits, ...], int]:
    """Which samples of each mini-batch of a device are kept, and their bytes at most."""
    capacity = system.options.cache_bytes
    if capacity is not None:
        capacity //= system.scenario.num_devices
    kept = Kept(capacity, system.options.eviction)

    @cache
    def size(tokens: int) -> int:
        return kept_bytes(system, tokens, sending.labels(1, tokens))

    sent = zip(visits.samples, visits.sent(sending), strict=True)
    hits = tuple(kept.visit(samples.tolist(), map(size, tokens)) for samples, tokens in sent)
    return hits, kept.peak


def _part(
    sending: Sending, lengths: Sequence[int], hit: Hits, whole: BatchShape, *, padded: bool
) -> BatchShape | None:
    """The part of a mini-batch that was kept."""
    kept = [length for length, is_kept in zip(lengths, hit.tolist(), strict=True) if is_kept]
    if not kept:
        return None
    return sending.shape(kept, "fixed" if padded else "none", whole.max_length)


class Kept:
    """Samples with their sizes, up to a capacity in bytes; None for one without end.

    The device knows what is kept, since it knows the order of its samples and the rule. A sample
    larger than all of the capacity is not kept.

    Attributes:
        peak: the most bytes that were ever kept.
    """

    def __init__(self, capacity: int | None, eviction: Literal["fifo", "lru"]) -> None:
        self.capacity, self.eviction = capacity, eviction
        self.peak = self._size = 0
        self._sizes: OrderedDict[int, int] = OrderedDict()

    def visit(self, samples: Sequence[int], sizes: Iterable[int]) -> Hits:
        """Which samples of a mini-batch are kept as it begins; the others are kept from then on."""
        hits = np.array([sample in self._sizes for sample in samples], dtype=np.bool_)
        for sample, size, hit in zip(samples, sizes, hits.tolist(), strict=True):
            if not hit:
                self._keep(sample, size)
            elif self.eviction == "lru" and sample in self._sizes:
                self._sizes.move_to_end(sample)
        return hits

    def _keep(self, sample: int, size: int) -> None:
        if self.capacity is not None and size > self.capacity:
            return
        self._sizes[sample] = size
        self._size += size
        while self.capacity is not None and self._size > self.capacity:
            self._size -= self._sizes.popitem(last=False)[1]
        self.peak = max(self.peak, self._size)
