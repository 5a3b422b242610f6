"""A comparison of methods: a row each, who wins at which rate, and where two methods cross."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from mobisim.report.wording import count
from mobisim.units import human_size


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its interval; of one seed there is none."""

    mean: float
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class Standing:
    """What a method comes to; in SI units, null where it is not known or was not asked.

    Attributes:
        error: why it came to nothing.
        fits: whether device and server hold it, `short_bytes` by how much not.
        learning_rate: the one that was chosen, `at_edge` if a rate beyond the grid may be better.
        step_s: makespan by steps, what happens once included.
        time_to_target_s: in the mean over seeds, where all of `num_met` met it.
        final: the metric on the held-out split.
        against: what it is better or worse by than the first method, seed by seed.
        device_busy_s: how long the busiest device works, its waits apart.
        leaves: bytes that leave the device for good, by what they say.
        labels_given_away: the share of labels that the residuals sent tell, by their argmax.
    """

    method: str
    error: str | None = None
    fits: bool | None = None
    peak_bytes: int | None = None
    capacity_bytes: int | None = None
    short_bytes: int | None = None
    short_side: str | None = None
    learning_rate: float | None = None
    at_edge: bool = False
    num_seeds: int = 0
    num_steps: int | None = None
    makespan_s: float | None = None
    step_s: float | None = None
    time_to_target_s: float | None = None
    num_met: int | None = None
    final: Interval | None = None
    against: Interval | None = None
    uplink_bytes: float | None = None
    downlink_bytes: float | None = None
    energy_j: float | None = None
    device_busy_s: float | None = None
    leaves: Mapping[str, int] | None = None
    labels_given_away: float | None = None

    @property
    def shortage(self) -> str:
        """How much is missing, and where if not on the device."""
        side = "" if self.short_side == "device" else f" ({self.short_side})"
        return f"short by {human_size(self.short_bytes or 0)}{side}"

    @property
    def met(self) -> str:
        """How many seeds met the target."""
        return f"{self.num_met} of {self.num_seeds} met"


@dataclass(frozen=True)
class Crossing:
    """The rate below which `alone` is faster than `other`; None where `faster` always is."""

    alone: str
    other: str
    rate: float | None
    faster: str | None


@dataclass(frozen=True)
class AtRate:
    """The time of each method at one rate of the uplink, in bit/s; infinite where it has none."""

    rate: float
    seconds: Mapping[str, float]

    @property
    def winner(self) -> str | None:
        """The fastest method."""
        known = {name: s for name, s in self.seconds.items() if math.isfinite(s)}
        return min(known, key=lambda name: known[name]) if known else None


@dataclass(frozen=True)
class Comparison:
    """All of it, and what it rests on."""

    name: str
    digest: str
    model: str | None
    device: str
    link: str
    server: str
    rate: float | None
    metric: str | None
    target: float | None
    stand_in: str | None
    num_seeds: int
    learning_rates: tuple[float, ...]
    timed_by: str
    standings: tuple[Standing, ...]
    rates: tuple[AtRate, ...]
    crossings: tuple[Crossing, ...]
    notes: tuple[str, ...] = ()
    num_devices: int = 1

    @property
    def devices(self) -> str:
        """Whose bytes and energy these are, all together."""
        return "the device" if self.num_devices == 1 else count(self.num_devices, "device")

    @property
    def trained(self) -> bool:
        """Whether anything was learned."""
        return any(standing.final is not None for standing in self.standings)

    @property
    def leaving(self) -> list[str]:
        """What leaves the device by any of the methods."""
        return list(dict.fromkeys(kind for one in self.standings for kind in one.leaves or ()))

    @property
    def reference(self) -> str:
        """The method with which the others are paired."""
        return self.standings[0].method


def as_json(found: Comparison) -> dict[str, Any]:
    """The comparison as plain values."""
    plain = asdict(found)
    plain["rates"] = [
        {
            "rate": at.rate,
            "winner": at.winner,
            "seconds": {n: s if math.isfinite(s) else None for n, s in at.seconds.items()},
        }
        for at in found.rates
    ]
    return {"schema_version": 1, **plain}


def as_rows(found: Comparison) -> Iterator[dict[str, Any]]:
    """A flat row per method, for CSV."""
    for standing in found.standings:
        row: dict[str, Any] = {}
        for field in fields(standing):
            value = getattr(standing, field.name)
            if field.name in ("final", "against"):
                parts = ("mean", "low", "high")
                row |= {f"{field.name}.{p}": getattr(value, p) if value else None for p in parts}
            elif field.name == "leaves":
                row |= {f"leaves.{kind}": (value or {}).get(kind) for kind in found.leaving}
            else:
                row[field.name] = value
        yield row | {f"seconds_at.{at.rate:g}": _finite(at, standing.method) for at in found.rates}


def _finite(at: AtRate, method: str) -> float | None:
    seconds = at.seconds.get(method, math.inf)
    return seconds if math.isfinite(seconds) else None
