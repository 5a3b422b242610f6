"""summary.json: the answer of a run in numbers, and its published schema."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from mobisim.cost.memory import DeviceMemory, ServerMemory
from mobisim.cost.training_memory import TrainingMemory
from mobisim.report.energy import Meter
from mobisim.report.metrics import Totals
from mobisim.scenario.schema import Target
from mobisim.span import SERVER
from mobisim.world import World

MAX_NAMED_ACTORS = 1000  # a fleet's utilisation is listed for so many actors


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StandIn(_Record):
    """What was really trained where that is not the model that was timed."""

    trained: str
    timed: str


class GroupMetric(_Record):
    """What the devices of a group make of what was learned: the mean of them, and the extremes."""

    mean: float | None
    least: float | None
    greatest: float | None


class Blames(_Record):
    """Seconds along the critical path, by who spent them."""

    device: float
    uplink: float
    latency: float
    server: float
    downlink: float


class Faults(_Record):
    """What failed: how often and how long the server was down, and work cut short, to be redone.

    `lost_bytes` are what links carried of it, to be sent again.
    """

    num_restarts: int
    down_s: float
    num_lost: int
    lost_s: float
    lost_bytes: int


class Summary(_Record):
    """What summary.json holds. Times in seconds, sizes in bytes, energy in joules.

    `num_learned` is how many mini-batches steps were on, null where each is on one.
    `uplink_bytes` and `downlink_bytes` are what the links carried, packet overhead and what was
    carried of cut transfers included; `uplink_payload_bytes` leaves both out. `battery_share` is
    what the device that used most of its battery drew, in full charges and not counting a charger.
    FLOPs are those of the products of all stepped mini-batches, and `cache_hit_rate` is the share
    of their samples that the server had kept; null where it keeps none. With a validation split,
    `initial_metric`, `validation_metric` and `time_to_target_s` are of that, `final_metric` is of
    the held-out one. Metrics are means over all devices; where there are several,
    `metric_of_groups` has those of each group, of the split that evaluations go to. Null means not
    known or not asked, and for `makespan_s` also that the scenario does not fit.
    """

    schema_version: Literal[1] = 1
    name: str
    digest: str
    seed: int
    method: str
    model: str | None
    granularity: str
    ended_by: Literal["finished", "horizon", "target", "plateau", "memory"]
    makespan_s: float | None
    num_batches: int
    num_steps: int
    num_learned: int | None = None
    uplink_bytes: int
    uplink_payload_bytes: int
    downlink_bytes: int
    target: Target | None
    time_to_target_s: float | None
    metric_name: str | None
    initial_metric: float | None
    final_metric: float | None
    validation_metric: float | None
    metric_of_groups: list[GroupMetric] | None
    bottleneck: Literal["device", "uplink", "server", "downlink"] | None
    blame_s: Blames | None
    step_breakdown_s: dict[str, float] | None
    faults: Faults | None = None
    utilisation: dict[str, float]
    device_peak_bytes: int | None
    device_capacity_bytes: int | None
    device_fits: bool | None
    device_short_bytes: int | None
    device_memory_bytes: dict[str, int] | None
    server_peak_bytes: int | None
    server_capacity_bytes: int | None
    server_fits: bool | None
    server_short_bytes: int | None
    server_memory_bytes: dict[str, int] | None
    device_flop: float | None
    server_flop: float | None
    cache_hit_rate: float | None
    energy_j: float | None
    energy_parts_j: dict[str, float] | None
    battery_share: float | None
    padding_fraction: float | None
    stand_in: StandIn | None
    provenance_counts: dict[str, int]
    extrapolated: list[str]
    warnings: list[str]


def fit_fields(
    side: str, memory: DeviceMemory | TrainingMemory | ServerMemory | None, capacity: int | None
) -> dict[str, object]:
    """The summary's fields on whether one side's memory suffices; `side` is device or server."""
    peak = memory.peak if memory is not None else None
    known = peak is not None and capacity is not None
    short = max(peak - capacity, 0) if peak is not None and capacity is not None else None
    return {
        f"{side}_peak_bytes": peak,
        f"{side}_capacity_bytes": capacity,
        f"{side}_fits": short == 0 if known else None,
        f"{side}_short_bytes": short,
        f"{side}_memory_bytes": asdict(memory) if memory is not None else None,
    }


def timing_fields(world: World, totals: Totals) -> dict[str, object]:
    """The summary's fields that spans alone decide."""
    return {
        "makespan_s": totals.makespan_s,
        "num_steps": totals.num_steps,
        "num_learned": totals.num_learned if world.batching is not None else None,
        "uplink_bytes": totals.uplink_bytes,
        "uplink_payload_bytes": totals.uplink_payload_bytes,
        "downlink_bytes": totals.downlink_bytes,
        "bottleneck": totals.blame.bottleneck,
        "blame_s": totals.blame._asdict(),
        "step_breakdown_s": totals.step_breakdown_s,
        "utilisation": utilisation(world, totals),
        "faults": _faults(totals),
    }


def _faults(totals: Totals) -> Faults | None:
    if not (totals.num_restarts or totals.num_lost):
        return None
    return Faults(
        num_restarts=totals.num_restarts,
        down_s=totals.down_s,
        num_lost=totals.num_lost,
        lost_s=totals.lost_s,
        lost_bytes=totals.lost_bytes,
    )


NO_TIMING: dict[str, object] = {
    "makespan_s": None,
    "num_steps": 0,
    "num_learned": None,
    "uplink_bytes": 0,
    "uplink_payload_bytes": 0,
    "downlink_bytes": 0,
    "bottleneck": None,
    "blame_s": None,
    "step_breakdown_s": None,
    "utilisation": {},
    "device_flop": None,
    "server_flop": None,
    "cache_hit_rate": None,
    "energy_j": None,
    "energy_parts_j": None,
    "battery_share": None,
}


def utilisation(world: World, totals: Totals) -> dict[str, float]:
    """Busy share of the makespan, per actor that works; workers first in a large fleet."""
    actors = world.actors
    codes = np.flatnonzero(actors.roles != SERVER)
    if len(codes) > MAX_NAMED_ACTORS:
        codes = np.sort(codes[np.argsort(-actors.roles[codes], kind="stable")][:MAX_NAMED_ACTORS])
    makespan = totals.makespan_s or 1.0
    return {actors.names[code]: float(totals.busy_s[code]) / makespan for code in codes.tolist()}


def energy_fields(world: World, totals: Totals) -> dict[str, object]:
    """Joules of all devices together, and the largest share of a battery that one of them used."""
    usage = Meter(world).usage(totals)
    if usage is None:
        return dict.fromkeys(("energy_j", "energy_parts_j", "battery_share"))
    parts = {name: float(getattr(usage, name).sum()) for name in ("idle", "compute", "radio")}
    shares = usage.battery_share[~np.isnan(usage.battery_share)]
    return {
        "energy_j": sum(parts.values()),
        "energy_parts_j": parts,
        "battery_share": float(shares.max()) if len(shares) else None,
    }
