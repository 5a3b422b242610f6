"""Measured compute models: a transformer's time put together from the operators that it runs.

Each operator has a surface over its sizes; a block is a list of calls. Outside the measured sizes
nothing is said unless the user insists.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mobisim.cost.architecture import Architecture
from mobisim.cost.surface import Sizes, Surface
from mobisim.cost.system import System, forward_parts
from mobisim.cost.work import BatchShape
from mobisim.errors import InputError
from mobisim.scenario.profiles import Measured
from mobisim.scenario.samples import Sample
from mobisim.scenario.schema import Codec

# The sizes that an operator's time depends on, by the part of its name before the colon.
AXES: dict[str, tuple[str, ...]] = {
    "linear": ("tokens", "fan-in", "fan-out"),
    "attention": ("tokens", "length", "width", "head size"),
    "norm": ("tokens", "width"),
    "activation": ("tokens", "width"),
    "add": ("tokens", "width"),
    "rotary": ("tokens", "width"),
    "embedding": ("tokens", "width"),
    "encode": ("tokens", "width", "block size"),
    "decode": ("tokens", "width", "block size"),
    "adapter": ("tokens", "width", "bottleneck"),
    "update": ("parameters",),
    "head": ("tokens", "width", "vocabulary"),
}
SLACK = 1e-6  # of a range's ends: sizes went through logarithms


@dataclass(frozen=True)
class Call:
    """An operator at its sizes, called `count` times."""

    operator: str
    sizes: Sizes
    count: float = 1.0


def sizes_of(sample: Sample) -> Sizes:
    """The sizes of a sample on the axes of its operator."""
    tokens, width, out = sample.batch * sample.length, sample.width, sample.width_out
    by_name = {"tokens": tokens, "length": sample.length, "parameters": width, "fan-in": width}
    axes = AXES[sample.operator.partition(":")[0]]
    return tuple(float(by_name.get(axis, width if axis == "width" else out)) for axis in axes)


@functools.lru_cache(maxsize=32)
def surfaces(samples: tuple[Sample, ...], precision: str, threads: int) -> dict[str, Surface]:
    """The surface of each operator; what was measured at equal sizes counts as its mean."""
    found: dict[str, dict[Sizes, list[float]]] = {}
    for sample in samples:
        known = sample.operator.partition(":")[0] in AXES
        if known and sample.precision == precision and sample.threads == threads:
            at = found.setdefault(sample.operator, {})
            at.setdefault(sizes_of(sample), []).append(math.log(sample.median_s))
    return {
        operator: Surface.through({k: math.exp(sum(v) / len(v)) for k, v in at.items()})
        for operator, at in found.items()
    }


@dataclass(frozen=True)
class Operators:
    """The measured operators of one machine at one precision and number of threads."""

    name: str
    samples: tuple[Sample, ...]
    precision: str
    threads: int

    @classmethod
    def of(cls, profile: Measured) -> Operators:
        """Those of a measured profile."""
        return cls(profile.name, profile.samples, profile.precision.value, profile.threads)

    @functools.cached_property
    def _surfaces(self) -> dict[str, Surface]:
        return surfaces(self.samples, self.precision, self.threads)

    @property
    def best_flop_per_s(self) -> float | None:
        """The rate of the fastest product that was measured; None where there was none."""
        linear = (sample for sample in self.samples if sample.operator == "linear")
        mine = (one for one in linear if (one.precision, one.threads) == self._kind)
        return max((2 * math.prod(sizes_of(one)) / one.median_s for one in mine), default=None)

    @property
    def _kind(self) -> tuple[str, int]:
        return self.precision, self.threads

    def seconds(self, calls: Iterable[Call]) -> float:
        """How long these calls take, one after the other."""
        return sum(call.count * self._surface(call).seconds(call.sizes) for call in calls)

    def outside(self, calls: Iterable[Call]) -> list[str]:
        """What of these calls lies outside the measured sizes, in words."""
        return [words for call in calls for words in self._beyond(call)]

    def _surface(self, call: Call) -> Surface:
        """The operator's surface.

        Raises:
            InputError: this operator was not measured.
        """
        if call.operator not in self._surfaces:
            raise InputError(
                f"profile {self.name!r} has no measured operator {call.operator!r}",
                got=f"measured: {', '.join(sorted(self._surfaces))}",
                hint="profile with that role, precision and codec, or choose another profile",
            )
        return self._surfaces[call.operator]

    def _beyond(self, call: Call) -> Iterator[str]:
        surface = self._surface(call)
        axes = AXES[call.operator.partition(":")[0]]
        ranges = [surface.range_of(axis) for axis in range(len(axes))]
        # All sizes may be large one by one, and have never been so together.
        together = " x ".join(axes), math.prod(call.sizes), surface.range_of_product
        looked_at = [*zip(axes, call.sizes, ranges, strict=True), together]
        for name, size, (low, high) in looked_at:
            if not low * (1 - SLACK) <= size <= high * (1 + SLACK):
                measured = f"measured: {low:.4g} to {high:.4g}"
                yield f"{call.operator} at {size:.4g} {name}, {measured}"


def block_calls(backbone: Architecture, shape: BatchShape) -> list[Call]:
    """What one transformer block calls."""
    tokens, width, inner = float(shape.num_tokens), float(backbone.width), float(backbone.ff_width)
    attended = float(backbone.attention_width)
    norm = "norm:rms" if backbone.rms_norm else "norm:layer"
    attention = "attention:causal" if backbone.is_decoder else "attention:full"
    # Of samples of unequal length: the one length at which as many pairs attend.
    length = shape.num_pairs / shape.num_tokens
    return [
        Call(norm, (tokens, width), backbone.norms_per_block),
        *_query_calls(backbone, tokens, norm),
        Call(attention, (tokens, length, attended, float(backbone.head_dim))),
        Call("linear", (tokens, attended, width)),
        Call("linear", (tokens, width, inner), 1 + backbone.gated_mlp),
        Call(_activation(backbone), (tokens, inner)),
        Call("linear", (tokens, inner, width)),
        Call("add", (tokens, width), 2),
    ]


def _query_calls(backbone: Architecture, tokens: float, norm: str) -> list[Call]:
    """Queries, keys and values, with rotary positions and norms of their own."""
    width, kv_width = float(backbone.width), float(backbone.kv_width)
    query_width = float(backbone.attention_width)
    calls = [
        Call("linear", (tokens, width, query_width)),
        Call("linear", (tokens, width, kv_width), 2),
    ]
    if backbone.fused_qkv:
        calls = [Call("linear", (tokens, width, query_width + 2 * kv_width))]
    if not backbone.position_rows:
        calls.append(Call("rotary", (tokens, query_width + kv_width)))
    if backbone.head_norm:
        calls += [Call(norm, (tokens, query_width)), Call(norm, (tokens, kv_width))]
    return calls


def _activation(backbone: Architecture) -> str:
    if backbone.gated_mlp:
        return "activation:gated"
    return "activation:relu" if backbone.activation == "relu" else "activation:gelu"


def embedding_calls(backbone: Architecture, shape: BatchShape) -> list[Call]:
    """What comes before the first block."""
    tokens, width = float(shape.num_tokens), float(backbone.width)
    calls = [Call("embedding", (tokens, width))]
    if backbone.embedding_width != backbone.width:
        calls.append(Call("linear", (tokens, float(backbone.embedding_width), width)))
    return calls


def codec_calls(
    direction: str, shape: BatchShape, width: int, codec: Codec | None, block_size: int
) -> list[Call]:
    """Encoding or decoding of one tap."""
    if codec is None:
        return []
    sizes = float(shape.num_tokens), float(width), float(block_size)
    return [Call(f"{direction}:{codec}", sizes)]


@dataclass(frozen=True)
class MeasuredDeviceModel:
    """The backbone from measured operators, block by block."""

    operators: Operators
    backbone: Architecture
    taps: tuple[int, ...]
    codec: Codec | None
    block_size: int
    by_layer: bool

    def forward_s(self, shape: BatchShape | None) -> tuple[float, ...]:
        """Embedding with the first part; nothing after the last tap is computed."""
        assert shape is not None
        block = self.operators.seconds(block_calls(self.backbone, shape))
        embedding = self.operators.seconds(embedding_calls(self.backbone, shape))
        return forward_parts(self.taps, block, embedding, by_layer=self.by_layer)

    def encode_s(self, shape: BatchShape | None) -> tuple[float, ...]:
        """The codec, tap by tap."""
        assert shape is not None
        tap = self.operators.seconds(self._encode(shape))
        return (tap,) * len(self.taps) if self.by_layer else (tap * len(self.taps),)

    def outside(self, shape: BatchShape) -> list[str]:
        """What lies outside the measured sizes."""
        calls = block_calls(self.backbone, shape) + embedding_calls(self.backbone, shape)
        return self.operators.outside(calls + self._encode(shape))

    def _encode(self, shape: BatchShape) -> list[Call]:
        return codec_calls("encode", shape, self.backbone.width, self.codec, self.block_size)


@dataclass(frozen=True)
class MeasuredServerModel:
    """The side network from measured operators."""

    operators: Operators
    system: System
    num_parts: int

    def decode_s(self, shape: BatchShape | None) -> tuple[float, ...]:
        """The codec, tap by tap."""
        assert shape is not None
        total = self.operators.seconds(self._decode(shape)) * len(self.system.taps)
        return (total / self.num_parts,) * self.num_parts

    def side_forward_s(self, shape: BatchShape | None) -> tuple[float, ...]:
        """One adapter's forward per tap."""
        assert shape is not None
        if not self.system.by_layer:
            return ()
        return (self.operators.seconds([self._adapter("forward", shape)]),) * self.num_parts

    def step_s(self, shape: BatchShape | None) -> float:
        """Forward (batch granularity), backward and update."""
        assert shape is not None
        calls = [self._adapter("backward", shape), self._update(), *self._head(shape)]
        if not self.system.by_layer:
            calls.append(self._adapter("forward", shape))
        return self.operators.seconds(calls)

    def outside(self, shape: BatchShape) -> list[str]:
        """What lies outside the measured sizes."""
        adapters = [self._adapter("forward", shape), self._adapter("backward", shape)]
        rest = [*adapters, self._update(), *self._head(shape)]
        return self.operators.outside([*self._decode(shape), *rest])

    def _decode(self, shape: BatchShape) -> list[Call]:
        wire, backbone = self.system.scenario.wire, self.system.backbone
        assert backbone is not None
        return codec_calls("decode", shape, backbone.width, wire.codec, wire.block_size)

    def _adapter(self, direction: str, shape: BatchShape) -> Call:
        side = self.system.side
        assert side is not None
        sizes = float(shape.num_tokens), float(side.width), float(side.bottleneck)
        whole = direction == "backward" or not self.system.by_layer
        return Call(f"adapter:{direction}", sizes, side.num_taps if whole else 1)

    def _head(self, shape: BatchShape) -> list[Call]:
        """A next-token head's forward and backward; a classification head is in the adapters."""
        side = self.system.side
        assert side is not None
        if side.head_trains:
            return []
        sizes = float(shape.num_tokens), float(side.width), float(side.head_width)
        return [Call("head:next_token", sizes)]

    def _update(self) -> Call:
        side, training = self.system.side, self.system.scenario.training
        assert side is not None
        name = training.optimizer.name if training is not None else "adamw"
        return Call(f"update:{name}", (float(side.trainable_parameters),))
