"""Search along a ladder of values, from the most wanted at 0 to the easiest at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple

from scipy.optimize import minimize_scalar

FEW = 9  # values that are tried one by one
SCAN = 24  # points of a scan
REFINE = 12  # runs between the best point of a scan and its neighbours
NOISE = 1e-9  # by which a falling shortfall may seem to rise


class Shortfall(NamedTuple):
    """How far a run is from a target: the lower the nearer.

    Attributes:
        rank: 0 where every quantity is known, 1 where a metric is never reached, 2 where the
            memory does not suffice, 3 where there is no such run.
        ratio: how many times too much or too little the worst of them is.
    """

    rank: int
    ratio: float

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        return self.rank == 0 and self.ratio <= 1

    @property
    def height(self) -> float:
        """One number in the same order."""
        return self.rank * 1e6 + min(self.ratio, 1e6 - 1)


Heights = tuple[Shortfall, ...]  # of each clause of a target
How = Literal["tried", "end", "bisection", "scan"]


@dataclass
class Found:
    """Where a search ended.

    Attributes:
        index: of the most wanted value that meets the target; None where none does.
        nearest: of the value that comes nearest to it.
        how: one by one, at once at the wanted end, by bisection, or by a scan of the ladder.
        monotone: whether all that was tried gets nearer towards the easy end.
        tried: how far each value that was tried is.
    """

    index: int | None
    how: How
    monotone: bool
    tried: dict[int, Heights] = field(repr=False)

    @property
    def nearest(self) -> int:
        """The most wanted of those that come nearest."""
        least = min(map(max, self.tried.values()))
        return min(index for index, heights in self.tried.items() if max(heights) == least)


def first_met(count: int, heights: Callable[[int], Heights]) -> Found:
    """The most wanted of `count` values that meets the target.

    Few values are tried one by one. Else the ends and three points between say whether the target
    gets nearer towards the easy end, clause by clause. Where it does, bisection follows, whose
    points must say so, too. Where it does not, a scan looks for what they hide; what is narrower
    than its steps would be missed.
    """
    tried: dict[int, Heights] = {}

    def look(index: int) -> bool:
        if index not in tried:
            tried[index] = heights(index)
        return _met(tried[index])

    if count <= FEW:
        found = next((index for index in range(count) if look(index)), None)
        return Found(found, "tried", monotone=_falls(tried), tried=tried)
    if look(0):
        return Found(0, "end", monotone=True, tried=tried)
    for index in _spread(0, count - 1, 4):
        look(index)
    if _falls(tried):
        if not _met(tried[count - 1]):
            return Found(None, "end", monotone=True, tried=tried)
        found = _bisect(tried, look)
        if _falls(tried):
            return Found(found, "bisection", monotone=True, tried=tried)
    return _scan(count, tried, look)


def _met(heights: Heights) -> bool:
    return max(heights).met


def _scan(count: int, tried: dict[int, Heights], look: Callable[[int], bool]) -> Found:
    """Look everywhere in steps, then between the best point and its neighbours."""
    for index in _spread(0, count - 1, SCAN):
        look(index)
    if not any(map(_met, tried.values())):
        _refine(tried, look)
    found = _bisect(tried, look) if any(map(_met, tried.values())) else None
    return Found(found, "scan", monotone=False, tried=tried)


def _spread(low: int, high: int, steps: int) -> Iterable[int]:
    return [low + (high - low) * step // steps for step in range(steps + 1)]


def _falls(tried: dict[int, Heights]) -> bool:
    """Whether no clause gets further away towards the easy end, but for those met throughout."""
    rows = [tried[index] for index in sorted(tried)]
    return all(
        all(height.met for height in clause) or _sinks(clause) for clause in zip(*rows, strict=True)
    )


def _sinks(heights: Sequence[Shortfall]) -> bool:
    return all(
        b.rank < a.rank or (b.rank == a.rank and b.ratio <= a.ratio * (1 + NOISE))
        for a, b in pairwise(heights)
    )


def _bisect(tried: dict[int, Heights], look: Callable[[int], bool]) -> int:
    """The first that meets the target, between the lowest that is known to and the one before."""
    high = min(index for index, found in tried.items() if _met(found))
    low = max((index for index in tried if index < high), default=-1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if look(middle) else (middle, high)
    return high


def _refine(tried: dict[int, Heights], look: Callable[[int], bool]) -> None:
    """Look for a minimum around the nearest point, by Brent's method between its neighbours."""
    nearest = min(tried, key=lambda index: (max(tried[index]), index))
    low = max((i for i in tried if i < nearest), default=nearest)
    high = min((i for i in tried if i > nearest), default=nearest)
    if high - low <= 1:
        return

    def height(at: float) -> float:
        look(round(at))
        return max(tried[round(at)]).height

    minimize_scalar(
        height, bounds=(low, high), method="bounded", options={"maxiter": REFINE, "xatol": 0.5}
    )


def bracket(
    low: int, high: int, wanted: Literal["min", "max"], height: Callable[[int], Shortfall]
) -> tuple[int, int]:
    """Bounds of a whole number, doubled from the low one until more of it settles the question.

    The least that meets a target is doubled for until one meets it, the most until one no longer
    does; where three doublings bring the target no nearer, more would not either.
    """
    at, before, best, in_vain = low, low, height(low), 0
    while at < high and best.met == (wanted == "max") and in_vain < 3:  # noqa: PLR2004 - see above
        before, at = at, min(high, 2 * at)
        now = height(at)
        in_vain = 0 if now.met or now < best or wanted == "max" else in_vain + 1
        best = now if wanted == "max" else min(best, now)
    return (before if best.met or wanted == "max" else low), at
