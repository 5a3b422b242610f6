"""Reasons: who sets the pace, what a little more of each thing is worth, and what is assumed."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mobisim.cost.wire import CODEC_BITS
from mobisim.planning.bench import Reading
from mobisim.report.plan_answer import Pace
from mobisim.report.slices import role_of
from mobisim.report.summary import Summary
from mobisim.scenario.document import parse_value
from mobisim.scenario.methods import METHODS
from mobisim.scenario.provenance import origins
from mobisim.scenario.schema import DeviceGroup, Scenario
from mobisim.units import RATE, human_rate

SENSITIVE = 0.01  # by so much a value moves what is asked for, or more
MBIT_PER_S = 1e6
MANY_GROUPS = 3


def pace_of(summary: Summary) -> Pace | None:
    """Who sets the pace of a run, who would next, and how much more it takes until then."""
    if summary.bottleneck is None or summary.blame_s is None or not summary.makespan_s:
        return None
    busy: dict[str, float] = defaultdict(float)
    for actor, share in summary.utilisation.items():
        part = role_of(actor)
        busy[part] = max(busy[part], share)
    own = busy[summary.bottleneck]
    others = {part: share for part, share in busy.items() if part != summary.bottleneck and share}
    then = max(others, key=others.__getitem__, default=None)
    headroom = own / others[then] - 1 if then is not None and own > others[then] else None
    part = getattr(summary.blame_s, summary.bottleneck)
    if summary.bottleneck == "uplink":
        part += summary.blame_s.latency
    return Pace(summary.bottleneck, part / summary.makespan_s, then, headroom)


@dataclass(frozen=True)
class Nudge:
    """A little more, or less, of one thing, as values of fields."""

    label: str
    values: Mapping[str, Any]


def nudges(scenario: Scenario, *, learns: bool) -> Iterator[Nudge]:
    """What a planner could buy next: bandwidth, workers, devices, bits."""
    if METHODS[scenario.method].up:
        for index, group in enumerate(scenario.devices[:MANY_GROUPS]):
            yield from _faster(index, group, len(scenario.devices))
        if not scenario.server.colocated:
            more = scenario.server.workers + 1
            yield Nudge("one more worker", {"server.workers": more})
    for index, group in enumerate(scenario.devices[:MANY_GROUPS]):
        if group.count > 1:
            of = f" of devices[{index}]" if len(scenario.devices) > 1 else ""
            yield Nudge(f"one more device{of}", {f"devices[{index}].count": group.count + 1})
    codec = scenario.wire.codec
    if codec is not None and scenario.wire.payload_bytes is None and not learns:
        fewer = [name for name, bits in CODEC_BITS.items() if bits < CODEC_BITS[codec]]
        if fewer:
            less = max(fewer, key=CODEC_BITS.__getitem__)
            bits = CODEC_BITS[codec] - CODEC_BITS[less]
            words = "one bit" if bits == 1 else f"{bits} bits"
            yield Nudge(f"{words} less ({less})", {"wire.codec": less})


def _faster(index: int, group: DeviceGroup, groups: int) -> Iterator[Nudge]:
    if group.link.kind != "constant":
        return
    rate = group.link.uplink.value
    more = MBIT_PER_S if rate >= MBIT_PER_S else rate / 10
    of = f" for devices[{index}]" if groups > 1 else ""
    label = f"{human_rate(more)} more{of}"
    yield Nudge(label, {f"devices[{index}].link.uplink": RATE.format(rate + more)})


@dataclass(frozen=True)
class Assumption:
    """An assumed value with its range, wherever groups of devices share it."""

    path: str
    paths: tuple[str, ...]
    value: str
    range: tuple[str, str]

    def at(self, end: int) -> Mapping[str, Any]:
        """The fields with an end of the range."""
        text = self.range[end]
        return {path: parse_value(text, path) for path in self.paths}


def assumptions(scenario: Scenario, without: Sequence[str]) -> list[Assumption]:
    """The assumed values of a scenario that have a range, but for fields that a plan turns."""
    turned = {field for path in without for field in _everywhere(path, len(scenario.devices))}
    groups: dict[tuple[str, str, tuple[str, str]], list[str]] = defaultdict(list)
    for origin in origins(scenario):
        if origin.source == "assumed" and origin.range is not None and origin.path not in turned:
            general = re.sub(r"^devices\[\d+\]", "devices[*]", origin.path)
            groups[general, origin.value, origin.range].append(origin.path)
    return [
        Assumption(paths[0] if len(paths) == 1 else general, tuple(paths), value, limits)
        for (general, value, limits), paths in groups.items()
    ]


def _everywhere(path: str, count: int) -> list[str]:
    return [path.replace("[*]", f"[{index}]") for index in range(count)]


def moved(base: Reading, now: Reading) -> float:
    """How much a change moved what is asked for, as a logarithm; infinite where it undid it."""
    worst = base.worst
    a, b = base.shortfalls[worst], now.shortfalls[worst]
    if now.shortfall.rank != base.shortfall.rank or not (a.ratio and b.ratio):
        return math.inf
    return abs(math.log(b.ratio / a.ratio))
