"""Peak memory of a method's device and server, by what it has each of them do."""

from __future__ import annotations

from dataclasses import replace

from mobisim.cost.memory import (
    DeviceMemory,
    ServerMemory,
    device_memory,
    runtime_bytes,
    server_memory,
)
from mobisim.cost.method_cost import micro_batches
from mobisim.cost.system import System
from mobisim.cost.tape import FP32_BYTES
from mobisim.cost.training import BackbonePart
from mobisim.cost.training_memory import (
    TrainingMemory,
    perturbed_memory,
    training,
    training_memory,
)
from mobisim.cost.work import BatchShape
from mobisim.scenario.schema import DeviceGroup


def memory_on_device(
    system: System, group: DeviceGroup, shape: BatchShape | None, largest: int, waiting: int
) -> DeviceMemory | TrainingMemory | None:
    """Peak memory of a device of `group` at its largest mini-batch; None where no shape is known.

    Args:
        system: the sizes of the scenario.
        group: whose device.
        shape: the largest mini-batch.
        largest: bytes of the largest message, up or down.
        waiting: messages that waited on the device at the worst moment.
    """
    system = system.on(group)
    if system.backbone is None or shape is None:
        return None
    profile = group.profile
    match system.options.method.device:
        case "forward":
            return device_memory(system, group, shape, largest, waiting * largest)
        case "nothing":
            return DeviceMemory(0, 0, 0, largest, waiting * largest, runtime_bytes(profile))
        case "training":
            found = training_memory(system, profile, _piece(system, shape))
            return replace(found, queue=largest)
        case "lower_layers":
            return replace(training_memory(system, profile, shape, "below"), queue=2 * largest)
        case "perturbed_forwards":
            return replace(perturbed_memory(system, profile, shape), queue=largest)


def memory_on_server(
    system: System, shape: BatchShape | None, queued: int, cached: int = 0
) -> ServerMemory | None:
    """Peak memory of the server; None where it does nothing or no shape is known.

    Args:
        system: the sizes of the scenario.
        shape: the largest mini-batch.
        queued: bytes of the payloads that waited at the worst moment.
        cached: bytes of what is kept for later epochs.
    """
    if system.backbone is None or shape is None:
        return None
    if system.options.method.device == "training" and system.options.method.rounds is not None:
        return _averages(system, shape, queued)
    if system.options.method.site == "device":
        return None
    match system.options.method.device:
        case "forward":
            found = server_memory(system, shape, queued)
            assert found is not None
            return replace(found, cache=cached)
        case "perturbed_forwards":
            return _updates(system, shape, queued)
        case "lower_layers" if system.options.method.rounds is not None:
            return _halves(system, shape, queued)
        case "lower_layers":
            return _trains(system, shape, queued, cached, "above")
        case _:
            return _trains(system, _piece(system, shape), queued, cached, "all")


def _piece(system: System, shape: BatchShape) -> BatchShape:
    """What is worked through at a time."""
    return shape.pieces(micro_batches(system))[0]


def _trains(
    system: System, shape: BatchShape, queued: int, cached: int, part: BackbonePart
) -> ServerMemory:
    server = system.scenario.server
    found = training_memory(system, server.profile, shape, part)
    return ServerMemory(
        state=found.gradients + found.optimizer,
        stored=server.workers * found.stored,
        queue=queued,
        runtime=found.runtime,
        weights=found.weights,
        cache=cached,
        transient=server.workers * found.transient,
    )


def _halves(system: System, shape: BatchShape, queued: int) -> ServerMemory:
    """The upper half, of which what trains is there for each participant, and the sums of both."""
    server, rounds = system.scenario.server, system.scenario.federation.rounds
    copies = rounds.participants or system.scenario.num_devices
    one = _trains(system, shape, queued, 0, "above")
    above = training(system, server.profile.precision.value, "above").tally(shape).trainable
    both = training(system, server.profile.precision.value).tally(shape).trainable
    state = copies * (one.state + FP32_BYTES * above) + 2 * FP32_BYTES * both
    return replace(one, state=state)


def _averages(system: System, shape: BatchShape, queued: int) -> ServerMemory:
    """What trains in fp32, and the sum of what devices sent."""
    server = system.scenario.server
    trainable = training(system, server.profile.precision.value).tally(shape).trainable
    return ServerMemory(2 * FP32_BYTES * trainable, 0, queued, runtime_bytes(server.profile))


def _updates(system: System, shape: BatchShape, queued: int) -> ServerMemory:
    """What trains in fp32, with the sum of directions and the optimiser's states."""
    server = system.scenario.server
    trainable = training(system, server.profile.precision.value).tally(shape).trainable
    assert system.side is not None
    state = FP32_BYTES * trainable * (2 + system.side.optimizer_states)
    return ServerMemory(state, 0, queued, runtime_bytes(server.profile))
