"""Random streams: one per entity and purpose, keyed by name.

Adding a device leaves the draws of all others as they were, and scenarios that differ in one knob
share their random numbers.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

import numpy as np

_DRAWS_AT_ONCE = 256

Factor = Callable[[], float]


def factor_stream(seed: int, name: str, distribution: str) -> Factor | None:
    """Draws of a factor of mean one; None for a constant, so that nothing is multiplied."""
    if distribution == "constant":
        return None
    return _exponential(_generator(seed, name)).__next__


def _exponential(generator: np.random.Generator) -> Iterator[float]:
    while True:
        yield from generator.standard_exponential(_DRAWS_AT_ONCE).tolist()


def uniform(seed: int, name: str) -> float:
    """The first uniform of a stream, at least zero and below one."""
    return float(_generator(seed, name).random())


def _generator(seed: int, name: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
