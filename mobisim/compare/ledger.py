"""What leaves the device for good, in bytes, by what it says of the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mobisim.cost.system import System
from mobisim.cost.traffic import crossing_bytes, lengths_bytes, traffic
from mobisim.cost.wire import HEADER_BYTES
from mobisim.cost.work import BatchShape
from mobisim.prepare import Prepared

FRAMING = "framing"


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
    sent = list(_sent(prepared))
    found = {
        what: sum(count * crossing_bytes(view, what, shape) for view, shape, count in sent)
        for what in beside
    } | {FRAMING: _framing(prepared)}
    return {bulk: payload_bytes - sum(found.values()), **found}


def _framing(prepared: Prepared) -> int:
    method = prepared.system.options.method
    return sum(
        count * (HEADER_BYTES * len(traffic(view, shape).up) + lengths_bytes(method, shape))
        for view, shape, count in _sent(prepared)
    )


def _sent(prepared: Prepared) -> Iterator[tuple[System, BatchShape, int]]:
    """The shapes of each group's mini-batches, and how many of its devices' have each."""
    shapes = prepared.planned.workload.shapes
    for view, group in zip(prepared.system.views, prepared.world.groups, strict=True):
        for shape, count in zip(shapes, group.counts.tolist(), strict=True):
            assert shape is not None
            yield view, shape, count
