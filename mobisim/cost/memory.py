"""Peak memory of device and server, part by part, against what they have."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from mobisim.cost.compute import ACTIVATION_BYTES, WEIGHT_BYTES
from mobisim.cost.system import System
from mobisim.cost.work import BatchShape
from mobisim.scenario.profiles import Machine, Precision
from mobisim.scenario.schema import DeviceGroup


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes on a device that only runs the backbone forward.

    `transient` are the activations inside one block, `taps` the tapped ones held until they are
    encoded, `encode` the message under construction, `queue` the payloads that wait to be sent.
    """

    weights: int
    transient: int
    taps: int
    encode: int
    queue: int
    runtime: int

    @property
    def peak(self) -> int:
        """All parts together: they can be alive at once."""
        return sum(asdict(self).values())


@dataclass(frozen=True)
class ServerMemory:
    """Bytes on the server.

    `state` is what trains with its gradients and states, `stored` what a step keeps for the
    backward and `transient` what lives within it, for each worker, `queue` the payloads that wait,
    `weights` a frozen backbone's, `cache` what is kept for later epochs.
    """

    state: int
    stored: int
    queue: int
    runtime: int
    weights: int = 0
    cache: int = 0
    transient: int = 0

    @property
    def peak(self) -> int:
        """All parts together."""
        return sum(asdict(self).values())


def device_memory(
    system: System, group: DeviceGroup, shape: BatchShape | None, largest_part: int, queued: int
) -> DeviceMemory | None:
    """Peak memory of a device of `group` at its largest mini-batch; None where no shape is known.

    Args:
        system: the sizes of the scenario.
        group: whose device.
        shape: the largest mini-batch.
        largest_part: bytes of the largest message.
        queued: bytes of the payloads that waited on the device at the worst moment.
    """
    backbone = system.backbone
    if backbone is None or shape is None:
        return None
    precision = group.profile.precision.value
    held = shape if system.options.scores else shape.sent  # until the last tap is there
    stream = ACTIVATION_BYTES[precision] * held.num_tokens * backbone.width
    return DeviceMemory(
        weights=backbone_bytes(system, precision),
        transient=transient_bytes(system, precision, shape) + _unpacked_bytes(system, precision),
        taps=stream * (1 if system.by_layer else len(system.taps)),
        encode=largest_part,
        queue=queued,
        runtime=runtime_bytes(group.profile),
    )


def backbone_bytes(system: System, precision: Precision) -> int:
    """What the frozen backbone takes: at the device's precision, but for what is quantised."""
    backbone, packed = system.backbone, system.packed
    assert backbone is not None
    values, quantised = backbone.backbone_parameters, 0
    if packed is not None:
        values -= backbone.num_layers * packed.num_values
        quantised = backbone.num_layers * packed.num_bytes
    return quantised + round(values * WEIGHT_BYTES[precision])


def _unpacked_bytes(system: System, precision: Precision) -> int:
    """The one weight that is unpacked at a time."""
    packed = system.packed
    if packed is None or packed.codec == precision:
        return 0
    return ACTIVATION_BYTES[precision] * packed.largest


def transient_bytes(system: System, precision: Precision, shape: BatchShape) -> int:
    """The activations inside one block of the backbone."""
    backbone = system.backbone
    assert backbone is not None
    stream = shape.num_tokens * backbone.width
    attention = 4 * shape.num_tokens * backbone.num_heads * backbone.head_dim
    eager = system.scenario.attention == "eager" or backbone.score_cap
    scores = shape.num_pairs * backbone.num_heads if eager else 0
    mlp = shape.num_tokens * backbone.ff_width * (2 if backbone.gated_mlp else 1)
    return ACTIVATION_BYTES[precision] * (2 * stream + max(attention + scores, mlp))


def server_memory(system: System, shape: BatchShape | None, queued: int) -> ServerMemory | None:
    """Peak memory of the server; None where no shape is known."""
    side = system.side
    if side is None or shape is None:
        return None
    server = system.scenario.server
    together = 1 if server.batching is None else server.batching.most
    at_once = BatchShape.total([shape] * together)
    return ServerMemory(
        state=side.state_bytes,
        stored=server.workers * max(_stored(view, at_once) for view in system.views),
        queue=queued,
        runtime=runtime_bytes(server.profile),
        transient=server.workers * side.logit_bytes(at_once),
    )


def _stored(system: System, shape: BatchShape) -> int:
    """What a step keeps of a mini-batch of these devices."""
    assert system.side is not None
    return system.side.stored_bytes(shape)


def runtime_bytes(profile: Machine) -> int:
    """What system and framework take."""
    return round(profile.runtime_memory.value) if profile.runtime_memory is not None else 0


def capacity_bytes(profile: Machine) -> int | None:
    """What the machine has; None where its profile does not say."""
    return round(profile.memory.value) if profile.memory is not None else None
