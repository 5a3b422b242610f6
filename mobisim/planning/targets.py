"""Targets: what is asked of a run, as people write it, and how far a run is from it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from mobisim.errors import InputError, unknown_name
from mobisim.scenario.schema import LOWER_IS_BETTER, Metric, Target
from mobisim.units import ENERGY, SIZE, TIME, Dimension, human_time

EXAMPLE = "accuracy >= 0.9 within 2 h"
METRICS: tuple[Metric, ...] = get_args(Metric)
QUANTITIES: dict[str, Dimension | None] = {
    "makespan": TIME,
    "time_to_target": TIME,
    "finish": TIME,
    "energy": ENERGY,
    "battery": None,
    "device_memory": SIZE,
    "server_memory": SIZE,
    "uplink_bytes": SIZE,
    "downlink_bytes": SIZE,
}
_CLAUSE = re.compile(
    r"(?:p(?P<percentile>\d+(?:\.\d+)?)\s+)?(?P<name>[A-Za-z][A-Za-z_0-9 ]*?)\s*"
    r"(?P<sign><=|>=)\s*(?P<limit>.+?)(?:\s+within\s+(?P<within>.+))?"
)


@dataclass(frozen=True)
class Clause:
    """One thing that is asked: so much of a quantity at most, or of a metric at least.

    Attributes:
        text: as it is written.
        quantity: one of QUANTITIES or of METRICS.
        at_least: whether more is better.
        limit: in SI units; of a metric, its value.
        within_s: until when an evaluation must meet a metric; None for the one at the end.
        percentile: of devices, of `finish`; 100 for the last of them.
    """

    text: str
    quantity: str
    at_least: bool
    limit: float
    within_s: float | None = None
    percentile: float = 100.0

    @property
    def metric(self) -> Target | None:
        """The metric and its value, where learning decides."""
        if self.quantity not in METRICS:
            return None
        return Target.model_validate({"metric": self.quantity, "value": self.limit})

    @property
    def dimension(self) -> Dimension | None:
        """Of the value that is held against the bound; None for a plain number."""
        return TIME if self.within_s is not None else QUANTITIES.get(self.quantity)

    @property
    def bound(self) -> float:
        """What the value is held against: the time within which, or the limit."""
        return self.limit if self.within_s is None else self.within_s

    @property
    def named(self) -> str:
        """What the value is, in words."""
        if self.within_s is not None:
            return f"time to {self.quantity.replace('_', ' ')} {self.limit:g}"
        if self.quantity == "finish" and self.percentile < 100:  # noqa: PLR2004 - all devices
            return f"p{self.percentile:g} finish"
        return self.quantity.replace("_", " ")

    def ratio(self, value: float) -> float:
        """How many times too much a value is, or too little; at most 1 where it is enough."""
        is_more_better = self.at_least and self.within_s is None
        most, least = (self.bound, value) if is_more_better else (value, self.bound)
        if not least:
            return math.inf if most else 0.0
        return most / least


def parse_target(texts: Sequence[str], of_scenario: Target | None = None) -> tuple[Clause, ...]:
    """The clauses of a target; `of_scenario` is what the scenario itself counts as good.

    Raises:
        InputError: text that is no target, an unknown quantity, or two metrics.
    """
    clauses = tuple(
        _clause(part, of_scenario) for text in texts for part in re.split(r"\s+and\s+", text)
    )
    if not clauses:
        raise InputError("nothing to meet", where="--target", expected=EXAMPLE)
    metrics = dict.fromkeys(c.quantity for c in clauses if c.metric is not None)
    if len(metrics) > 1:
        raise InputError(
            "evaluations report one metric",
            where="--target",
            expected="clauses on one of them",
            got=" and ".join(metrics),
        )
    return clauses


def _clause(text: str, of_scenario: Target | None) -> Clause:
    where = f"--target {text.strip()}"
    match = _CLAUSE.fullmatch(text.strip())
    if match is None:
        raise InputError("no target", where=where, expected=f"QUANTITY <= VALUE, e.g. {EXAMPLE}")
    name, limit, within = match["name"].replace(" ", "_"), match["limit"], match["within"]
    known = (*QUANTITIES, *METRICS)
    if name not in known:
        raise unknown_name("quantity", name, known, where=where)
    _check(match, name, where)
    if name == "time_to_target":
        return _of_scenario(text.strip(), limit, of_scenario, where)
    share = float(match["percentile"] or 100)
    value = _number(limit, QUANTITIES.get(name), where)
    until = None if within is None else _number(within, TIME, where)
    return Clause(text.strip(), name, match["sign"] == ">=", value, until, share)


def _check(match: re.Match[str], name: str, where: str) -> None:
    is_metric = name in METRICS
    sign = ">=" if is_metric and name not in LOWER_IS_BETTER else "<="
    if match["sign"] != sign:
        better = "more" if sign == ">=" else "less"
        raise InputError(
            f"{better} {name} is better", where=where, expected=f"{name} {sign} {match['limit']}"
        )
    if match["within"] is not None and not is_metric:
        raise InputError(
            "within goes with a metric", where=where, expected=f"{name} {sign} {match['limit']}"
        )
    if match["percentile"] is not None and name != "finish":
        raise InputError("percentiles are of finish", where=where, expected="p95 finish <= 2 h")
    if match["percentile"] is not None and not 0 < float(match["percentile"]) <= 100:  # noqa: PLR2004 - per cent
        raise InputError("no percentile", where=where, expected="p1 to p100")


def _of_scenario(text: str, limit: str, found: Target | None, where: str) -> Clause:
    """A time to the scenario's own target."""
    if found is None:
        raise InputError("the scenario has no target of its own", where=where, expected=EXAMPLE)
    at_least = found.metric not in LOWER_IS_BETTER
    return Clause(text, found.metric, at_least, found.value, _number(limit, TIME, where))


def _number(text: str, dimension: Dimension | None, where: str) -> float:
    try:
        value = _plain(text) if dimension is None else dimension.parse(text)
    except ValueError as error:
        raise InputError(str(error), where=where, got=text) from error
    if value < 0:
        raise InputError("expected: a number of at least zero", where=where, got=text)
    return value


def _plain(text: str) -> float:
    share = text.strip().removesuffix("%")
    try:
        return float(share) / (100 if share != text.strip() else 1)
    except ValueError as error:
        raise ValueError("expected: a number such as 0.9, or 90 %") from error


def shown(value: float, dimension: Dimension | None) -> str:
    """A value as people say it."""
    from mobisim.units import human_rate, human_size  # noqa: PLC0415

    if dimension is None:
        return f"{value:.3g}"
    ways = {"s": human_time, "B": human_size, "bit/s": human_rate}
    found = ways.get(dimension.si)
    return f"{value:.3g} {dimension.si}" if found is None else found(value)
