"""The second witness of cells: who is bound is worked out anew, by fractions, with each change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction


@dataclass
class Flow:
    """A message in a cell: its goal is a finish level where it shares, an end where it is bound."""

    device: int
    weight: int
    cap: float | None
    handle: Callable[[], None]
    bound: bool = False
    goal: float = 0.0


class Cell:
    """One direction of a cell."""

    def __init__(self, bits_per_s: float) -> None:
        self.bits_per_s = bits_per_s
        self.flows: list[Flow] = []
        self.level = 0.0
        self.pace = 0.0
        self.changed_at = 0.0
        self.changes = 0

    def join(self, flow: Flow, num_bits: int, now: float) -> None:
        """A flow comes: some that were bound may share from now on."""
        self.grow(now)
        if flow.cap is not None and flow.cap >= self.bits_per_s:
            flow.cap = None
        before = {id(other): other.bound for other in self.flows}
        self.flows.append(flow)
        bound = self.bound_now()
        for other in self.flows:
            is_bound = id(other) in bound
            if other is flow:
                shared = self.level + num_bits / flow.weight
                flow.goal = now + num_bits / flow.cap if is_bound and flow.cap else shared
            elif before[id(other)] and not is_bound:
                assert other.cap is not None
                other.goal = self.level + (other.goal - now) * other.cap / other.weight
            else:
                assert before[id(other)] == is_bound
            other.bound = is_bound
        self.share()

    def end(self, flow: Flow, now: float, *, is_through: bool = True) -> None:
        """A flow goes: some that shared may be bound from now on."""
        self.grow(now)
        if is_through and not flow.bound:
            self.level = flow.goal
        self.flows.remove(flow)
        bound = self.bound_now()
        for other in self.flows:
            if id(other) in bound and not other.bound:
                assert other.cap is not None
                other.goal = now + (other.goal - self.level) * other.weight / other.cap
                other.bound = True
            assert other.bound == (id(other) in bound)
        self.share()

    def grow(self, now: float) -> None:
        """Bring the level to now."""
        shares = any(not flow.bound for flow in self.flows)
        self.level = self.level + self.pace * (now - self.changed_at) if shares else 0.0
        self.changed_at = now

    def left(self, flow: Flow, now: float) -> float:
        """Bits that a flow has to go, if nothing has changed since the last change."""
        if flow.bound:
            assert flow.cap is not None
            return (flow.goal - now) * flow.cap
        return (flow.goal - (self.level + self.pace * (now - self.changed_at))) * flow.weight

    def bound_now(self) -> set[int]:
        """The flows whose cap binds: filled up from the least cap per weight."""
        bound: set[int] = set()
        capped = [flow for flow in self.flows if flow.cap is not None]
        for flow in sorted(capped, key=lambda flow: Fraction(flow.cap or 0) / flow.weight):
            pace = self.exact_pace(bound)
            if pace is None or Fraction(flow.cap or 0) > flow.weight * pace:
                break
            bound.add(id(flow))
        return bound

    def exact_pace(self, bound: set[int]) -> Fraction | None:
        """Bits per second and weight for those that are not bound."""
        caps = sum((Fraction(f.cap or 0) for f in self.flows if id(f) in bound), Fraction(0))
        weights = sum(flow.weight for flow in self.flows if id(flow) not in bound)
        return (Fraction(self.bits_per_s) - caps) / weights if weights else None

    def share(self) -> None:
        """Work out the pace of those that share."""
        pace = self.exact_pace({id(flow) for flow in self.flows if flow.bound})
        self.pace = 0.0 if pace is None else float(pace)
        self.changes += 1

    def next_end(self) -> tuple[float, int, Flow] | None:
        """The instant, device and flow of the next end."""
        sharing = [(f.goal, f.device, f) for f in self.flows if not f.bound]
        bound = [(f.goal, f.device, f) for f in self.flows if f.bound]
        found = []
        if sharing:
            goal, device, flow = min(sharing, key=lambda entry: entry[:2])
            at = self.changed_at + (goal - self.level) / self.pace
            found.append((max(self.changed_at, at), device, flow))
        if bound:
            goal, device, flow = min(bound, key=lambda entry: entry[:2])
            found.append((max(self.changed_at, goal), device, flow))
        return min(found, key=lambda entry: entry[:2]) if found else None
