"""A cell: one rate shared by the links of many devices, exactly, whoever comes and goes.

Flows that share finish in the order of their finish levels, whatever the level's pace, so that a
change costs a few heap operations. Heaps keep entries that no longer hold: a flow's turn tells.
DESIGN.md has the rules and the names.
"""

from __future__ import annotations

from functools import partial
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any

from mobisim.channel import RATE_PLACES, whole
from mobisim.sim.kernel import Alarm, Callback, Clock
from mobisim.units import BITS_PER_BYTE

FEW = 64  # entries of a heap that are not worth tidying
RATIO_PLACES = 64  # keeps the order of caps per weight, which may differ by 1 / weight^2

Heap = list[tuple[Any, int, int, "Flow"]]


class Flow:
    """One message on its way through the cell."""

    __slots__ = ("bound", "goal", "index", "member", "num_bits", "then", "turn")

    def __init__(self, member: Member, num_bits: int, then: Callback) -> None:
        self.member, self.index, self.num_bits, self.then = member, member.index, num_bits, then
        self.bound = False
        self.goal = 0.0  # the finish level of a flow that shares, the end of a bound one
        self.turn = -1


class Cell:
    """One direction of a cell, and the flows in it."""

    def __init__(self, clock: Clock, bits_per_s: float) -> None:
        self.clock, self.bits_per_s = clock, bits_per_s
        self.capacity = whole(bits_per_s, RATE_PLACES)
        self.flows = 0
        self.bound_rate = 0  # of all bound flows, in whole parts
        self.sharing_weight = 0
        self.level = 0.0
        self.pace = 0.0  # of the level
        self.changed_at = 0.0
        self.turns = count()
        self.sharing_goals: Heap = []
        self.bound_goals: Heap = []
        self.to_bind: Heap = []  # those that share, least cap per weight first
        self.to_free: Heap = []  # those that are bound, greatest cap per weight first
        self.alarm: Alarm | None = None

    def join(self, flow: Flow) -> None:
        """A message enters the cell; bound ones may become free."""
        now, num_bits = self._advance(), flow.num_bits
        shared = self.level + num_bits / flow.member.weight
        if flow.member.cap is None:
            self._enter(flow, shared, bound=False)
        else:
            self._enter(flow, now + num_bits / flow.member.bits_per_s, bound=True)
        while (loosest := _top(self.to_free)) is not None and self._exceeds(loosest):
            self._leave(loosest)
            left = self.left_bits(loosest, now)
            goal = shared if loosest is flow else self.level + left / loosest.member.weight
            self._enter(loosest, goal, bound=False)
        self._set_next()

    def _advance(self) -> float:
        """Bring the level up to now."""
        now = self.clock.now
        if self.sharing_weight:
            self.level += self.pace * (now - self.changed_at)
        else:
            self.level = 0.0
        self.changed_at = now
        return now

    def _ends(self, flow: Flow, event: Any) -> None:
        """A flow is through; those that share may become bound."""
        now = self._advance()
        if not flow.bound:
            self.level = flow.goal
        self._goes(flow, now)
        flow.then(event)

    def drop(self, flow: Flow) -> None:
        """A flow goes before it is through."""
        self._goes(flow, self._advance())

    def _goes(self, flow: Flow, now: float) -> None:
        self._leave(flow)
        while (tightest := _top(self.to_bind)) is not None and not self._exceeds(tightest):
            self._leave(tightest)
            left = self.left_bits(tightest, now)
            self._enter(tightest, now + left / tightest.member.bits_per_s, bound=True)
        self._set_next()

    def left_bits(self, flow: Flow, at: float) -> float:
        """What a flow has still to carry at an instant up to which nothing changes."""
        if flow.bound:
            return (flow.goal - at) * flow.member.bits_per_s
        level = self.level + self.pace * (at - self.changed_at)
        return (flow.goal - level) * flow.member.weight

    def _exceeds(self, flow: Flow) -> bool:
        """Whether a flow's cap is more than its share, as things stand."""
        assert flow.member.cap is not None
        rest = self.capacity - self.bound_rate
        return flow.member.cap * self.sharing_weight > flow.member.weight * rest

    def _enter(self, flow: Flow, goal: float, *, bound: bool) -> None:
        flow.bound, flow.goal, flow.turn = bound, goal, next(self.turns)
        cap, ratio, weight = flow.member.cap, flow.member.ratio, flow.member.weight
        self.flows += 1
        if bound:
            assert cap is not None
            self.bound_rate += cap
            self._push(self.bound_goals, goal, flow)
            self._push(self.to_free, -ratio, flow)
        else:
            self.sharing_weight += weight
            self._push(self.sharing_goals, goal, flow)
            if cap is not None:
                self._push(self.to_bind, ratio, flow)

    def _push(self, heap: Heap, key: float, flow: Flow) -> None:
        heappush(heap, (key, flow.index, flow.turn, flow))
        if len(heap) > 2 * self.flows + FEW:  # most entries hold no more
            heap[:] = [entry for entry in heap if entry[3].turn == entry[2]]
            heapify(heap)

    def _leave(self, flow: Flow) -> None:
        flow.turn = -1
        self.flows -= 1
        if flow.bound:
            assert flow.member.cap is not None
            self.bound_rate -= flow.member.cap
        else:
            self.sharing_weight -= flow.member.weight

    def _set_next(self) -> None:
        """Set the cell's next end anew."""
        if self.alarm is not None:
            self.alarm.cancel()
        now, found = self.changed_at, []
        sharing, bound = _top(self.sharing_goals), _top(self.bound_goals)
        if sharing is not None:
            rest = self.capacity - self.bound_rate
            self.pace = rest / (self.sharing_weight << RATE_PLACES)
            at = now + (sharing.goal - self.level) / self.pace
            found.append((max(now, at), sharing.index, sharing))
        if bound is not None:
            found.append((max(now, bound.goal), bound.index, bound))
        if found:
            at, _, flow = min(found)
            self.alarm = Alarm(self.clock, at, flow.member.rank, partial(self._ends, flow))


def _top(heap: Heap) -> Flow | None:
    """The first flow of a heap that still holds."""
    while heap and heap[0][3].turn != heap[0][2]:
        heappop(heap)
    return heap[0][3] if heap else None


class Member:
    """One device's place in a cell, for one direction: its weight, and its own link's rate."""

    def __init__(self, cell: Cell, index: int, rank: int, weight: int, bits_per_s: float) -> None:
        self.cell, self.index, self.rank, self.weight = cell, index, rank, weight
        self.bits_per_s = bits_per_s
        self.cap = whole(bits_per_s, RATE_PLACES) if bits_per_s < cell.bits_per_s else None
        self.ratio = 0 if self.cap is None else (self.cap << RATIO_PLACES) // weight
        self.flow: Flow | None = None

    def carry(self, now: float, num_bytes: int, seconds: float, then: Callback) -> None:  # noqa: ARG002 - a cell looks at the clock, and at its rate
        """Begin to carry a message; `then` is called when it ends."""
        self.flow = Flow(self, num_bytes * BITS_PER_BYTE, then)
        self.cell.join(self.flow)

    def carried(self, by: float) -> int:
        """How many bytes of the message that is under way are through by an instant."""
        assert self.flow is not None
        bits = self.flow.num_bits - self.cell.left_bits(self.flow, by)
        return max(int(bits // BITS_PER_BYTE), 0)

    def stop(self) -> None:
        """Carry no more of the message."""
        assert self.flow is not None
        self.cell.drop(self.flow)
