"""A published result as a page shows it: words, rows and pictures, each ready to be escaped."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from mobisim.compare.ledger import ledger
from mobisim.errors import InputError
from mobisim.pages.rows import flat, roles, shared
from mobisim.pages.timeline import zoomable
from mobisim.prepare import Options, prepare
from mobisim.report import verdict, wording
from mobisim.report.citations import bibliography, readable
from mobisim.report.figure import PART_COLOUR
from mobisim.report.plots import draw_convergence
from mobisim.report.results import MANIFEST, SPANS_FILE, SUMMARY, read_result
from mobisim.report.timeline import draw_timeline
from mobisim.report.wording import count, percent
from mobisim.scenario import catalog
from mobisim.scenario.schema import Scenario
from mobisim.units import J_PER_WH, human_size, human_time

MAX_BARS = 40
SORTS = ("assumed", "stated", "published", "measured")

Row = tuple[str, str]


@dataclass(frozen=True)
class Bar:
    """A share of a whole, named and in words."""

    name: str
    words: str
    share: float
    colour: str


@dataclass(frozen=True)
class Picture:
    """An SVG picture as a data URI, with what stands for it where it is not seen."""

    title: str
    alt: str
    data: str


@dataclass(frozen=True)
class Shown:
    """One result: `anchor` names its section, `name` tells it from others on the page."""

    place: Path
    anchor: str
    name: str
    summary: dict[str, Any]
    manifest: dict[str, Any]

    @property
    def setup(self) -> str:
        """Who works on what."""
        return wording.setup(self.manifest["scenario"])

    @cached_property
    def answer(self) -> list[tuple[str, str]]:
        """The verdict in sentences, each with its tone; the time first, where there is one."""
        return [*_time_taken(self.summary), *verdict.answer(self.summary)]

    @property
    def facts(self) -> dict[str, str]:
        """What results are compared by, empty where it is not known."""
        return {name: say(self.summary) or "" for name, say in FACTS.items()}

    @property
    def warnings(self) -> list[str]:
        """What to know before relying on it."""
        replaced = wording.stand_in(self.summary)
        outside = [f"outside what was measured: {s}" for s in self.summary.get("extrapolated", ())]
        return [*([replaced] if replaced else []), *outside, *self.summary.get("warnings", ())]

    @property
    def pace(self) -> list[Bar]:
        """The critical path, by who spent it."""
        parts = wording.blame(self.summary)
        whole = sum(seconds for _, seconds in parts)
        return [
            Bar(part, f"{human_time(s)}, {percent(s / whole)}", s / whole, PART_COLOUR[part])
            for part, s in parts
        ]

    @property
    def busy(self) -> list[Bar]:
        """The busy share of each actor, or of each role where they are many; the busiest first."""
        shares: Mapping[str, float] = self.summary.get("utilisation") or {}
        if len(shares) <= MAX_BARS:
            found = [Bar(actor, percent(s), s, _colour(actor)) for actor, s in shares.items()]
        else:
            counts = [group["count"] for group in self.manifest["scenario"]["devices"]]
            found = [Bar(n, words, s, _colour(role)) for n, role, words, s in roles(shares, counts)]
        return sorted(found, key=lambda bar: -bar.share)

    @property
    def memory(self) -> list[Row]:
        """What each side keeps at its peak."""
        found = []
        for part in ("device", "server"):
            parts: Mapping[str, int] = self.summary.get(f"{part}_memory_bytes") or {}
            ranked = sorted(parts.items(), key=lambda pair: -pair[1])
            found += [(f"{part}: {n.replace('_', ' ')}", human_size(b)) for n, b in ranked if b]
        return found

    @cached_property
    def leaving(self) -> list[Row] | str:
        """What leaves the device, by kind; or why that cannot be told."""
        payload = self.summary["uplink_payload_bytes"]
        if not payload:
            return "Nothing: no message was sent."
        if self.summary["ended_by"] != "finished":
            return f"{human_size(payload)} in all; of a run that was cut, kinds are not told apart."
        try:
            scenario = Scenario.model_validate(self.manifest["scenario"])
            insist = Options(train=False, ignore_memory=True, allow_extrapolation=True)
            found = ledger(prepare(scenario, insist), payload)
        except InputError as error:
            return _undivided(payload, str(error).splitlines()[0])
        except ValueError:
            return _undivided(payload, "its scenario is one of another version of mobisim")
        return [(what.replace("_", " "), human_size(size)) for what, size in found.items() if size]

    @property
    def sources(self) -> dict[str, list[list[str]]]:
        """Where each value comes from: those assumed first, since they are the weakest."""
        found = self._of_groups(map(_origin, self.manifest["provenance"]))
        found.sort(key=lambda row: SORTS.index(row[2]))
        assumed = [row for row in found if row[2] == "assumed"]
        return {"Assumed": assumed, "Stated, published and measured": found[len(assumed) :]}

    @property
    def trust(self) -> str:
        """How many values are of which sort."""
        sorts: Mapping[str, int] = self.summary.get("provenance_counts") or {}
        named = ", ".join(f"{number} {sort}" for sort, number in sorts.items() if number)
        return f"{count(sum(sorts.values()), 'value')}: {named}"

    @property
    def references(self) -> str:
        """The bibliography."""
        return str(bibliography(self.manifest, catalog.references()))

    @property
    def parameters(self) -> list[list[str]]:
        """Every field of the scenario, by its path."""
        return self._of_groups(flat(self.manifest["scenario"]))

    def _of_groups(self, rows: Iterable[Sequence[str]]) -> list[list[str]]:
        return shared(rows, len(self.manifest["scenario"]["devices"]))

    @cached_property
    def pictures(self) -> list[Picture]:
        """The run's own pictures."""
        name, answer = self.name, " ".join(text for _, text in self.answer)
        steps = {"Timeline of the first steps": draw_timeline, "Learning": draw_convergence}
        found = ((title, picture(partial(draw, self.place))) for title, draw in steps.items())
        alt = f"{name}: {answer} The tables below hold the numbers."
        return [Picture(title, f"{title} of {alt}", data) for title, data in found if data]

    @cached_property
    def timeline(self) -> dict[str, Any] | None:
        """The timeline to zoom."""
        end = self.summary.get("makespan_s") or 0.0
        return zoomable(self.place / SPANS_FILE, self.manifest["actors"], end)


