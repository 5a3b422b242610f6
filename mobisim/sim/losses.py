"""A device that leaves abruptly: what it and its links do is lost. The rules are DESIGN.md's."""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

from mobisim.errors import InputError
from mobisim.outages import Outlook
from mobisim.sim.kernel import Alarm
from mobisim.sim.scene import Scene
from mobisim.units import human_time

MAX_FUTILE = 10_000  # absences in a row between which nothing gets done


class Vanishing(Protocol):
    """A device that may be lost."""

    index: int

    def vanishes(self, back: float) -> bool:
        """It and its links are gone until an instant; whether that cut anything short."""
        ...


class Losses:
    """Watches over a device while anything is under way, so that a run comes to an end."""

    def __init__(self, scene: Scene, device: Vanishing, absences: Outlook) -> None:
        self.scene, self.device, self.absences = scene, device, absences
        self.rank = scene.world.first_loss_rank + device.index
        self.watched = -1.0  # the absence that is awaited
        self.futile = 0

    def watch(self, now: float) -> None:
        """Something begins; the device may leave before it ends."""
        gone, back = next(self.absences.after(now), (now, now))
        if back > now and gone != self.watched:
            self.watched = gone
            Alarm(self.scene.env, gone, self.rank, partial(self._leaves, back))

    def progresses(self) -> None:
        """Something got done."""
        self.futile = 0

    def _leaves(self, back: float, _: Any) -> None:
        self.futile += self.device.vanishes(back)
        if self.futile > MAX_FUTILE:
            raise InputError(
                "this device never gets a piece of work done before it leaves again",
                where="devices[*].absences",
                got=f"{MAX_FUTILE:,} losses in a row, up to {human_time(back)}",
                hint="let it stay for longer",
            )
