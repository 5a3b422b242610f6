"""Measured operators: the sizes that each depends on, and its surface over them.

Outside the measured sizes nothing is said unless the user insists.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mobisim.cost.surface import Sizes, Surface
from mobisim.errors import InputError
from mobisim.scenario.profiles import Measured
from mobisim.scenario.samples import Sample

# The sizes that an operator's time depends on, by the part of its name before the colon.
AXES: dict[str, tuple[str, ...]] = {
    "linear": ("tokens", "fan-in", "fan-out"),
    "attention": ("tokens", "length", "width", "head size"),
    "norm": ("tokens", "width"),
    "activation": ("tokens", "width"),
    "add": ("tokens", "width"),
    "rotary": ("tokens", "width"),
    "embedding": ("tokens", "width"),
    "table": ("tokens", "width", "rows"),
    "encode": ("tokens", "width", "block size"),
    "decode": ("tokens", "width", "block size"),
    "adapter": ("tokens", "width", "bottleneck"),
    "optimizer": ("parameters",),  # of one tensor
    "memory": ("bytes",),
    "head": ("tokens", "width", "vocabulary"),
    "piece": ("tokens", "length"),
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
    by_name = {"tokens": tokens, "length": sample.length, "fan-in": width}
    by_name |= dict.fromkeys(("parameters", "bytes"), width)
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
    def in_pieces(self) -> bool:
        """Whether whole pieces of one model were timed, in place of any model's operators."""
        return any(one.operator.startswith("piece:") for one in self.samples)

    @property
    def _kind(self) -> tuple[str, int]:
        return self.precision, self.threads

    def seconds(self, calls: Iterable[Call]) -> float:
        """How long these calls take, one after the other."""
        return sum(call.count * self._surface(call).seconds(call.sizes) for call in calls)

    def anew_s(self, num_bytes: float) -> float:
        """What it costs that so much memory is new: writing it first, less writing it again.

        Beyond the largest and below the smallest size that was measured, as much for each byte
        as there; nothing where it was not measured.
        """
        anew, again = (self._surfaces.get(f"memory:{time}") for time in ("anew", "again"))
        if anew is None or again is None or not num_bytes:
            return 0.0
        low, high = anew.range_of(0)
        known = min(max(num_bytes, low), high)
        extra = anew.seconds((known,)) - again.seconds((known,))
        return max(0.0, extra) * num_bytes / known

    def covers(self, calls: Iterable[Call]) -> bool:
        """Whether all of these operators were measured, and at such sizes."""
        calls = list(calls)
        known = all(call.operator in self._surfaces for call in calls)
        return known and not self.outside(calls)

    def outside(self, calls: Iterable[Call]) -> list[str]:
        """What of these calls lies outside the measured sizes, in words."""
        return [words for call in calls for words in self._beyond(call)]

    def _surface(self, call: Call) -> Surface:
        """The operator's surface.

        Raises:
            InputError: this operator was not measured.
        """
        if call.operator not in self._surfaces:
            sort = call.operator.partition(":")[0]
            alike = (name for name in sorted(self._surfaces) if name.partition(":")[0] == sort)
            raise InputError(
                f"profile {self.name!r} has no measured operator {call.operator!r}",
                got=", ".join(alike) or f"no {sort} at all",
                hint="measure that role, precision and codec with `mobisim profile`, or choose "
                "another profile",
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
