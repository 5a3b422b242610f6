"""The engine: a world in, a lazy stream of spans out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from simpy.core import EmptySchedule

from mobisim.sim.batching import BatchingServer
from mobisim.sim.buffered import Buffer
from mobisim.sim.device import Device
from mobisim.sim.participant import Participant
from mobisim.sim.restarts import Restarts
from mobisim.sim.rounds import Coordinator
from mobisim.sim.scene import Scene
from mobisim.sim.server import Server
from mobisim.span import NONE, Block, Row
from mobisim.world import World

BLOCK_ROWS = 65_536  # also the row groups of spans.parquet


def simulate(world: World, block_rows: int = BLOCK_ROWS) -> Iterator[Block]:
    """The spans of a world in blocks, ordered by their ends; ends when the reader stops asking."""
    scene = Scene(world)
    server, devices = _begun(scene)
    restarts = _restarts(scene, server)
    rows = scene.rows
    running = True
    while running:
        running = _advance(scene, block_rows)
        if not running:
            rows.extend(_cut(scene, devices, server, restarts))
        while len(rows) >= block_rows or (rows and not running):
            yield Block(rows[:block_rows])
            del rows[:block_rows]


def _begun(scene: Scene) -> tuple[Server | Coordinator, Sequence[Device]]:
    """The server and all devices, with what they do first begun."""
    groups = [group for group in scene.world.groups for _ in range(group.count)]
    rounds = scene.world.rounds
    if rounds is not None:
        coordinator = Coordinator(scene) if rounds.calls is None else Buffer(scene)
        coordinator.devices = [Participant(scene, g, i, coordinator) for i, g in enumerate(groups)]
        coordinator.begin()
        return coordinator, coordinator.devices
    server = Server(scene) if scene.world.batching is None else BatchingServer(scene)
    devices = [Device(scene, group, index, server) for index, group in enumerate(groups)]
    server.devices = devices
    for device in devices:
        server.begins(device)
        device.next_batch()
    return server, devices


def _restarts(scene: Scene, server: Server | Coordinator) -> Restarts | None:
    """Of a server that restarts, begun; where devices train by themselves it is none."""
    stated = scene.world.restarts
    if stated is None or scene.world.on_device or isinstance(server, Coordinator):
        return None
    restarts = Restarts(scene, server, stated)
    restarts.begin()
    return restarts


def _advance(scene: Scene, block_rows: int) -> bool:
    """Run until a block is full; False when nothing is left before the horizon."""
    env, rows, step = scene.env, scene.rows, scene.env.step
    horizon = scene.world.horizon_s
    try:
        while len(rows) < block_rows:
            if horizon is not None and env.peek() > horizon:
                return False
            step()
    except EmptySchedule:
        return False
    return True


def _cut(
    scene: Scene,
    devices: Sequence[Device],
    server: Server | Coordinator,
    restarts: Restarts | None,
) -> Iterator[Row]:
    """What is still open at the horizon: cut there and marked, actor by actor."""
    horizon = scene.world.horizon_s
    if horizon is None or scene.env.peek() == float("inf"):
        return
    for device in devices:
        if device.doing != NONE:
            yield from _positive([device.open_row(horizon, cut=True)])
    for device in devices:
        yield from _positive(device.uplink.open_rows(horizon))
    if restarts is not None:
        yield from _positive(restarts.open_rows(horizon))
    yield from _positive(server.open_rows(horizon))
    for worker in server.workers:
        yield from _positive(worker.open_rows(horizon))
    for device in devices:
        yield from _positive(device.downlink.open_rows(horizon))


def _positive(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row[3] > row[2]]
