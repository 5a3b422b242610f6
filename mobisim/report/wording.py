"""Wording: what pictures and summaries say in the same words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mobisim.units import RATE, human_rate, human_time

PARTS = ("device", "uplink", "latency", "server", "downlink")  # of the critical path, in order

TIMES = "\N{MULTIPLICATION SIGN}"

Summary = Mapping[str, Any]


def percent(share: float) -> str:
    """A share in per cent, never rounded to a lie: only nothing is 0 % and only all is 100 %."""
    text = f"{100 * share:.0f} %"
    if share > 0 and text == "0 %":
        return "< 1 %"
    return "> 99 %" if share < 1 and text == "100 %" else text


def count(number: int, noun: str) -> str:
    """A number of things: `1 step`, `2,400 steps`; nouns in -ch take -es."""
    ending = "" if number == 1 else "es" if noun.endswith("ch") else "s"
    return f"{number:,} {noun}{ending}"


def stand_in(summary: Summary) -> str | None:
    """What was trained in place of the model that was timed, or None where it is the same."""
    pair = summary.get("stand_in")
    return f"trained: {pair['trained']} stand-in, timed: {pair['timed']}" if pair else None


def metric_name(summary: Summary) -> str:
    """The metric as people write it."""
    return str(summary.get("metric_name") or "metric").replace("_", " ")


def judged_name(summary: Summary) -> str:
    """The metric of the evaluations during training, which may be on a split of their own."""
    own = summary.get("validation_metric") is not None
    return f"{'validation ' * own}{metric_name(summary)}"


def blame(summary: Summary) -> list[tuple[str, float]]:
    """The parts of the critical path in seconds, in the order of PARTS, those of zero left out."""
    seconds: Mapping[str, float] = summary.get("blame_s") or {}
    return [(part, seconds[part]) for part in PARTS if seconds.get(part)]


def setup(scenario: Mapping[str, Any]) -> str:
    """Who works on what: model, devices, links and server in one line."""
    groups = scenario.get("devices") or []
    fleet = ", ".join(map(group, groups[:2])) + (", …" if len(groups) > 2 else "")  # noqa: PLR2004 - as many as a line holds
    server = scenario.get("server") or {}
    workers = server.get("workers", 1)
    crew = f"{workers} {TIMES} " if workers > 1 else ""
    discipline = server.get("discipline", "first-come")
    order = f", {discipline}" if discipline != "first-come" else ""
    return " · ".join(
        part
        for part in (
            _name(scenario.get("model"), ""),
            fleet,
            f"server {crew}{_name(server.get('profile'), 'stated times')}{order}",
        )
        if part
    )


def group(group: Mapping[str, Any]) -> str:
    """Devices of one sort, their model and links."""
    number = group.get("count", 1)
    times = f"{number} {TIMES} " if number > 1 else ""
    model = _name(group.get("model"), "")
    carrying = f" with {model}" if model else ""
    device = f"{times}{_name(group.get('profile'), 'device')}{carrying}"
    return f"{device} over {_link(group.get('link'))}"


def _name(profile: Any, unnamed: str) -> str:
    name = profile.get("name", "inline") if isinstance(profile, Mapping) else profile
    return unnamed if name in (None, "inline") else str(name)


def _link(link: Any) -> str:
    if not isinstance(link, Mapping) or link.get("name", "inline") != "inline":
        return _name(link, "a link")
    uplink = link.get("uplink")
    rate = uplink.get("value") if isinstance(uplink, Mapping) else uplink
    if isinstance(rate, Mapping):
        return f"trace {rate['file']}"
    return human_rate(RATE.parse(rate)) if isinstance(rate, str) else "a link"


def ending(summary: Summary) -> str:
    """How the run came to its end, in one clause."""
    return {
        "finished": "all work done",
        "horizon": "cut by the horizon",
        "target": "stopped at the target",
        "plateau": "stopped where it got no better",
        "memory": "did not start: memory does not fit",
    }[summary["ended_by"]]


def target(summary: Summary) -> str | None:
    """Whether and when the target was met, None without a target."""
    wanted = summary.get("target")
    if not wanted:
        return None
    at = summary.get("time_to_target_s")
    verdict = f"met after {human_time(at)}" if at is not None else "not met"
    return f"{judged_name(summary)} {wanted['value']:g} {verdict}"
