"""What leaves the device for good, in bytes, by what it says of the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mobisim.cost.system import System
from mobisim.cost.traffic import crossing_bytes, lengths_bytes, round_traffic, traffic
from mobisim.cost.wire import HEADER_BYTES
from mobisim.cost.work import BatchShape
from mobisim.prepare import Prepared

FRAMING = "framing"

Sent = tuple[System, BatchShape, int]


def ledger(prepared: Prepared, payload_bytes: int) -> Mapping[str, int]:
    """The payload of a run, by kind; lengths of samples and headers are framing.

    A stated payload cannot be told apart: all of it is what the method sends most of.
    """
    system = prepared.system
    if not payload_bytes:
        return {}
    bulk, *beside = system.options.up
    if prepared.scenario.wire.payload_bytes is not None:
        return {bulk: payload_bytes}
    sent, updates = list(_sent(prepared)), _updates(prepared, payload_bytes)
    _, of_rounds = system.options.method.exchanges
    found: dict[str, int] = {
        what: sum(
            count * crossing_bytes(view, what, shape)
            for view, shape, count in (updates if what in of_rounds else sent)
        )
        for what in beside
    }
    found[FRAMING] = _framing(sent) + HEADER_BYTES * sum(count for _, _, count in updates)
    return {bulk: payload_bytes - sum(found.values()), **found}


def _framing(sent: Sequence[Sent]) -> int:
    return sum(
        count * (HEADER_BYTES + lengths_bytes(view.options.method, shape))
        for view, shape, count in sent
        for _ in traffic(view, shape).up
    )


def _sent(prepared: Prepared) -> Iterator[Sent]:
    """The shapes of each group's mini-batches, and how many of its devices' have each.

    With rounds there are more than devices have, or fewer: as many as are worked through in all.
    """
    shapes, world = prepared.planned.workload.shapes, prepared.world
    own = sum(int(group.counts.sum()) for group in world.groups)
    times = 1.0 if world.rounds is None else world.total_batches / own
    for view, group in zip(prepared.system.views, world.groups, strict=True):
        for shape, count in zip(shapes, group.counts.tolist(), strict=True):
            assert shape is not None
            yield view, shape, round(count * times)


def _updates(prepared: Prepared, payload_bytes: int) -> list[Sent]:
    """What devices sent of rounds, by group: if not counted, one of each that a round selects."""
    rounds, shape = prepared.world.rounds, prepared.planned.workload.largest
    if rounds is None or shape is None:
        return []
    views = prepared.system.views
    sizes = {round_traffic(view, shape).up for view in views}
    if len(sizes) == 1 and not traffic(views[0], shape).up:
        return [(views[0], shape, payload_bytes // sizes.pop())]
    groups = prepared.world.group_of[rounds.selected.ravel()]
    counts = np.bincount(groups, minlength=len(views)).tolist()
    return [(view, shape, count) for view, count in zip(views, counts, strict=True)]
