"""What leaves the device for good, in bytes, by what it says of the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

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
    found = {
        what: sum(count * crossing_bytes(system, what, shape) for shape, count in _sent(prepared))
        for what in beside
    } | {FRAMING: _framing(prepared)}
    return {bulk: payload_bytes - sum(found.values()), **found}


def _framing(prepared: Prepared) -> int:
    system = prepared.system
    method = system.options.method
    return sum(
        count * (HEADER_BYTES * len(traffic(system, shape).up) + lengths_bytes(method, shape))
        for shape, count in _sent(prepared)
    )


def _sent(prepared: Prepared) -> Iterator[tuple[BatchShape, int]]:
    """The shapes of all mini-batches of all devices, and how many have each."""
    workload = prepared.planned.workload
    order = workload.order if workload.order is not None else np.zeros(workload.num_batches, int)
    counts = np.bincount(order, minlength=len(workload.shapes)) * prepared.scenario.num_devices
    for shape, count in zip(workload.shapes, counts.tolist(), strict=True):
        assert shape is not None
        yield shape, count
