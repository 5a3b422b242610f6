"""Does it fit: the memory of a scenario's devices and server, before and after the timeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from mobisim.cost.memory import capacity_bytes
from mobisim.cost.method_memory import memory_on_device, memory_on_server
from mobisim.cost.system import System
from mobisim.report.metrics import BacklogFold
from mobisim.report.summary import fit_fields
from mobisim.sim.engine import simulate
from mobisim.world import Workload, World


@dataclass(frozen=True)
class Memory:
    """What a scenario asks of the memory of its devices and its server.

    Payloads that wait count at the size of the largest one that occurs.
    """

    system: System
    workload: Workload
    world: World

    def fields(self, device_backlog: Sequence[int], server_backlog: int) -> dict[str, object]:
        """The summary's fields: of the device group with least room, and of the server.

        `device_backlog` is the highest number of waiting messages, group by group.
        """
        devices = [self._device(i, count) for i, count in enumerate(device_backlog)]
        tightest: dict[str, object] = min(devices, key=_room)
        return tightest | self._server(server_backlog)

    def suffices(self) -> bool:
        """Whether both sides hold what the timeline will ask of them."""
        return _fits(self.verdict)

    @cached_property
    def verdict(self) -> dict[str, object]:
        """The summary's fields that decide, before the timeline.

        Most scenarios are decided without it: they fit with as many payloads waiting as the
        run-ahead allows, or do not fit with none.
        """
        groups = self.world.groups
        most = [
            min(group.run_ahead, group.num_batches)
            * max(len(batch.parts) for batch in group.batches)
            if group.exchange is None
            else 1
            for group in groups
        ]
        waiting = sum(count * group.count for count, group in zip(most, groups, strict=True))
        fields = self.fields(most, waiting)
        if _fits(fields):
            return fields
        fields = self.fields([0] * len(groups), 0)
        if not _fits(fields):
            return fields
        backlog = BacklogFold(self.world)
        for block in simulate(self.world):
            backlog.add(block.rows)
        return self.fields(by_group(self.world, backlog.device_peaks), backlog.server_peak)

    def _device(self, index: int, backlog: int) -> dict[str, object]:
        group = self.system.scenario.devices[index]
        largest = self.world.groups[index].largest_message
        memory = memory_on_device(self.system, group, self.workload.largest, largest, backlog)
        return fit_fields("device", memory, capacity_bytes(group.profile))

    def _server(self, backlog: int) -> dict[str, object]:
        largest = max(group.largest_payload for group in self.world.groups)
        kept = self.workload.kept_bytes
        memory = memory_on_server(self.system, self.workload.largest, backlog * largest, kept)
        return fit_fields("server", memory, capacity_bytes(self.system.scenario.server.profile))


def by_group(world: World, peaks: Sequence[int]) -> list[int]:
    """The highest of the devices' peaks, group by group."""
    highest = [0] * len(world.groups)
    for group, peak in zip(world.group_of.tolist(), peaks, strict=True):
        highest[group] = max(highest[group], peak)
    return highest


def _room(fields: dict[str, object]) -> float:
    capacity, peak = fields["device_capacity_bytes"], fields["device_peak_bytes"]
    if isinstance(capacity, int) and isinstance(peak, int):
        return capacity - peak
    return float("inf")


def _fits(fields: dict[str, object]) -> bool:
    return fields["device_fits"] is not False and fields["server_fits"] is not False
