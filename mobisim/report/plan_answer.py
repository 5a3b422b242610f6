"""The answer of a plan: values that meet a target, why these, and how sure that is."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from mobisim.report.comparison import Interval


@dataclass(frozen=True)
class Pace:
    """Who sets the pace, for which share of the critical path.

    With `headroom` more of it, as a share, `then` would set the pace.
    """

    part: str
    share: float
    then: str | None
    headroom: float | None


@dataclass(frozen=True)
class Chosen:
    """A field that a plan turned: the value found, or the one that comes nearest.

    Attributes:
        value: in SI units, or a name.
        shown: as people say it.
        range: between which values was looked.
        at_edge: whether it is the most wanted of them, so that more of the same may do, too.
    """

    path: str
    wanted: str
    value: Any
    shown: str
    range: str
    at_edge: bool


@dataclass(frozen=True)
class Outcome:
    """A clause of the target, and what the run says of it.

    Attributes:
        value: in SI units; None where the run has none.
        headroom: how much of the limit is left, as a share; below zero where it is missed.
        over_seeds: the mean over seeds; None where they all say the same.
    """

    text: str
    named: str
    value: float | None
    shown: str
    met: bool
    headroom: float | None
    over_seeds: Interval | None = None


@dataclass(frozen=True)
class Worth:
    """What a little more of something does to the quantity that binds."""

    change: str
    shown: str
    factor: float | None


@dataclass(frozen=True)
class Leaning:
    """An assumed value on which the answer leans.

    Attributes:
        low: the answer at the low end of the range, None where nothing meets the target there.
        told: whether the answer was sought at both ends, or is the run's value there.
    """

    path: str
    value: str
    range: tuple[str, str]
    low: str | None
    high: str | None
    told: str


@dataclass(frozen=True)
class Search:
    """How an answer was found.

    Attributes:
        how: in words.
        monotone: whether all that was tried gets nearer the target towards the easy end.
        runs: timelines simulated to find the answer and to verify it.
        reasons: timelines simulated for its reasons.
        trainings: side networks or backbones trained.
    """

    how: str
    monotone: bool
    runs: int
    reasons: int
    trainings: int


@dataclass(frozen=True)
class Verified:
    """With how many of how many seeds the target is met.

    Attributes:
        alike: whether every seed says the very same.
        at_least: the share of all seeds that meet it, with 95 % confidence (Clopper-Pearson).
    """

    met: int
    seeds: int
    alike: bool
    at_least: float


@dataclass(frozen=True)
class PlanAnswer:
    """What a plan says.

    Attributes:
        met: whether any value meets the target; else `knobs` come nearest to it.
        binding: the number of the outcome that has least headroom, or is furthest off.
        why: why the nearest is not enough, where the run says so.
    """

    name: str
    digest: str
    target: str
    met: bool
    knobs: tuple[Chosen, ...]
    cost: float | None
    cost_text: str | None
    outcomes: tuple[Outcome, ...]
    binding: int
    why: str | None
    pace: Pace | None
    verified: Verified | None
    search: Search
    worth: tuple[Worth, ...]
    leanings: tuple[Leaning, ...]
    stand_in: str | None = None
    notes: tuple[str, ...] = ()


def as_json(found: PlanAnswer) -> dict[str, Any]:
    """The answer as plan.json has it; what is infinite is null."""
    plain: dict[str, Any] = _finite(asdict(found))
    return plain


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
