"""What a server draws from what it has kept, once the devices are through their data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
from numpy.typing import NDArray

from mobisim.cost.cache import Visits
from mobisim.cost.sending import Sending
from mobisim.cost.system import System
from mobisim.cost.work import BatchShape
from mobisim.streams import generator
from mobisim.world import ReplayWork

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class KeptSamples:
    """All samples that a server has kept, in the order of the devices.

    Shapes: `owner`, the device of each, and `tokens`, how many of it came up, are [samples].
    """

    owner: Integers
    tokens: Integers

    @classmethod
    def of(cls, visits: Visits, sending: Sending, num_devices: int) -> KeptSamples:
        """All that devices with these mini-batches send."""
        sent = visits.sent(sending)
        tokens = np.array([each for of in sent for each in of], np.int64)
        if visits.starts is None:
            owner = np.repeat(np.arange(num_devices), len(tokens))
            return cls(owner, np.tile(tokens, num_devices))
        of_batch = np.repeat(np.arange(num_devices), np.diff(visits.starts))
        return cls(np.repeat(of_batch, [len(of) for of in sent]), tokens)

    def drawn(self, batch_size: int, steps: int, seed: int) -> list[Integers]:
        """Which of them make up each mini-batch: all in a random order, then in another."""
        return list(islice(self._batches(batch_size, seed), steps))

    def _batches(self, batch_size: int, seed: int) -> Iterator[Integers]:
        for number in count():
            order = generator(seed, f"replay/{number}").permutation(len(self.owner))
            yield from (order[at : at + batch_size] for at in range(0, len(order), batch_size))


def replay_work(system: System, kept: KeptSamples, drawn: list[Integers]) -> ReplayWork:
    """The mixtures of sorts of devices in these mini-batches, and their order."""
    sort, group = _sorts(system)
    mixtures: dict[tuple[tuple[int, int, int], ...], int] = {}
    order = np.empty(len(drawn), np.int32)
    for number, samples in enumerate(drawn):
        sorts, places = np.unique(sort[kept.owner[samples]], return_inverse=True)
        counts = np.bincount(places).tolist()
        tokens = np.bincount(places, kept.tokens[samples]).astype(np.int64).tolist()
        parts = zip(group[sorts].tolist(), counts, tokens, strict=True)
        mixture = tuple(sorted((g, n, t) for g, n, t in parts))
        order[number] = mixtures.setdefault(mixture, len(mixtures))
    shaped = (tuple((g, BatchShape(n, t, t, 1, n)) for g, n, t in mixture) for mixture in mixtures)
    return ReplayWork(tuple(shaped), order)


def _sorts(system: System) -> tuple[Integers, Integers]:
    """What tells devices apart in a mini-batch, and the group that stands for each sort.

    That is the model, or the device where each has a projection of its own.
    """
    first: dict[int, int] = {}
    groups = [first.setdefault(id(view), index) for index, view in enumerate(system.views)]
    counts = [group.count for group in system.scenario.devices]
    of_device = np.repeat(groups, counts)
    if system.scenario.federation.alignment.projection == "per-backbone":
        return of_device, np.arange(len(groups))
    projects = [bool(view.side and view.side.projected) for view in system.views]
    devices = np.arange(len(of_device)) + len(groups)
    sort = np.where(np.repeat(projects, counts), devices, of_device)
    return sort, np.append(np.arange(len(groups)), of_device)
