"""Memory of a device that trains on its own, part by part.

Frozen weights lie at the profile's precision. What trains is computed at the precision of its
activations, and so are its gradients; optimiser states are fp32, and where the precision is lower
an fp32 copy of what trains is kept beside them (mixed-precision training). Source: mixed-precision.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from mobisim.cost.compute import ACTIVATION_BYTES, WEIGHT_BYTES
from mobisim.cost.memory import device_memory
from mobisim.cost.system import System
from mobisim.cost.tape import FP32_BYTES
from mobisim.cost.training import Head, Training
from mobisim.cost.work import BatchShape
from mobisim.scenario.methods import MethodInfo
from mobisim.scenario.schema import DeviceGroup


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes on a device that runs a training step.

    `stored` is what autograd keeps for the backward, `transient` what lives within one block or
    in the logits, `optimizer` the optimiser's states with the fp32 copy of what trains.
    """

    weights: int
    gradients: int
    optimizer: int
    stored: int
    transient: int
    runtime: int

    @property
    def peak(self) -> int:
        """All parts together: at the start of the backward they are all alive."""
        return sum(asdict(self).values())


def training(
    system: System, group: DeviceGroup, method: MethodInfo, *, checkpointing: bool = False
) -> Training:
    """A method training the backbone of a scenario on a device of `group`."""
    assert system.backbone is not None
    stated = system.scenario.training
    next_token = stated is not None and stated.head == "next_token"
    return Training(
        method,
        system.backbone,
        Head(system.num_classes, next_token),
        ACTIVATION_BYTES[group.profile.precision.value],
        checkpointing,
        system.scenario.attention,
    )


def training_memory(
    system: System,
    group: DeviceGroup,
    method: MethodInfo,
    shape: BatchShape,
    *,
    checkpointing: bool = False,
) -> TrainingMemory:
    """Peak memory of a device of `group` that trains by `method` with mini-batches of `shape`."""
    run = training(system, group, method, checkpointing=checkpointing)
    found = run.tally(shape)
    forward = device_memory(system, group, shape, 0, 0)
    assert forward is not None
    assert system.side is not None
    frozen = (found.parameters - found.trainable) * WEIGHT_BYTES[group.profile.precision.value]
    copies = system.side.optimizer_states + (run.float_bytes < FP32_BYTES)
    return TrainingMemory(
        weights=round(frozen) + found.trainable * run.float_bytes,
        gradients=found.trainable * run.float_bytes,
        optimizer=found.trainable * copies * FP32_BYTES,
        stored=found.kept_bytes,
        transient=max(forward.transient, run.logit_bytes(shape)),
        runtime=forward.runtime,
    )
