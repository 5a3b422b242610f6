"""The cheapest of several knobs together: exactly where few combinations are left, else evolved."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import differential_evolution

from mobisim.errors import InputError
from mobisim.planning.costs import Cost
from mobisim.planning.knobs import Knob
from mobisim.planning.search import Shortfall

MOST_COMBINED = 512  # combinations of all knobs but one that are looked at one by one
SAMPLES = 9  # of each ladder, where the cost must rise
GENERATIONS, POPULATION = 30, 8  # of the evolution; POPULATION times as many as there are knobs

Indices = tuple[int, ...]
Height = Callable[[Indices], Shortfall]


@dataclass
class Cheapest:
    """Where a search over several knobs ended.

    Attributes:
        indices: of the cheapest values that meet the target; None where none do.
        how: by going through all combinations of all knobs but one, or by evolution.
        tried: how far each combination that was tried is.
    """

    indices: Indices | None
    how: Literal["combinations", "evolution"]
    tried: dict[Indices, Shortfall] = field(repr=False)

    @property
    def nearest(self) -> Indices:
        """The combination that comes nearest."""
        return min(self.tried, key=lambda indices: (self.tried[indices], indices))


def cheapest(knobs: Sequence[Knob], cost: Cost, height: Height) -> Cheapest:
    """The combination of least cost that meets the target.

    Cost must rise along each ladder, from the wanted end on. Along each the target is taken to get
    no further away: then of each combination of all knobs but the one with most values the least
    of that one is found by bisection, and combinations that cost too much already are left out.

    Raises:
        InputError: the cost falls where a ladder leaves what is wanted.
    """
    search = _Search(knobs, cost, height)
    search.check()
    others = math.prod(len(k.ladder) for k in knobs) // max(len(k.ladder) for k in knobs)
    if others <= MOST_COMBINED:
        return Cheapest(search.combine(), "combinations", search.tried)
    return Cheapest(search.evolve(), "evolution", search.tried)


class _Search:
    def __init__(self, knobs: Sequence[Knob], cost: Cost, height: Height) -> None:
        self.knobs, self.of, self.height = knobs, cost, height
        self.ends = tuple(len(knob.ladder) - 1 for knob in knobs)
        self.tried: dict[Indices, Shortfall] = {}

    def cost(self, indices: Indices) -> float:
        pairs = zip(self.knobs, indices, strict=True)
        return self.of({knob.path: knob.weight(index) for knob, index in pairs})

    def meets(self, indices: Indices) -> bool:
        if indices not in self.tried:
            self.tried[indices] = self.height(indices)
        return self.tried[indices].met

    def check(self) -> None:
        """Refuse a cost that calls something else cheap than the knobs call wanted."""
        for number, knob in enumerate(self.knobs):
            rungs = sorted({self.ends[number] * step // SAMPLES for step in range(SAMPLES + 1)})
            costs = [self.cost((*self.ends[:number], r, *self.ends[number + 1 :])) for r in rungs]
            if any(b < a for a, b in pairwise(costs)):
                raise InputError(
                    f"this cost falls where {knob.path} leaves what is wanted",
                    where="--cost",
                    got=self.of.text,
                    hint="say max in place of min, or min in place of max, or turn its sign",
                )

    def combine(self) -> Indices | None:
        """Go through all combinations of all knobs but the one with most values."""
        main = max(range(len(self.ends)), key=self.ends.__getitem__)
        best: Indices | None = None
        for rest in sorted(self._others(main), key=self.cost):
            if best is not None and self.cost(rest) >= self.cost(best):
                break
            best = self._least(rest, main, best) or best
        return best

    def _others(self, main: int) -> Iterator[Indices]:
        ladders = (
            range(1) if number == main else range(end + 1) for number, end in enumerate(self.ends)
        )
        return product(*ladders)

    def _least(self, start: Indices, along: int, best: Indices | None) -> Indices | None:
        """The first rung of one ladder that meets the target and costs less than the best."""

        def at(rung: int) -> Indices:
            return (*start[:along], rung, *start[along + 1 :])

        low, high = start[along] - 1, self.ends[along]
        if best is not None:
            high = self._below(at, low, high, self.cost(best))
        if high <= low or not self.meets(at(high)):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.meets(at(middle)) else (middle, high)
        return at(high)

    def _below(self, at: Callable[[int], Indices], low: int, high: int, limit: float) -> int:
        """The last rung that costs less."""
        if self.cost(at(high)) < limit:
            return high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.cost(at(middle)) < limit else (low, middle)
        return low

    def evolve(self) -> Indices | None:
        """Differential evolution over rungs, then each knob by itself as far as it goes."""
        if not self.meets(self.ends):
            return None
        dearest = self.cost(self.ends)
        worst = dearest + abs(dearest) + 1

        def worth(x: NDArray[np.float64]) -> float:
            indices = tuple(round(rung) for rung in x)
            if self.meets(indices):
                return self.cost(indices)
            return worst * (1 + min(self.tried[indices].height, 1e9))

        differential_evolution(
            worth,
            [(0, end) for end in self.ends],
            integrality=[True] * len(self.ends),
            maxiter=GENERATIONS,
            popsize=POPULATION,
            polish=False,
            seed=0,
            x0=self.ends,
        )
        best = min((i for i, found in self.tried.items() if found.met), key=self.cost)
        return self._polished(best)

    def _polished(self, best: Indices) -> Indices:
        before = None
        while before != best:
            before = best
            for number in range(len(best)):
                start = (*best[:number], 0, *best[number + 1 :])
                best = self._least(start, number, best) or best
        return best
