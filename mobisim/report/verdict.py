"""The verdict: the answer of a run in sentences, the first of which can stand alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from mobisim.report import wording
from mobisim.report.wording import Summary, percent
from mobisim.units import human_size, human_time

LATENCY_VISIBLE, LATENCY_WORTH_A_WORD = 0.005, 0.05  # of the critical path

Tone = Literal["headline", "alarm", "detail", "warning"]
Sentences = Iterator[tuple[Tone, str]]


def answer(summary: Summary) -> Sentences:
    """What sets the pace and what that is worth, or why nothing ran; each with its tone."""
    if summary["ended_by"] == "memory":
        yield from _does_not_fit(summary)
        return
    if not wording.blame(summary):
        yield "headline", f"Nothing set a pace: {wording.ending(summary)}."
        return
    yield from _bottleneck(summary)
    if summary["ended_by"] == "horizon":
        yield "warning", "The horizon cut the run: what follows is of its finished part."


def _does_not_fit(summary: Summary) -> Sentences:
    for part in ("device", "server"):
        short = summary.get(f"{part}_short_bytes")
        peak, capacity = summary.get(f"{part}_peak_bytes"), summary.get(f"{part}_capacity_bytes")
        if summary.get(f"{part}_fits") is False and peak is not None and capacity is not None:
            short = human_size(peak - capacity if short is None else short)
            yield "alarm", f"It does not fit: the {part} is {short} short of memory."
            yield "detail", f"It needs {human_size(peak)} and has {human_size(capacity)}."
    yield "detail", "Nothing was simulated; --ignore-memory goes on all the same."


def _bottleneck(summary: Summary) -> Sentences:
    seconds, makespan = dict(wording.blame(summary)), summary["makespan_s"]
    part = summary.get("bottleneck") or max(seconds, key=lambda name: seconds[name])
    # A link answers for its latency, which no higher rate would shorten.
    latency = seconds.get("latency", 0.0) if part == "uplink" else 0.0
    share = percent((seconds.get(part, 0.0) + latency) / makespan)
    included = ", latency included" if latency >= LATENCY_VISIBLE * makespan else ""
    yield "headline", f"The {part} sets the pace: {share} of the critical path{included}."
    if summary["ended_by"] != "horizon":
        yield from (("detail", text) for text in _what_if(summary, part, seconds.get(part, 0.0)))
    if latency > LATENCY_WORTH_A_WORD * makespan:
        share = percent(latency / makespan)
        yield "detail", f"{share} is latency, which no higher rate would shorten."


def _what_if(summary: Summary, part: str, seconds: float) -> Iterator[str]:
    """What the blame supports: bounds, because another path takes over once this one shrinks."""
    makespan, runner_up = summary["makespan_s"], _next_busiest(summary, part)
    floor = runner_up[1] if runner_up else 0.0
    saved = min(seconds / 2, max(0.0, makespan - floor))
    yield f"Twice as fast, it would save at most {human_time(saved)} ({percent(saved / makespan)})."
    if runner_up:
        yield f"However fast it gets, {human_time(floor)} remain: {runner_up[0]} is busy that long."


def _next_busiest(summary: Summary, part: str) -> tuple[str, float] | None:
    """The busiest actor of another part, and the seconds that it works."""
    others = {
        actor: share
        for actor, share in (summary.get("utilisation") or {}).items()
        if not actor.startswith(part) and share > 0
    }
    if not others:
        return None
    actor = max(others, key=lambda name: others[name])
    return actor, others[actor] * summary["makespan_s"]


def room(summary: Summary, part: str) -> str | None:
    """Whether the memory of one part, device or server, suffices; None where nothing is known."""
    peak, capacity = summary.get(f"{part}_peak_bytes"), summary.get(f"{part}_capacity_bytes")
    if peak is None:
        return None
    if capacity is None:
        return f"{human_size(peak)} at peak; no capacity stated"
    need = f"{human_size(peak)} of {human_size(capacity)}"
    if peak > capacity:
        return f"does not fit: {need}, {human_size(peak - capacity)} short"
    return f"fits: {need}, {human_size(capacity - peak)} free"
