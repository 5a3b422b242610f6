"""What a testbed runs of a scenario, and what both ends therefore know of each message."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mobisim.cost.architecture import architecture
from mobisim.cost.system import System
from mobisim.cost.wire import payload_parts
from mobisim.cost.work import BatchShape
from mobisim.errors import InputError
from mobisim.prepare import Options, Prepared, prepare
from mobisim.scenario.methods import METHODS
from mobisim.scenario.profiles import TransformerProfile
from mobisim.scenario.resolved import Options as MethodOptions
from mobisim.scenario.resolved import options_of
from mobisim.scenario.schema import DeviceGroup, Scenario
from mobisim.testbed.pace import Pace, pace_of
from mobisim.trainers import make_trainer, trained_taps
from mobisim.training.tokens import backbone_config
from mobisim.training.trainer import Trainer
from mobisim.world import Group

_SERVES = {
    "batching": "steps one by one",
    "restarts": "does not restart",
    "room": "takes in what comes",
}


def as_run_for_real(scenario: Scenario) -> Scenario:
    """The scenario with the backbone that is trained in place of the one that is timed.

    Raises:
        InputError: it does not say what to compute, or asks for what no testbed has.
    """
    training = scenario.training
    if training is None or scenario.wire.codec is None or scenario.wire.payload_bytes is not None:
        raise InputError(
            "a testbed computes for real",
            where="wire" if training else "training",
            expected="training with a task and a backbone, a codec, and no stated payload",
        )
    _check_method(options_of(scenario))
    differ = any(group.model or group.backbone for group in scenario.devices)
    if scenario.federation.partition or differ:
        raise InputError(
            "a testbed's devices have the same samples and the same model",
            where="federation.partition" if scenario.federation.partition else "devices",
        )
    if scenario.server.workers > 1:
        raise InputError(
            "a testbed has one worker", where="server.workers", got=str(scenario.server.workers)
        )
    if scenario.server.discipline != "first-come":
        raise InputError(
            "a testbed serves first come, first served",
            where="server.discipline",
            got=scenario.server.discipline,
        )
    for key, does in _SERVES.items():
        if getattr(scenario.server, key) is not None:
            raise InputError(f"a testbed's server {does}", where=f"server.{key}")
    if any(group.sampled is not None for group in scenario.devices):
        raise InputError("a testbed's devices are as they are", where="devices")
    if any(group.cell is not None for group in scenario.devices):
        raise InputError("a testbed's links share no cell", where="devices")
    if any(group.absences is not None for group in scenario.devices):
        raise InputError("a testbed's devices do not leave", where="devices")
    config = backbone_config(training.backbone)
    side = scenario.side_network
    (taps,) = trained_taps(System(scenario), [architecture(config).num_layers])
    update = {
        "model": TransformerProfile(name=training.backbone, config=config),
        "side_network": side.model_copy(update={} if side.taps == "all" else {"taps": taps}),
        "horizon": None,
    }
    return scenario.model_copy(update=update)


def _check_method(options: MethodOptions) -> None:
    """Refuse what no testbed runs yet.

    Raises:
        InputError: another method than MobiLLM's, or one of its options.
    """
    asked = {
        "method": options.method is not METHODS["mobillm"],
        "cache.capacity": options.caches,
        "wire.tokens": options.tokens != "all",
        "side_network.learns": options.learns != "labels",
        "wire.keep": options.keep is not None,
        "backbone_weights": options.backbone_weights is not None,
    }
    for where in (name for name, is_asked in asked.items() if is_asked):
        raise InputError("a testbed runs plain mobillm", where=where, hint="leave it out")


@dataclass(frozen=True)
class Plan:
    """A scenario as both ends run it: every message's size is known before it comes."""

    prepared: Prepared

    @classmethod
    def of(cls, scenario: Scenario, options: Options) -> Plan:
        """The plan of a scenario; what does not fit or is not covered by a profile runs for real.

        Raises:
            InputError: no testbed can run it.
        """
        options = replace(options, ignore_memory=True, allow_extrapolation=True, real=True)
        return cls(prepare(as_run_for_real(scenario), options))

    @property
    def scenario(self) -> Scenario:
        """The scenario as it is run."""
        return self.prepared.scenario

    @property
    def digest(self) -> bytes:
        """Twelve letters that tell one run from another."""
        return self.prepared.digest.encode()

    @property
    def is_steady(self) -> bool:
        """Whether all links are of constant rates, which the kernel can keep."""
        groups = self.prepared.world.groups
        return all(group.uplink is None and group.downlink is None for group in groups)

    @property
    def num_devices(self) -> int:
        """Devices of all groups."""
        return self.scenario.num_devices

    @property
    def num_batches(self) -> int:
        """Mini-batches of each device."""
        return self.prepared.planned.workload.num_batches

    @property
    def num_parts(self) -> int:
        """Messages of a mini-batch."""
        return len(self.prepared.system.taps) if self.prepared.system.by_layer else 1

    def group(self, device: int) -> Group:
        """The numbers of a device's group."""
        return self.prepared.world.groups[int(self.prepared.world.group_of[device])]

    def device_group(self, device: int) -> DeviceGroup:
        """The scenario's group that a device belongs to."""
        return self.scenario.devices[int(self.prepared.world.group_of[device])]

    def uplink_pace(self, device: int) -> Pace:
        """How a device's uploads go where the sender limits the link."""
        group = self.group(device)
        return pace_of(group.uplink, group.uplink_bits_per_s, self.scenario.seed, device)

    def downlink_pace(self, device: int) -> Pace:
        """How its downloads go."""
        group = self.group(device)
        return pace_of(group.downlink, group.downlink_bits_per_s, self.scenario.seed, device)

    def check_device(self, device: int) -> None:
        """Refuse a device that the scenario does not have.

        Raises:
            InputError: with the highest number.
        """
        if device >= self.num_devices:
            expected = f"0 to {self.num_devices - 1}"
            raise InputError("no such device", where="--index", expected=expected, got=str(device))

    def tap(self, part: int) -> int:
        """What a part's spans say of its tap."""
        return self.prepared.system.taps[part] if self.prepared.system.by_layer else -1

    @cached_property
    def _sizes(self) -> list[tuple[int, ...]]:
        system = self.prepared.system
        assert system.backbone is not None
        return [
            payload_parts(
                self.scenario.wire, shape, system.backbone.width, len(system.taps),
                by_layer=system.by_layer,
            )
            for shape in self.prepared.planned.workload.shapes
        ]  # fmt: skip

    def shape_number(self, batch: int) -> int:
        """Which of the workload's shapes a mini-batch has."""
        order = self.prepared.planned.workload.order
        return 0 if order is None else int(order[batch])

    def shape(self, batch: int) -> BatchShape:
        """A mini-batch's shape as it is sent."""
        shape = self.prepared.planned.workload.shapes[self.shape_number(batch)]
        assert shape is not None
        return shape

    def num_bytes(self, batch: int, part: int) -> int:
        """Bytes of a message."""
        return self._sizes[self.shape_number(batch)][part]

    def wire_bytes(self, device: int, batch: int, part: int) -> int:
        """Bytes that a message occupies on its link, packet overhead included."""
        parts = self.group(device).batches[self.shape_number(batch)].parts
        return parts[part].num_bytes

    def some_batches(self, most: int = 3) -> list[int]:
        """Mini-batches of every shape, to warm up with or to time."""
        shapes = self.prepared.planned.workload.order
        if shapes is None:
            return [0]
        return [int(b) for s in np.unique(shapes) for b in np.flatnonzero(shapes == s)[:most]]

    def trainer(self) -> Trainer:
        """The trainer of the scenario."""
        trainer = make_trainer(self.prepared.system, self.prepared.planned)
        assert isinstance(trainer, Trainer), "the testbed runs side networks alone"
        return trainer
