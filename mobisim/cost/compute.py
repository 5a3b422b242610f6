"""Compute models: how long a device's and a server's work on one mini-batch lasts.

A model answers with one number per part: one part with batch granularity, one per tap with layer
granularity. Models are exchangeable: the timeline sees only BatchCost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from mobisim.cost.architecture import Architecture
from mobisim.cost.measured import MeasuredDeviceModel, MeasuredServerModel, codec_calls
from mobisim.cost.operators import Call, Operators
from mobisim.cost.quantised import PackedWeights
from mobisim.cost.system import System, forward_parts
from mobisim.cost.tape import FP32_BYTES
from mobisim.cost.wire import CODEC_BITS, UNSCALED, encoded_bytes, payload_parts
from mobisim.cost.work import BatchShape, Work
from mobisim.errors import InputError
from mobisim.scenario.method_options import Codec
from mobisim.scenario.profiles import (
    DeviceProfile,
    FixedDevice,
    FixedServer,
    Measured,
    Roofline,
    ServerProfile,
)
from mobisim.scenario.schema import DeviceGroup, Wire

WEIGHT_BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "int8": 1.0, "int4": 0.5}
# Kernels with integer weights still read and write their activations in 16 bits.
ACTIVATION_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 2, "int4": 2}
# Operators per tap: absolute maximum, scaling, rounding or look-up, packing; or one cast.
QUANTISE_OPS, CAST_OPS = 4, 1


@dataclass(frozen=True)
class BatchCost:
    """Seconds and bytes of one mini-batch; each tuple has one entry per part.

    `side_forward_s` is empty with batch granularity, where `step_s` is the whole step. What the
    server has kept is unpacked in `cached_s`; `backward_s` is the device's, after a reply of
    `reply_bytes` where there is one.
    """

    forward_s: tuple[float, ...]
    encode_s: tuple[float, ...]
    payload_bytes: tuple[int, ...]
    decode_s: tuple[float, ...]
    side_forward_s: tuple[float, ...]
    step_s: float
    backward_s: float = 0.0
    cached_s: float = 0.0
    reply_bytes: int = 0


class DeviceModel(Protocol):
    """How long a device takes, part by part."""

    def forward_s(self, shape: BatchShape | None) -> tuple[float, ...]:
        """Seconds of the backbone's forward up to each part's last tap."""
        ...

    def encode_s(self, shape: BatchShape | None) -> tuple[float, ...]:
        """Seconds of quantising and packing each part."""
        ...


class ServerModel(Protocol):
    """How long a server worker takes."""

    def codec_s(self, direction: str, codec: Codec | None, shape: BatchShape | None) -> float:
        """Seconds of encoding or decoding all taps, fp32 on the side network's side."""
        ...

    def side_forward_s(self, shape: BatchShape | None) -> tuple[float, ...]:
        """Seconds of the side network's forward of each tap; empty with batch granularity."""
        ...

    def step_s(self, shape: BatchShape | None) -> float:
        """Seconds of the step, without what `side_forward_s` counts."""
        ...


def roofline_s(machine: Roofline, work: Work) -> float:
    """The roofline: compute or memory, whichever is slower, and the launching of operators."""
    compute = work.flop / machine.flop_per_s.value
    memory = work.num_bytes / machine.memory_bandwidth.value
    return max(compute, memory) + work.num_ops * machine.op_overhead.value


@dataclass(frozen=True)
class FixedDeviceModel:
    """Stated times, spread evenly over the parts."""

    profile: FixedDevice
    num_parts: int

    def forward_s(self, shape: BatchShape | None) -> tuple[float, ...]:  # noqa: ARG002 - stated
        """The stated mean, part by part."""
        return _even(self.profile.forward_s.value.mean, self.num_parts)

    def encode_s(self, shape: BatchShape | None) -> tuple[float, ...]:  # noqa: ARG002 - stated
        """The stated mean, part by part."""
        return _even(self.profile.encode_s.value.mean, self.num_parts)


@dataclass(frozen=True)
class RooflineDeviceModel:
    """The backbone on a roofline, block by block."""

    profile: Roofline
    backbone: Architecture
    taps: tuple[int, ...]
    codec: Codec | None
    block_size: int
    by_layer: bool
    packed: PackedWeights | None = None

    def forward_s(self, shape: BatchShape | None) -> tuple[float, ...]:
        """Embedding with the first part; nothing after the last tap is computed."""
        assert shape is not None
        block = roofline_s(self.profile, self._block(shape))
        if self.packed is not None:
            block += roofline_s(self.profile, self.packed.unpacking(self._float_bytes))
        embedding = roofline_s(self.profile, self._embedding(shape))
        return forward_parts(self.taps, block, embedding, by_layer=self.by_layer)

    def encode_s(self, shape: BatchShape | None) -> tuple[float, ...]:
        """Read the activations, write the codes."""
        assert shape is not None
        if self.codec is None:
            return (0.0,) * (len(self.taps) if self.by_layer else 1)
        tap = roofline_s(
            self.profile,
            _codec_work(shape, self.backbone.width, self.codec, self.block_size, self._float_bytes),
        )
        return (tap,) * len(self.taps) if self.by_layer else (tap * len(self.taps),)

    @property
    def _float_bytes(self) -> int:
        return ACTIVATION_BYTES[self.profile.precision.value]

    def _block(self, shape: BatchShape) -> Work:
        backbone = self.backbone
        weights = backbone.block_parameters * WEIGHT_BYTES[self.profile.precision.value]
        return Work(
            flop=backbone.block_flop(shape.num_tokens, shape.num_pairs),
            num_bytes=weights + self._float_bytes * block_values(backbone, shape),
            num_ops=backbone.block_ops,
        )

    def _embedding(self, shape: BatchShape) -> Work:
        return Work(
            flop=self.backbone.projection_flop(shape.num_tokens),
            num_bytes=3.0 * self._float_bytes * shape.num_tokens * self.backbone.width,
            num_ops=4,
        )


