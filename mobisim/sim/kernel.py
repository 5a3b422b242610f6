"""The few lines between the actors and SimPy: alarms, and the rule for equal times."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappush
from typing import Any

import simpy
from simpy.events import EventPriority

Callback = Callable[[Any], None]


class Clock(simpy.Environment):
    """SimPy's environment, from 0.0 on."""

    def __init__(self) -> None:
        super().__init__(0.0)

    def schedule_at(self, event: simpy.Event, at: float, rank: int) -> None:
        """Have `event` happen at an instant; going by a delay would round once more."""
        heappush(self._queue, (at, EventPriority(rank), next(self._eid), event))


class Alarm(simpy.Event):
    """Calls `callback` at an instant.

    A Timeout with a priority: of alarms at one instant the lower priority rings first, then the
    one set first. Actors use their rank as priority, so that ties do not depend on who happened to
    set an alarm earlier.
    """

    def __init__(self, clock: Clock, at: float, rank: int, callback: Callback) -> None:
        # Event.__init__ would mark the event as pending; this one is triggered from the start.
        self.env = clock
        self.callbacks = [callback]
        self._value = None
        self._ok = True
        clock.schedule_at(self, at, rank)

    def cancel(self) -> None:
        """Ring for nobody."""
        self.callbacks = []
