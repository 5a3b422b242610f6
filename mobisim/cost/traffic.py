"""What crosses the link for a mini-batch, by what it is, and in which messages."""

from __future__ import annotations

from dataclasses import dataclass

from mobisim.cost.system import System
from mobisim.cost.tape import FP32_BYTES
from mobisim.cost.training import BackbonePart
from mobisim.cost.training_memory import training
from mobisim.cost.wire import HEADER_BYTES, LABEL_BYTES, LENGTH_BYTES, encoded_bytes, payload_parts
from mobisim.cost.work import BatchShape
from mobisim.errors import InputError
from mobisim.scenario.method_options import Codec
from mobisim.scenario.methods import Crossing, MethodInfo

_ANY_SHAPE = BatchShape.uniform(1, 1)  # parameters are as many for all


@dataclass(frozen=True)
class Traffic:
    """Bytes of a mini-batch's messages, in their order, and of its reply; 0 where none comes."""

    up: tuple[int, ...]
    reply: int = 0


def traffic(system: System, shape: BatchShape | None) -> Traffic:
    """The messages of a mini-batch of that shape; none for what the server has kept.

    Raises:
        InputError: a payload that cannot be counted.
    """
    method = system.options.method
    up = tuple(what for what in system.options.up if what not in method.exchanges[1])
    if not up or (shape is not None and shape.fresh is None):
        return Traffic(())
    if method.has_side_network:
        return Traffic(_taps(system, shape))
    assert shape is not None
    things = sum(crossing_bytes(system, what, shape) for what in up)
    down = sum(HEADER_BYTES + crossing_bytes(system, what, shape) for what in method.replies)
    return Traffic((HEADER_BYTES + lengths_bytes(method, shape) + things,), down)


def _taps(system: System, shape: BatchShape | None) -> tuple[int, ...]:
    width = system.backbone.width if system.backbone is not None else 0
    sent = shape.fresh.sent if shape is not None and shape.fresh is not None else None
    return payload_parts(
        system.scenario.wire, sent, width, len(system.taps), by_layer=system.by_layer
    )


@dataclass(frozen=True)
class RoundTraffic:
    """Bytes that a device gets for a round and sends after it; 0 without rounds."""

    down: int
    up: int


def round_traffic(system: System, shape: BatchShape | None) -> RoundTraffic:
    """The messages of a round."""
    if system.options.method.rounds is None:
        return RoundTraffic(0, 0)
    assert shape is not None
    down, up = system.options.method.exchanges
    return RoundTraffic(
        *(
            HEADER_BYTES + sum(crossing_bytes(system, what, shape) for what in way)
            for way in (down, up)
        )
    )


def lengths_bytes(method: MethodInfo, shape: BatchShape) -> int:
    """Bytes of the lengths of the samples, which go up with whatever is of their tokens."""
    if shape.fresh is None or method.up == ("scalars",):
        return 0
    return LENGTH_BYTES * shape.fresh.num_samples


def crossing_bytes(system: System, what: Crossing, shape: BatchShape) -> int:
    """Bytes of one thing that crosses for a mini-batch, without framing; none of what was kept."""
    if shape.fresh is None:
        return 0
    sent = shape.fresh.sent
    match what:
        case "tokens":
            return FP32_BYTES * sent.num_tokens
        case "labels" | "residuals":
            return LABEL_BYTES * sent.num_labels
        case "scalars":
            return FP32_BYTES * system.scenario.tuning.perturbations
        case "update" | "model":
            return FP32_BYTES * _trains_on_device(system)
        case "gradients" | "activations":
            layers = len(system.taps) if system.options.method.has_side_network else 1
            return layers * layer_bytes(system, sent.num_tokens, system.scenario.wire.codec)
        case "trained":
            return delivered_bytes(system)


def _trains_on_device(system: System) -> int:
    part: BackbonePart = "below" if system.options.method.site == "split" else "all"
    return training(system, "fp32", part).tally(_ANY_SHAPE).trainable


def delivered_bytes(system: System) -> int:
    """Bytes that bring a device what trained at the server, in fp32; none where it has all."""
    method = system.options.method
    if "trained" not in method.down or system.backbone is None:
        return 0
    if method.has_side_network:
        return system.side.download_bytes if system.side is not None else 0
    has_half = method.site == "split" and method.rounds is None  # and no average is newer
    run = training(system, "fp32", "above" if has_half else "all")
    return FP32_BYTES * run.tally(_ANY_SHAPE).trainable


def kept_bytes(system: System, num_tokens: int, num_labels: int) -> int:
    """Bytes that the server keeps of a sample of which so many tokens and labels came up.

    Raises:
        InputError: activations of no codec.
    """
    beside = LENGTH_BYTES + LABEL_BYTES * num_labels
    if "tokens" in system.options.method.up:
        return beside + FP32_BYTES * num_tokens
    tap = layer_bytes(system, num_tokens, system.options.cache_codec)
    return beside + len(system.taps) * tap


def layer_bytes(system: System, num_tokens: int, codec: Codec | None) -> int:
    """The activations of one layer, or their gradients, in a codec.

    Raises:
        InputError: no codec is stated.
    """
    if codec is None or system.backbone is None:
        raise InputError(
            "bytes of activations, one by one, are counted by a model and a codec",
            where="wire.codec",
        )
    block_size = system.scenario.wire.block_size
    return encoded_bytes(num_tokens, system.backbone.width, codec, block_size)