def block_values(backbone: Architecture, shape: BatchShape) -> float:
    """Activation values that one block reads and writes, attention scores included."""
    attention = 4 * backbone.num_heads * backbone.head_dim
    mlp = (3 if backbone.gated_mlp else 2) * backbone.ff_width
    return shape.num_tokens * (8 * backbone.width + attention + 2 * mlp) + (
        3.0 * shape.num_pairs * backbone.num_heads
    )


def _codec_work(
    shape: BatchShape, width: int, codec: Codec, block_size: int, float_bytes: int
) -> Work:
    packed = encoded_bytes(shape.num_tokens, width, codec, block_size)
    floats = float_bytes * shape.num_tokens * width
    passes = 1 if codec in UNSCALED else 2  # the maximum is found before values are scaled
    return Work(
        num_bytes=float(passes * floats + packed),
        num_ops=CAST_OPS if CODEC_BITS[codec] >= 16 else QUANTISE_OPS,  # noqa: PLR2004 - a cast
    )


@dataclass(frozen=True)
class FixedServerModel:
    """A stated step, decoding included; its forward share can start with the first tap."""

    profile: FixedServer
    num_parts: int
    by_layer: bool

    def codec_s(self, _direction: str, _codec: Codec | None, _shape: BatchShape | None) -> float:
        """Nothing: the stated step includes it."""
        return 0.0

    def side_forward_s(self, shape: BatchShape | None) -> tuple[float, ...]:  # noqa: ARG002 - stated
        """The stated share of the step, spread over the taps."""
        if not self.by_layer:
            return ()
        share = self.profile.forward_share.value
        return _even(self.profile.step_s.value.mean * share, self.num_parts)

    def step_s(self, shape: BatchShape | None) -> float:  # noqa: ARG002 - stated
        """The stated step, or its rest."""
        share = self.profile.forward_share.value if self.by_layer else 0.0
        return self.profile.step_s.value.mean * (1.0 - share)


@dataclass(frozen=True)
class RooflineServerModel:
    """The side network on a roofline."""

    profile: Roofline
    system: System
    num_parts: int

    def codec_s(self, _direction: str, codec: Codec | None, shape: BatchShape | None) -> float:
        """Codes read and values written, or the other way."""
        backbone = self.system.backbone
        assert backbone is not None
        assert shape is not None
        if codec is None:
            return 0.0
        block_size = self.system.scenario.wire.block_size
        tap = _codec_work(shape, backbone.width, codec, block_size, FP32_BYTES)
        return len(self.system.taps) * roofline_s(self.profile, tap)

    def side_forward_s(self, shape: BatchShape | None) -> tuple[float, ...]:
        """One adapter's forward per tap."""
        assert shape is not None
        assert self.system.side is not None
        if not self.system.by_layer:
            return ()
        tap = roofline_s(self.profile, self.system.side.tap_forward(shape))
        return (tap,) * self.num_parts

    def step_s(self, shape: BatchShape | None) -> float:
        """Forward (batch granularity), head, backward and update."""
        assert shape is not None
        side = self.system.side
        assert side is not None
        work = side.backward_and_update(shape) if self.system.by_layer else side.step(shape)
        return roofline_s(self.profile, work)


def _even(total: float, parts: int) -> tuple[float, ...]:
    return (total / parts,) * parts


def device_model(system: System, group: DeviceGroup) -> DeviceModel:
    """The compute model of a group's devices."""
    if isinstance(group.profile, FixedDevice):
        return FixedDeviceModel(group.profile, _num_parts(system))
    assert system.backbone is not None
    wire = system.scenario.wire
    packed = system.packed if _unpacks(system, group.profile) else None
    rest = system.backbone, system.taps, wire.codec, wire.block_size, system.by_layer, packed
    if isinstance(group.profile, Measured):
        return MeasuredDeviceModel(Operators.of(group.profile), *rest)
    return RooflineDeviceModel(group.profile, *rest)


def _unpacks(system: System, profile: DeviceProfile) -> bool:
    """Whether a device computes with other weights than those it holds."""
    return system.options.backbone_weights != profile.precision.value


