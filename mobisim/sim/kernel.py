"""The few lines between the actors and SimPy: alarms, and the rule for equal times."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import simpy
from simpy.events import EventPriority

Callback = Callable[[Any], None]


class Alarm(simpy.Event):
    """Calls `callback` after `delay`.

    A Timeout with a priority: of alarms at one instant the lower priority rings first, then the
    one set first. Actors use their rank as priority, so that ties do not depend on who happened to
    set an alarm earlier.
    """

    def __init__(self, env: simpy.Environment, delay: float, rank: int, callback: Callback) -> None:
        # Event.__init__ would mark the event as pending; this one is triggered from the start.
        self.env = env
        self.callbacks = [callback]
        self._value = None
        self._ok = True
        env.schedule(self, EventPriority(rank), delay)
