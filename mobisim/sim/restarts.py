"""When the server goes down and comes back. The rules are DESIGN.md's."""

from __future__ import annotations

from functools import partial
from typing import Any

from mobisim.errors import InputError
from mobisim.outages import outlook
from mobisim.scenario.profiles import Outages
from mobisim.sim.kernel import Alarm
from mobisim.sim.scene import Scene
from mobisim.sim.server import Server
from mobisim.span import DOWN, NONE, Row
from mobisim.units import human_time

MAX_FUTILE = 10_000  # restarts in a row between which nothing is stepped


class Restarts:
    """Takes the server down and brings it back until all is stepped."""

    def __init__(self, scene: Scene, server: Server, restarts: Outages) -> None:
        self.scene, self.server = scene, server
        self.outlook = outlook(restarts, scene.world.seed, "server/restarts")
        self.down_since: float | None = None
        self.futile = self.version = 0

    def begin(self) -> None:
        """Await the next restart, if there is one."""
        for down_at, up_at in self.outlook.after(self.scene.env.now):
            Alarm(self.scene.env, down_at, self.scene.world.last_rank, partial(self._down, up_at))
            return

    def _down(self, up_at: float, _: Any) -> None:
        if self.server.is_done:
            return
        self._progresses(up_at)
        self.down_since = self.scene.env.now
        self.server.goes_down()
        Alarm(self.scene.env, up_at, self.scene.world.last_rank, self._up)

    def _up(self, _: Any) -> None:
        now = self.scene.env.now
        self.scene.rows.extend(self.open_rows(now, cut=False))
        self.down_since = None
        self.server.comes_back()
        self.begin()

    def _progresses(self, up_at: float) -> None:
        """Refuse a server that is never up long enough for the work in hand."""
        stepped, self.version = self.server.version > self.version, self.server.version
        self.futile = 0 if stepped or not self.server.works else self.futile + 1
        if self.futile > MAX_FUTILE:
            raise InputError(
                "this server never gets a mini-batch done between two restarts",
                where="server.restarts",
                got=f"{MAX_FUTILE:,} restarts without a step, up to {human_time(up_at)}",
                hint="let it be up for longer",
            )

    def open_rows(self, end: float, *, cut: bool = True) -> list[Row]:
        """The row of the restart under way."""
        if self.down_since is None:
            return []
        actor = self.server.actor
        return [
            (DOWN, actor, self.down_since, end, NONE, NONE, NONE, NONE, NONE, NONE, cut)
        ]  # fmt: skip
