"""Rooflines of devices that we do not own, fitted to published prefill rates.

Prefill is a frozen backbone's forward over one prompt, which is what a device of MobiLLM does; the
rate that makes the roofline take as long as was published is solved for, point by point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mobisim.cost.architecture import Architecture, architecture
from mobisim.cost.compute import WEIGHT_BYTES, RooflineDeviceModel, roofline_s
from mobisim.cost.work import BatchShape, Work
from mobisim.errors import InputError
from mobisim.scenario.catalog import profile as shipped_profile
from mobisim.scenario.load import validate_profile
from mobisim.scenario.profiles import Prefill, Roofline, TransformerProfile
from mobisim.scenario.quantities import Sourced

SLOWEST, FASTEST = 1e3, 1e21  # flop/s between which a rate is looked for


@dataclass(frozen=True)
class Point:
    """A published prefill rate and the one that the fitted roofline predicts, in tokens per s."""

    published: Prefill
    predicted: float

    @property
    def error(self) -> float:
        """Predicted over published, less one."""
        return self.predicted / self.published.tokens_per_s - 1


@dataclass(frozen=True)
class Fit:
    """A compute rate in flop/s and how it meets each published rate."""

    flop_per_s: float
    points: tuple[Point, ...]

    @property
    def residual(self) -> float | None:
        """The largest error, as a share; None for a single point, which any fit meets."""
        if len(self.points) == 1:
            return None
        return max(abs(point.error) for point in self.points)


def calibrate(machine: Roofline) -> Fit:
    """Fit a machine's compute rate: the geometric mean of the rates that meet each point.

    Raises:
        InputError: no published rates, an unknown model, or a rate that weights and launches
            alone are too slow for.
    """
    if not machine.prefill:
        raise InputError(
            f"profile {machine.name!r} states no published prefill rates",
            expected="prefill: [{model: …, num_tokens: …, tokens_per_s: …, engine: …, source: …}]",
        )
    rates = [_meeting(machine, point) for point in machine.prefill]
    flop_per_s = math.exp(sum(map(math.log, rates)) / len(rates))
    fitted = _with_rate(machine, flop_per_s)
    points = (
        Point(point, point.num_tokens / prefill_s(fitted, point)) for point in machine.prefill
    )
    return Fit(flop_per_s, tuple(points))


def prefill_s(machine: Roofline, point: Prefill) -> float:
    """Seconds for the prompt of a published point: all blocks, and the head for its last token.

    Where only the number of parameters is known: 2 FLOPs per token and parameter.
    """
    weight_bytes = WEIGHT_BYTES[machine.precision.value]
    if point.model is None:
        assert point.num_parameters is not None
        flop = 2.0 * point.num_parameters * point.num_tokens
        return roofline_s(machine, Work(flop, point.num_parameters * weight_bytes))
    backbone = _backbone(point.model)
    shape = BatchShape.uniform(1, point.num_tokens)
    model = RooflineDeviceModel(machine, backbone, (backbone.num_layers,), None, 1, by_layer=False)
    weights = backbone.vocab_size * backbone.embedding_width
    head = Work(flop=2.0 * weights, num_bytes=weights * weight_bytes, num_ops=1)
    return sum(model.forward_s(shape)) + roofline_s(machine, head)


def _backbone(name: str) -> Architecture:
    model = validate_profile(TransformerProfile, shipped_profile("models", name))
    return architecture(model.config)


def _with_rate(machine: Roofline, flop_per_s: float) -> Roofline:
    return machine.model_copy(update={"flop_per_s": Sourced[float](value=flop_per_s)})


def _meeting(machine: Roofline, point: Prefill) -> float:
    """The compute rate with which the machine takes exactly as long as published.

    Raises:
        InputError: it is too slow whatever its rate.
    """
    published_s = point.num_tokens / point.tokens_per_s
    least_s = prefill_s(_with_rate(machine, FASTEST), point)
    if least_s > published_s:
        raise InputError(
            f"no compute rate of {machine.name!r} explains {point.tokens_per_s:g} tokens per s",
            got=f"reading weights and launching operators alone take {least_s:.3g} s "
            f"of {published_s:.3g} s",
            hint="memory_bandwidth may be too low, or op_overhead too high",
        )
    low, high = math.log(SLOWEST), math.log(FASTEST)
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        slower = prefill_s(_with_rate(machine, math.exp(middle)), point) > published_s
        low, high = (middle, high) if slower else (low, middle)
    return math.exp(high)
