"""FLOPs of a mini-batch's matrix products, on the device and on the server, by method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mobisim.cost.compute import mixed
from mobisim.cost.system import System
from mobisim.cost.training import BackbonePart
from mobisim.cost.training_memory import training
from mobisim.cost.work import BatchShape


class Flop(NamedTuple):
    """Of both sides of the link."""

    device: float
    server: float


def method_flop(system: System, shape: BatchShape | None) -> Flop | None:
    """What a mini-batch of that shape takes; None where no model or no shape is known."""
    if system.backbone is None or shape is None:
        return None
    match system.options.method.device:
        case "forward":
            assert system.side is not None
            return Flop(_frozen(system, shape.fresh), system.side.step(shape.sent).flop)
        case "training":
            return Flop(_trained(system, shape), 0.0)
        case "lower_layers":
            return Flop(_trained(system, shape, "below"), _trained(system, shape, "above"))
        case "perturbed_forwards":
            forwards = 1 + system.scenario.tuning.perturbations
            return Flop(forwards * training(system, "fp32").tally(shape).forward_flop, 0.0)
        case "nothing":
            return Flop(0.0, _trained(system, shape))


def replay_flop(parts: Sequence[tuple[System, BatchShape]]) -> Flop:
    """What the server takes for a mini-batch of what it has kept of several sorts of devices."""
    system, whole = mixed(parts)
    assert system.side is not None
    return Flop(0.0, system.side.step(whole).flop)


def _frozen(system: System, fresh: BatchShape | None) -> float:
    """The backbone's forward up to the last tap."""
    if fresh is None:
        return 0.0
    backbone = system.backbone
    assert backbone is not None
    blocks = system.taps[-1] * backbone.block_flop(fresh.num_tokens, fresh.num_pairs)
    return blocks + backbone.projection_flop(fresh.num_tokens)


def _trained(system: System, shape: BatchShape, part: BackbonePart = "all") -> float:
    found = training(system, "fp32", part).tally(shape)
    return found.forward_flop + found.backward_flop
