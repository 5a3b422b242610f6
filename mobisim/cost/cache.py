"""What a server keeps of the samples that it has seen, visit by visit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
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
    """

    samples: Sequence[NDArray[np.int64]]
    lengths: Sequence[Sequence[int]]
    padding: Padding = "none"
    longest: int = 0

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
    options = system.options
    capacity = options.cache_bytes
    if capacity is not None:
        capacity //= system.scenario.num_devices
    kept = Kept(capacity, options.eviction)

    @cache
    def size(tokens: int) -> int:
        return kept_bytes(system, tokens, sending.labels(1, tokens))

    found, hits = [], []
    for samples, lengths, whole in zip(visits.samples, visits.lengths, shapes, strict=True):
        padded = visits.padding != "none"
        sent = [whole.max_length if padded and sending.pads else sending.count(n) for n in lengths]
        hit = kept.visit(samples.tolist(), map(size, sent))
        found.append(replace(whole, kept=_part(sending, lengths, hit, whole, padded=padded)))
        hits.append(hit)
    return Served(found, tuple(hits), kept.peak * system.scenario.num_devices)


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
