"""Memory of a device that trains on its own, part by part.

Frozen weights lie at the profile's precision. What trains is computed at the precision of its
activations, and so are its gradients; optimiser states are fp32, and where the precision is lower
an fp32 copy of what trains is kept beside them (mixed-precision training). Source: mixed-precision.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from mobisim.cost.compute import ACTIVATION_BYTES, WEIGHT_BYTES
from mobisim.cost.memory import runtime_bytes, transient_bytes
from mobisim.cost.system import System
from mobisim.cost.tape import FP32_BYTES
from mobisim.cost.training import BackbonePart, Head, Training
from mobisim.cost.work import BatchShape
from mobisim.errors import InputError
from mobisim.scenario.methods import Lora, MethodInfo
from mobisim.scenario.profiles import DeviceProfile, Precision, ServerProfile

TrainingMachine = DeviceProfile | ServerProfile


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes on a device that runs a training step.

    `stored` is what autograd keeps for the backward, `transient` what lives within one block or
    in the logits, `optimizer` the optimiser's states with the fp32 copy of what trains, `queue`
    what goes up and comes down for a mini-batch.
    """

    weights: int
    gradients: int
    optimizer: int
    stored: int
    transient: int
    runtime: int
    queue: int = 0

    @property
    def peak(self) -> int:
        """All parts together: at the start of the backward they are all alive."""
        return sum(asdict(self).values())


def training(system: System, precision: Precision, part: BackbonePart = "all") -> Training:
    """The scenario's method training its backbone, or a part of it, at a precision."""
    assert system.backbone is not None
    stated = system.scenario.training
    next_token = stated is not None and stated.head == "next_token"
    layers = system.backbone.num_layers if part == "all" else cut_of(system)
    if part == "above":
        layers = system.backbone.num_layers - layers
    return Training(
        _of_rank(system.options.method, system.rank),
        replace(system.backbone, num_layers=layers),
        Head(system.num_classes, next_token),
        ACTIVATION_BYTES[precision],
        system.scenario.tuning.checkpointing,
        system.scenario.attention,
        part,
    )


def _of_rank(method: MethodInfo, rank: int | None) -> MethodInfo:
    """The method with a bypass of that rank, if it is stated."""
    if rank is None or not isinstance(method.bypass, Lora):
        return method
    return replace(method, bypass=replace(method.bypass, rank=rank))


def cut_of(system: System) -> int:
    """The last layer on the device.

    Raises:
        InputError: a cut that leaves one side without a layer.
    """
    assert system.backbone is not None
    layers = system.backbone.num_layers
    cut = system.scenario.tuning.cut or layers // 2
    if not 1 <= cut < layers:
        raise InputError(
            "either side of the cut needs a layer",
            where="tuning.cut",
            expected=f"1 to {layers - 1}" if layers > 1 else "a model of two layers at least",
            got=str(cut),
        )
    return cut


def training_memory(
    system: System, machine: TrainingMachine, shape: BatchShape, part: BackbonePart = "all"
) -> TrainingMemory:
    """Peak memory of a machine that trains the backbone, or a part of it, by the method."""
    precision = machine.precision.value
    run = training(system, precision, part)
    found = run.tally(shape)
    assert system.side is not None
    frozen = (found.parameters - found.trainable) * WEIGHT_BYTES[precision]
    copies = system.side.optimizer_states + (run.float_bytes < FP32_BYTES)
    logits = 0 if part == "below" else run.logit_bytes(shape)
    return TrainingMemory(
        weights=round(frozen) + found.trainable * run.float_bytes,
        gradients=found.trainable * run.float_bytes,
        optimizer=found.trainable * copies * FP32_BYTES,
        stored=found.kept_bytes,
        transient=max(transient_bytes(system, precision, shape), logits),
        runtime=runtime_bytes(machine),
    )


def perturbed_memory(system: System, machine: TrainingMachine, shape: BatchShape) -> TrainingMemory:
    """Peak memory of a machine that runs forwards only, with what trains moved in a direction."""
    found = training_memory(system, machine, shape)
    return replace(found, optimizer=0, stored=0)  # the direction lies where gradients would
