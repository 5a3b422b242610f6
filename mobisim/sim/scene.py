"""The scene: what all actors of a run share."""

from __future__ import annotations

from mobisim.sim.cell import Cell
from mobisim.sim.kernel import Clock
from mobisim.sim.machine import Machine
from mobisim.span import Row
from mobisim.world import World


class Scene:
    """The clock, the world, what devices share, and the rows so far."""

    def __init__(self, world: World) -> None:
        self.env = Clock()
        self.world = world
        contention = world.contention
        self.machine = Machine(self.env, contention) if contention is not None else None
        self.uplinks = [Cell(self.env, cell.uplink_bits_per_s) for cell in world.cells]
        self.downlinks = [Cell(self.env, cell.downlink_bits_per_s) for cell in world.cells]
        self.rows: list[Row] = []
