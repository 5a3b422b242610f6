"""Random streams: one per entity and purpose, keyed by name.

Adding a device leaves the draws of all others as they were, and scenarios that differ in one knob
share their random numbers.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

# Draws at once: few at first, since a fleet has a stream for each device, then ever more.
_FEWEST_DRAWS, _MOST_DRAWS = 8, 256
TENTH = 1.2815515655446004  # deviations from the median to a normal law's ninetieth percentile

Factor = Callable[[], float]


class Percentiles(Protocol):
    """A tenth and a ninetieth percentile, over the median."""

    @property
    def p10(self) -> float:
        """At most one."""
        ...

    @property
    def p90(self) -> float:
        """At least one."""
        ...


Distribution = Literal["constant", "exponential"] | Percentiles


def factor_stream(seed: int, name: str, distribution: Distribution) -> Factor | None:
    """Draws of a factor; None for a constant, so that nothing is multiplied.

    The factor has mean one where it is exponential, median one where it follows percentiles.
    """
    if distribution == "constant":
        return None
    draws = generator(seed, name)
    if distribution == "exponential":
        return _exponential(draws).__next__
    return _spread(draws, distribution).__next__


def _exponential(generator: np.random.Generator) -> Iterator[float]:
    for count in _counts():
        yield from generator.standard_exponential(count).tolist()


def _counts() -> Iterator[int]:
    count = _FEWEST_DRAWS
    while True:
        yield count
        count = min(2 * count, _MOST_DRAWS)


def _spread(generator: np.random.Generator, spread: Percentiles) -> Iterator[float]:
    """A log-normal law in two pieces, through tenth percentile, median and ninetieth."""
    below, above = -math.log(spread.p10) / TENTH, math.log(spread.p90) / TENTH
    for count in _counts():
        for normal in generator.standard_normal(count).tolist():
            yield math.exp(normal * (below if normal < 0 else above))


def uniform(seed: int, name: str) -> float:
    """The first uniform of a stream, at least zero and below one."""
    return float(generator(seed, name).random())


def log_normal(seed: int, name: str, deviation: float) -> float:
    """A factor of median one, from the first normal of a stream; its logarithm's deviation."""
    return math.exp(deviation * float(generator(seed, name).standard_normal()))


def permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order of an epoch's samples, where there are none but their number."""
    return generator(seed, f"samples/{epoch}").permutation(count)


def generator(seed: int, name: str) -> np.random.Generator:
    """The stream of that name."""
    return np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