def server_model(system: System) -> ServerModel:
    """The compute model of the server's workers."""
    profile = system.scenario.server.profile
    if isinstance(profile, FixedServer):
        return FixedServerModel(profile, _num_parts(system), system.by_layer)
    if isinstance(profile, Measured):
        return MeasuredServerModel(Operators.of(profile), system, _num_parts(system))
    return RooflineServerModel(profile, system, _num_parts(system))


def codec_s(
    machine: DeviceProfile | ServerProfile,
    direction: str,
    shape: BatchShape,
    width: int,
    wire: Wire,
) -> float:
    """Seconds of encoding or decoding the activations of one layer.

    Raises:
        InputError: a machine of stated times.
    """
    assert wire.codec is not None
    if isinstance(machine, Measured):
        calls = codec_calls(direction, shape, width, wire.codec, wire.block_size)
        return Operators.of(machine).seconds(calls)
    if isinstance(machine, Roofline):
        floats = ACTIVATION_BYTES[machine.precision.value]
        return roofline_s(machine, _codec_work(shape, width, wire.codec, wire.block_size, floats))
    raise InputError("stated times do not tell how long a codec takes", where="wire.codec")


def _num_parts(system: System) -> int:
    return len(system.taps) if system.by_layer else 1


def batch_cost(system: System, group: DeviceGroup, shape: BatchShape | None) -> BatchCost:
    """Seconds and bytes of one mini-batch of that shape on a device of that group.

    The device computes what the server has not kept, and the server learns from all of it.
    """
    system = system.on(group)
    server = server_model(system)
    whole = shape.sent if shape is not None else None
    cost = BatchCost((), (), (), (), server.side_forward_s(whole), server.step_s(whole))
    if shape is not None and shape.kept is not None:
        cost = replace(cost, cached_s=_unpack_s(system, shape.kept.sent))
        if shape.fresh is None:
            return replace(cost, side_forward_s=(), step_s=cost.step_s + sum(cost.side_forward_s))
    return _with_parts(cost, system, group, shape.fresh if shape is not None else None)


def _with_parts(
    cost: BatchCost, system: System, group: DeviceGroup, fresh: BatchShape | None
) -> BatchCost:
    """What the device sends of a mini-batch, and the server receives."""
    device, server = device_model(system, group), server_model(system)
    sent = fresh.sent if fresh is not None else None
    width = system.backbone.width if system.backbone is not None else 0
    encode_s = device.encode_s(sent)
    unpack_s = server.codec_s("decode", system.scenario.wire.codec, sent)
    if fresh is not None and sent is not None:
        encode_s = (*encode_s[:-1], encode_s[-1] + _score_s(system, group.profile, fresh))
        unpack_s += _repack_s(system, sent)
    return replace(
        cost,
        forward_s=device.forward_s(fresh),
        encode_s=encode_s,
        payload_bytes=payload_parts(
            system.scenario.wire, sent, width, len(system.taps), by_layer=system.by_layer
        ),
        decode_s=_even(unpack_s, _num_parts(system)),
    )


def _score_s(system: System, machine: DeviceProfile, shape: BatchShape) -> float:
    """Seconds of the norms by which activations are filtered: a pass over the last tap."""
    if not system.options.scores or isinstance(machine, FixedDevice):
        return 0.0  # a stated encoding includes it
    assert system.backbone is not None
    tokens, width = shape.num_tokens, system.backbone.width
    if isinstance(machine, Measured):
        norm = "norm:rms" if system.backbone.rms_norm else "norm:layer"
        return Operators.of(machine).seconds([Call(norm, (float(tokens), float(width)))])
    floats = ACTIVATION_BYTES[machine.precision.value]
    return roofline_s(machine, Work(2.0 * tokens * width, float(floats * tokens * width), 1))


def mixed(parts: Sequence[tuple[System, BatchShape]]) -> tuple[System, BatchShape]:
    """Several sorts of devices' samples as one mini-batch of the server."""
    whole = BatchShape.total(shape for _, shape in parts)
    shares = tuple(
        (wide, shape.num_tokens / whole.num_tokens)
        for view, shape in parts
        if view.side is not None
        for wide, _ in view.side.projected
    )
    return parts[0][0].mixing(shares), whole


def replay_cost(parts: Sequence[tuple[System, BatchShape]]) -> BatchCost:
    """Seconds of a mini-batch of what the server has kept of several sorts of devices.

    `parts` are these as their devices see them, each with the samples that are theirs; where
    every device has a projection of its own, each with one device's.
    """
    system, whole = mixed(parts)
    server = server_model(system)
    step_s = server.step_s(whole) + sum(server.side_forward_s(whole))
    decode_s = sum(_unpack_s(view, shape) for view, shape in parts)
    return BatchCost((), (), (), (), (), step_s, cached_s=decode_s)


def _unpack_s(system: System, kept: BatchShape) -> float:
    """Seconds of the server for decoding what it has kept."""
    return server_model(system).codec_s("decode", system.options.cache_codec, kept)


def _repack_s(system: System, sent: BatchShape) -> float:
    """Seconds of the server for encoding what it will keep, where that has a codec of its own."""
    options = system.options
    same = options.cache_codec == system.scenario.wire.codec
    if same or not options.caches:
        return 0.0
    return server_model(system).codec_s("encode", options.cache_codec, sent)
