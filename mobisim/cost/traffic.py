"""What crosses the link for a mini-batch, by what it is, and in which messages."""

from __future__ import annotations

from dataclasses import dataclass

from mobisim.cost.system import System
from mobisim.cost.tape import FP32_BYTES
from mobisim.cost.training_memory import training
from mobisim.cost.wire import HEADER_BYTES, LABEL_BYTES, LENGTH_BYTES, encoded_bytes, payload_parts
from mobisim.cost.work import BatchShape
from mobisim.errors import InputError
from mobisim.scenario.methods import Crossing, MethodInfo


@dataclass(frozen=True)
class Traffic:
    """Bytes of a mini-batch's messages, in their order, and of its reply; 0 where none comes."""

    up: tuple[int, ...]
    reply: int = 0


def traffic(system: System, shape: BatchShape | None) -> Traffic:
    """The messages of a mini-batch of that shape.

    Raises:
        InputError: a payload that cannot be counted.
    """
    method = system.options.method
    if method.has_side_network:
        width = system.backbone.width if system.backbone is not None else 0
        found = payload_parts(
            system.scenario.wire, shape, width, len(system.taps), by_layer=system.by_layer
        )
        return Traffic(found)
    if not method.up:
        return Traffic(())
    assert shape is not None
    up = HEADER_BYTES + lengths_bytes(method, shape)
    up += sum(crossing_bytes(system, what, shape) for what in method.up)
    down = sum(HEADER_BYTES + crossing_bytes(system, what, shape) for what in method.replies)
    return Traffic((up,), down)


def lengths_bytes(method: MethodInfo, shape: BatchShape) -> int:
    """Bytes that say how long a mini-batch's samples are, where what goes up has a length."""
    return 0 if method.up == ("scalars",) else LENGTH_BYTES * shape.num_samples


def crossing_bytes(system: System, what: Crossing, shape: BatchShape) -> int:
    """Bytes of one thing that crosses for a mini-batch, without framing."""
    match what:
        case "tokens":
            return FP32_BYTES * shape.num_tokens
        case "labels":
            return LABEL_BYTES * shape.num_labels
        case "scalars":
            return FP32_BYTES * system.scenario.tuning.perturbations
        case "update":
            run = training(system, system.scenario.server.profile.precision.value)
            return FP32_BYTES * run.tally(shape).trainable
        case "gradients" | "activations":
            return _layer_bytes(system, shape)
        case _:
            raise NotImplementedError(what)


def _layer_bytes(system: System, shape: BatchShape) -> int:
    """The activations of one layer, or their gradients, in the wire's codec."""
    wire, backbone = system.scenario.wire, system.backbone
    assert backbone is not None
    if wire.codec is None:
        raise InputError("gradients come down in the wire's codec", where="wire.codec")
    return encoded_bytes(shape.num_tokens, backbone.width, wire.codec, wire.block_size)
