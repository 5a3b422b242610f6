"""Measured compute models: a transformer's time put together from the operators that it runs.

A block is a list of calls, each an operator at its sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mobisim.cost.architecture import Architecture
from mobisim.cost.block import activation_operator
from mobisim.cost.operators import Call, Operators
from mobisim.cost.quantised import PackedWeights
from mobisim.cost.system import System, forward_parts
from mobisim.cost.work import BatchShape
from mobisim.scenario.method_options import Codec


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
        Call(activation_operator(backbone), (tokens, inner)),
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


def piece(name: str, shape: BatchShape) -> list[Call]:
    """A whole piece of the one model that was timed."""
    tokens = float(shape.num_tokens)
    return [Call(f"piece:{name}", (tokens, shape.num_pairs / tokens))]


@dataclass(frozen=True)
class MeasuredDeviceModel:
    """The backbone from measured operators, or from whole pieces of it, block by block."""

    operators: Operators
    backbone: Architecture
    taps: tuple[int, ...]
    codec: Codec | None
    block_size: int
    by_layer: bool
    packed: PackedWeights | None = None

    def forward_s(self, shape: BatchShape | None) -> tuple[float, ...]:
        """Embedding with the first part; nothing after the last tap is computed."""
        assert shape is not None
        block = self.operators.seconds(self._block(shape))
        embedding = self.operators.seconds(self._embedding(shape))
        return forward_parts(self.taps, block, embedding, by_layer=self.by_layer)

    def encode_s(self, shape: BatchShape | None) -> tuple[float, ...]:
        """The codec, tap by tap."""
        assert shape is not None
        tap = self.operators.seconds(self._encode(shape))
        return (tap,) * len(self.taps) if self.by_layer else (tap * len(self.taps),)

    def outside(self, shape: BatchShape) -> list[str]:
        """What lies outside the measured sizes."""
        return self.operators.outside(self._calls(shape))

    def covers(self, shape: BatchShape) -> bool:
        """Whether all that it takes was measured."""
        return self.operators.covers(self._calls(shape))

    def _calls(self, shape: BatchShape) -> list[Call]:
        return [*self._block(shape), *self._embedding(shape), *self._encode(shape.sent)]

    def _block(self, shape: BatchShape) -> list[Call]:
        if self.operators.in_pieces:
            return piece("block", shape)
        unpacking = self.packed.unpacking_calls if self.packed is not None else []
        return [*block_calls(self.backbone, shape), *unpacking]

    def _embedding(self, shape: BatchShape) -> list[Call]:
        if self.operators.in_pieces:
            return piece("embedding", shape)
        return embedding_calls(self.backbone, shape)

    def _encode(self, shape: BatchShape) -> list[Call]:
        if self.operators.in_pieces:
            return piece("encode", shape)
        return codec_calls("encode", shape, self.backbone.width, self.codec, self.block_size)


@dataclass(frozen=True)
class MeasuredServerModel:
    """The side network from measured operators."""

    operators: Operators
    system: System
    num_parts: int

    def codec_s(self, direction: str, codec: Codec | None, shape: BatchShape | None) -> float:
        """The codec, tap by tap."""
        assert shape is not None
        return len(self.system.taps) * self.operators.seconds(self._codec(direction, codec, shape))

    def side_forward_s(self, shape: BatchShape | None) -> tuple[float, ...]:
        """One adapter's forward per tap."""
        assert shape is not None
        if not self.system.by_layer:
            return ()
        return (self.operators.seconds(self._side_forward(shape)),) * self.num_parts

    def step_s(self, shape: BatchShape | None) -> float:
        """Forward (batch granularity), backward and update."""
        assert shape is not None
        return self.operators.seconds(self._step(shape))

    def outside(self, shape: BatchShape) -> list[str]:
        """What lies outside the measured sizes."""
        rest = [*self._side_forward(shape), *self._step(shape)]
        decode = self._codec("decode", self.system.scenario.wire.codec, shape)
        return self.operators.outside([*decode, *rest])

    def _side_forward(self, shape: BatchShape) -> list[Call]:
        """Of one tap, where it does not belong to the step."""
        if not self.system.by_layer:
            return []
        if self.operators.in_pieces:
            return piece("side_forward", shape)
        return self._forward(shape)

    def _step(self, shape: BatchShape) -> list[Call]:
        if self.operators.in_pieces:
            return piece("step", shape)
        calls = [self._adapter("backward", shape), *self._update(), *self._head(shape)]
        calls += self._projection("grad_weight", shape)
        return calls if self.system.by_layer else [*calls, *self._forward(shape)]

    def _forward(self, shape: BatchShape) -> list[Call]:
        return [*self._projection("training", shape), self._adapter("forward", shape)]

    def _projection(self, direction: str, shape: BatchShape) -> list[Call]:
        """The products that bring activations to the side network's width."""
        side = self.system.side
        assert side is not None
        whole = direction == "grad_weight" or not self.system.by_layer
        count = side.num_taps if whole else 1
        sizes = ((shape.num_tokens * share, float(wide)) for wide, share in side.projected)
        return [Call(f"linear:{direction}", (*one, float(side.width)), count) for one in sizes]

    def _codec(self, direction: str, codec: Codec | None, shape: BatchShape) -> list[Call]:
        wire, backbone = self.system.scenario.wire, self.system.backbone
        if self.operators.in_pieces and codec == wire.codec:
            return piece(direction, shape)
        assert backbone is not None
        return codec_calls(direction, shape, backbone.width, codec, wire.block_size)

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

    def _update(self) -> list[Call]:
        """The optimiser's, tensor by tensor."""
        side = self.system.side
        assert side is not None
        return optimizer_calls(self.system.optimizer, side.trained_tensors)


def optimizer_calls(optimizer: str, tensors: Mapping[int, int]) -> list[Call]:
    """One update of so many tensors of each size."""
    return [
        Call(f"optimizer:{optimizer}", (float(size),), count) for size, count in tensors.items()
    ]
