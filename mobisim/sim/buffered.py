"""The server's side of rounds that are buffered: devices are called one by one, and nobody waits.

Actors are callbacks, as in device.py. The rules are DESIGN.md's.
"""

from __future__ import annotations

from collections import deque

from mobisim.sim.rounds import Coordinator, Update
from mobisim.sim.scene import Scene
from mobisim.span import NONE


class Buffer(Coordinator):
    """Has the first worker add up updates as they come, and step with every so many of them.

    For each that it has taken in, it calls a device.
    """

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        calls = self.rounds.calls
        assert calls is not None
        self.calls, self.line = calls, deque(calls.line.tolist())
        self.held: list[Update] = []  # that are added up

    def begin(self) -> None:
        """The first of the line are called."""
        for _ in range(self.calls.at_work):
            self._call()

    def is_open(self, version: int) -> bool:
        """Whatever is learned counts, until all is over."""
        return version != NONE and not self.is_over

    def _call(self) -> None:
        self.devices[self.line.popleft()].selected(self.version)

    def _came(self) -> None:
        if self.merger.doing == NONE:
            self._goes_on()

    def _goes_on(self) -> None:
        """The worker merges what came next, if anything did."""
        if not self.updates:
            return
        if not self.held:
            self.merger.begins()
        self.merger.merge(self._next_update())

    def merged(self, update: Update) -> None:
        """An update is added up; if the buffer is full, a version follows."""
        self.held.append(update)
        if len(self.held) == self.rounds.awaited:
            self.merger.step(self.version, min(each.part.version for each in self.held))
        else:
            self._answer(update)

    def averaged(self) -> None:
        """A new version is there."""
        self.version += 1
        update = self.held[-1]
        self.held.clear()
        if self.is_over:
            self.updates.clear()
            self._ends()
        else:
            self._answer(update)

    def _answer(self, update: Update) -> None:
        """Whose update was taken in joins the line, and its first is called."""
        self.line.append(update.device)
        self._call()
        self._goes_on()