def read_shown(places: Sequence[Path]) -> list[Shown]:
    """The results in some folders; those of equal names are told apart by their digests.

    Raises:
        InputError: a folder holds no result.
    """
    read = [(p, read_result(p, SUMMARY), read_result(p, MANIFEST)) for p in places]
    names = [str(summary["name"]) for _, summary, _ in read]
    return [
        Shown(place, f"result-{number}", _told_apart(summary, names), summary, manifest)
        for number, (place, summary, manifest) in enumerate(read, 1)
    ]


def picture(draw: Callable[[Path], object]) -> str | None:
    """The SVG that `draw` writes to a path, as a data URI; None where it says it did not."""
    with tempfile.TemporaryDirectory(prefix="mobisim-page-") as folder:
        out = Path(folder) / "picture.svg"
        if draw(out) is False:
            return None
        return f"data:image/svg+xml;base64,{base64.b64encode(out.read_bytes()).decode()}"


def _undivided(payload: int, reason: str) -> str:
    return f"{human_size(payload)} in all; kinds cannot be told apart here: {reason}."


def _told_apart(summary: Mapping[str, Any], names: Sequence[str]) -> str:
    name = str(summary["name"])
    return name if names.count(name) == 1 else f"{name} {str(summary['digest'])[:6]}"


def _time_taken(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if summary.get("makespan_s") is None:
        return
    goal = wording.target(summary)
    known = goal and summary.get("final_metric") is not None
    met = f" {goal[0].upper()}{goal[1:]}." if known and goal else ""
    took = human_time(summary["makespan_s"])
    done = count(summary["num_steps"], "step")
    yield "headline", f"{done} in {took}, {wording.ending(summary)}.{met}"


def _colour(actor: str) -> str:
    part = actor.split("-", maxsplit=1)[0]
    return PART_COLOUR.get(part, PART_COLOUR["server"])


def _origin(origin: Mapping[str, Any]) -> tuple[str, ...]:
    """Path, value, sort, range, source and note."""
    limits = origin.get("range")
    return (
        str(origin["path"]),
        readable(origin["value"]),
        str(origin["sort"]),
        f"{readable(limits[0])} to {readable(limits[1])}" if limits else "",
        "" if origin["source"] == origin["sort"] else str(origin["source"]),
        str(origin.get("note") or ""),
    )


def _energy(summary: Mapping[str, Any]) -> str | None:
    joules = summary.get("energy_j")
    return None if joules is None else f"{joules / J_PER_WH:,.3g} Wh"


def _metric(summary: Mapping[str, Any]) -> str | None:
    value = summary.get("final_metric")
    return None if value is None else f"{wording.metric_name(summary)} {value:.4g}"


def _seconds(summary: Mapping[str, Any], field: str) -> str | None:
    return human_time(summary[field]) if summary.get(field) is not None else None


FACTS: dict[str, Callable[[Mapping[str, Any]], str | None]] = {
    "simulated time": lambda s: _seconds(s, "makespan_s"),
    "sets the pace": lambda s: s.get("bottleneck"),
    "time to target": lambda s: _seconds(s, "time_to_target_s"),
    "quality at the end": _metric,
    "mini-batches": lambda s: f"{s['num_batches']:,}",
    "method": lambda s: s["method"],
    "sent up": lambda s: human_size(s["uplink_bytes"]),
    "sent down": lambda s: human_size(s["downlink_bytes"]),
    "device memory": lambda s: verdict.room(s, "device"),
    "server memory": lambda s: verdict.room(s, "server"),
    "energy of the devices": _energy,
    "seed": lambda s: str(s["seed"]),
    "ended": wording.ending,
}
