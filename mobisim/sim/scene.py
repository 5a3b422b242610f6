"""The scene: what all actors of a run share."""

from __future__ import annotations

from mobisim.sim.kernel import Clock
from mobisim.sim.machine import Machine
from mobisim.span import Row
from mobisim.world import World


class Scene:
    """The clock, the world, the machine that device and server share, and the rows so far."""

    def __init__(self, world: World) -> None:
        self.env = Clock()
        self.world = world
        contention = world.contention
        self.machine = Machine(self.env, contention) if contention is not None else None
        self.rows: list[Row] = []
