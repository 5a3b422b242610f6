"""The testbed end to end: server and device in two threads of this process, over real TCP."""

from __future__ import annotations

import logging
import random
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import zmq
from tiny import save_backbone, write_task

import mobisim
from mobisim.prepare import Options
from mobisim.scenario.load import loads
from mobisim.scenario.schema import Scenario
from mobisim.testbed import device as device_module
from mobisim.testbed import frames
from mobisim.testbed import server as server_module
from mobisim.testbed.device import be_device
from mobisim.testbed.endpoint import Address, Keys
from mobisim.testbed.frames import Ask, Chunk, Hello
from mobisim.testbed.plan import Plan
from mobisim.testbed.radio import Line
from mobisim.testbed.server import Service, serve
from mobisim.training.trainer import Trainer
from mobisim.validation.rhythm import Beat
from mobisim.validation.wire import Receiving, Sending

SMALL = """
name: tiny
model: {tiny}/config.json
wire: {{codec: nf4, block_size: 16}}
training: {{task: {tiny}, backbone: {tiny}, batch_size: 8, sequence_length: 12, epochs: 1,
           padding: longest, evaluate_every: 3}}
devices:
  - profile: {{kind: fixed, forward_s: 5 ms, encode_s: 1 ms}}
    link: {{kind: constant, uplink: 2 Mbit/s, latency: 1 ms, overhead_bytes: 40}}
server: {{profile: {{kind: fixed, step_s: 5 ms}}}}
"""
NUM_BATCHES = 6
HERE = Address("127.0.0.1", 0)
LOADING = threading.Lock()


@pytest.fixture(autouse=True)
def _loading_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers cannot load two models at a time; processes of their own can."""
    make = Plan.trainer

    def trainer(plan: Plan) -> Trainer:
        with LOADING:
            return make(plan)

    monkeypatch.setattr(Plan, "trainer", trainer)


@pytest.fixture(scope="module", autouse=True)
def _tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The scenario of a tiny backbone and task."""
    folder = tmp_path_factory.mktemp("tiny")
    save_backbone(folder)
    write_task(folder)
    TEXT.append(SMALL.format(tiny=folder))
    yield
    TEXT.clear()


TEXT: list[str] = []


def scenario_with(overrides: tuple[str, ...]) -> Scenario:
    return loads(TEXT[0], overrides=overrides)


def plan_of(place: Path, *overrides: str, **options: Any) -> Plan:
    scenario = scenario_with(overrides)
    return Plan.of(scenario, Options(plots=False, out=place, **options))


def line_to(plan: Plan, address: Address, keys: Keys | None = None, number: int = 0) -> Line:
    pace, latency_s = plan.uplink_pace(number), plan.group(number).latency_s
    return Line(address, keys, number, plan.digest, pace, latency_s, 60.0)


class Serving:
    """A server in a thread of its own."""

    def __init__(self, plan: Plan, keys: Keys | None = None, address: Address = HERE) -> None:
        self.plan, self.keys = plan, keys
        self.result: mobisim.Result | None = None
        self.failure: BaseException | None = None
        self._address, self._opened = address, threading.Event()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()
        self._opened.wait(60)
        self.address = self._address

    def _serve(self) -> None:
        service = Service(self._address, self.keys, patience_s=60.0)
        try:
            self.result = serve(self.plan, service, self._opened_at)
        except BaseException as error:  # noqa: BLE001 - told below
            self.failure = error
        self._opened.set()

    def _opened_at(self, address: Address) -> None:
        self._address = address
        self._opened.set()

    def finished(self) -> mobisim.Result:
        self.thread.join(120)
        if self.failure is not None:
            raise self.failure
        assert self.result is not None
        return self.result


def run(plan: Plan, keys: Keys | None = None) -> mobisim.Result:
    serving = Serving(plan, keys)
    be_device(plan, line_to(plan, serving.address, keys))
    return serving.finished()


def steps(result: mobisim.Result) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = pq.read_table(result.path / "steps.parquet").to_pydict()
    return columns


def simulated(place: Path, *overrides: str) -> dict[str, list[Any]]:
    return steps(mobisim.run(scenario_with(overrides), Options(plots=False, out=place)))


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of the simulated run."""
    losses: list[float] = simulated(tmp_path_factory.mktemp("simulated") / "result")["loss"]
    return losses


@pytest.mark.parametrize("granularity", ["batch", "layer"])
def test_the_same_is_learned_to_the_last_bit(tmp_path: Path, granularity: str) -> None:
    """Losses and metrics are those of the simulated run, where shapes and threads are the same."""
    override = f"granularity={granularity}"
    real = steps(run(plan_of(tmp_path / "real", override)))
    alike = simulated(tmp_path / "simulated", override)
    for column in ("loss", "metric", "batch", "version_read", "num_samples"):
        assert real[column] == alike[column]


def test_other_shapes_learn_the_same_within_rounding(tmp_path: Path) -> None:
    """Padded samples and a second epoch change the last bits of activations, and little else."""
    overrides = ("training.padding=fixed", "training.epochs=2", "wire.codec=int8")
    real = steps(run(plan_of(tmp_path / "real", *overrides)))["loss"]
    alike = simulated(tmp_path / "simulated", *overrides)["loss"]
    assert real == pytest.approx(alike, rel=1e-2)


def test_a_result_like_any_other(tmp_path: Path) -> None:
    """It names how it was run, every kind of span is there, and the link kept its rate."""
    result = run(plan_of(tmp_path / "real", "devices[0].run_ahead=1"))
    spans = pq.read_table(result.path / "spans.parquet").to_pydict()
    kinds = {"forward", "encode", "transfer", "latency", "decode", "step", "download", "wait"}
    assert kinds <= set(spans["kind"])
    assert result.summary.num_steps == NUM_BATCHES
    assert result.summary.stand_in is None
    assert result.summary.downlink_bytes > 0


def test_a_recorded_trace_is_followed(tmp_path: Path) -> None:
    """A message ends when the trace has supplied its bits, but for what sockets take."""
    trace = tmp_path / "drive.csv"
    trace.write_text("time_s,bit_per_s\n0,4e6\n0.05,1e5\n0.1,2e6\n", encoding="utf-8")
    packets = "latency: 0 s, overhead_bytes: 0, mtu_bytes: 1448"
    link = f"devices[0].link={{kind: trace, uplink: {trace}, downlink: 2 Mbit/s, {packets}}}"
    plan = plan_of(tmp_path / "real", link, train=False)
    spans = pq.read_table(run(plan).path / "spans.parquet").to_pylist()
    sent = [span for span in spans if span["kind"] == "transfer"]
    pace = plan.uplink_pace(0)
    late = [span["end"] - pace.end(span["start"], span["num_bytes"]) for span in sent]
    assert len(sent) == NUM_BATCHES
    assert float(np.median(np.abs(late))) < 0.03


def test_the_wire_carries_in_the_rhythm_that_is_asked_for(tmp_path: Path) -> None:
    """As fast as the link takes it, or by the beat; nothing in between; and how late is told."""
    plan = plan_of(tmp_path / "real", "training.epochs=200", "devices[0].run_ahead=2", train=False)
    keys = Keys.make(tmp_path / "keys")
    receiving = Receiving(plan, keys, HERE)
    sending = Sending(plan, keys, receiving.address, paced=True)
    try:
        late = sending.delay_s(1.0)
        # The latency is counted apart, so what is left is threads waking one another.
        assert 0.0 < late < 0.1
        with sending.carrying(Beat(time.monotonic(), 0.2, (0.1,))):
            time.sleep(0.5)  # what was begun before ends
            before = sending.handed_over
            time.sleep(2.0)
            assert 8 <= sending.handed_over - before <= 12
        time.sleep(0.5)
        before = sending.handed_over
        time.sleep(0.5)
        assert sending.handed_over == before
    finally:
        sending.close()
        receiving.close()


def test_several_devices_share_one_server(tmp_path: Path) -> None:
    """Timing alone: each device's mini-batches are stepped exactly once."""
    plan = plan_of(tmp_path / "real", "devices[0].count=2", train=False)
    serving = Serving(plan)
    second = threading.Thread(
        daemon=True, target=be_device, args=(plan, line_to(plan, serving.address, None, 1))
    )
    second.start()
    be_device(plan, line_to(plan, serving.address))
    second.join()
    found = steps(serving.finished())
    each = sorted(zip(found["device"], found["batch"], strict=True))
    assert each == [(device, batch) for device in range(2) for batch in range(NUM_BATCHES)]


def dying_at(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices die once when they come to this mini-batch."""
    alive = device_module.Backend.run
    lives = [1]

    def once(self: Any, number: int, told: Any, made: Any) -> None:
        if number == batch and lives and told.__name__ == "told":
            lives.clear()
            raise ConnectionAbortedError
        alive(self, number, told, made)

    monkeypatch.setattr(device_module.Backend, "run", once)


@pytest.mark.parametrize("granularity", ["batch", "layer"])
def test_a_device_that_died_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: list[float], granularity: str
) -> None:
    """It comes back to the next unacknowledged mini-batch; each is stepped exactly once."""
    plan = plan_of(tmp_path / "real", f"granularity={granularity}")
    dying_at(3, monkeypatch)
    serving = Serving(plan)
    with pytest.raises(ConnectionAbortedError):
        be_device(plan, line_to(plan, serving.address))
    be_device(plan, line_to(plan, serving.address))
    found = steps(serving.finished())
    assert found["batch"] == list(range(NUM_BATCHES))
    assert found["loss"] == expected


def test_a_server_that_died_goes_on_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: list[float]
) -> None:
    """Steps since the checkpoint are done again by the device that stayed, to the same losses."""
    plan = plan_of(tmp_path / "real", "devices[0].run_ahead=2")
    step = server_module._Run._step
    calls = [0]

    def dying(self: Any, worker: Any) -> None:
        calls[0] += 1
        self.checkpoints.every_s = 0.0 if calls[0] == 2 else 1e9
        if calls[0] == 5:
            raise ConnectionAbortedError
        step(self, worker)

    monkeypatch.setattr(server_module._Run, "_step", dying)
    first = Serving(plan)
    device = threading.Thread(
        daemon=True, target=be_device, args=(plan, line_to(plan, first.address))
    )
    device.start()
    with pytest.raises(ConnectionAbortedError):
        first.finished()
    again = replace(plan.prepared, options=replace(plan.prepared.options, resume=True))
    second = Serving(replace(plan, prepared=again), address=first.address)
    device.join(60)
    found = steps(second.finished())
    assert found["batch"] == list(range(NUM_BATCHES))
    assert found["loss"] == expected
    assert calls[0] == 5 + 4  # two were kept, so four of six were done by the second


class Cable:
    """A TCP connection that can be cut and mended."""

    def __init__(self, to: Address) -> None:
        self.to = to
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = Address("127.0.0.1", self.listener.getsockname()[1])
        self.whole = True
        self.carried = 0
        self.ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            near, _ = self.listener.accept()
            if not self.whole:
                near.close()
                continue
            far = socket.create_connection((self.to.host, self.to.port))
            self.ends += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(4096):
                sink.sendall(data)
                self.carried += len(data)
        except OSError:
            pass

    def cut(self) -> None:
        self.whole = False
        for end in self.ends:
            end.close()
        self.ends.clear()


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_link_cut_for_ten_seconds_is_mended(tmp_path: Path, expected: list[float]) -> None:
    """What was on its way is sent again once the link is back, and nothing is learned twice."""
    plan = plan_of(tmp_path / "real")
    serving = Serving(plan)
    cable = Cable(serving.address)
    device = threading.Thread(
        daemon=True, target=be_device, args=(plan, line_to(plan, cable.address))
    )
    device.start()
    wait_for(lambda: cable.carried > 8_000)
    cable.cut()
    time.sleep(10.0)
    cable.whole = True
    device.join(60)
    found = steps(serving.finished())
    assert found["batch"] == list(range(NUM_BATCHES))
    assert found["loss"] == expected


@pytest.fixture
def wire() -> Iterator[Callable[..., zmq.Socket[bytes]]]:
    """Makes rogue sockets."""
    context = zmq.Context()
    made = []

    def make(address: Address, keys: Keys | None, own: tuple[bytes, bytes] | None) -> Any:
        rogue = context.socket(zmq.DEALER)
        rogue.linger = 0
        if keys is not None:
            public, secret = own or (keys.public("device"), keys.secret("device"))
            rogue.curve_serverkey = keys.public("server")
            rogue.curve_publickey, rogue.curve_secretkey = public, secret
        rogue.connect(address.url)
        made.append(rogue)
        return rogue

    yield make
    for rogue in made:
        rogue.close(linger=0)
    context.term()


def test_rubbish_harms_nobody(
    tmp_path: Path,
    wire: Callable[..., zmq.Socket[bytes]],
    expected: list[float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Ten thousand malformed frames of a peer with a key: told in the log, and the run goes on."""
    keys = Keys.make(tmp_path / "keys")
    plan = plan_of(tmp_path / "real")
    serving = Serving(plan, keys)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with caplog.at_level(logging.WARNING, logger="mobisim.testbed"):
        source = random.Random(8)
        for _ in range(20):
            _send_rubbish(wire(serving.address, keys, None), plan, source, 500)
        be_device(plan, line_to(plan, serving.address, keys))
        result = serving.finished()
    assert steps(result)["loss"] == expected
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024
    lines = [one.getMessage() for one in caplog.records if "refused" in one.getMessage()]
    assert lines
    assert len(lines) < 100


def _send_rubbish(rogue: zmq.Socket[bytes], plan: Plan, source: random.Random, count: int) -> None:
    """Frames that are nearly right; then one that is too long, at which the server hangs up."""
    hello = Hello(frames.MAGIC, frames.PROTOCOL, 0, plan.digest, b"x" * 16).pack()
    honest = [
        hello,
        Hello(frames.MAGIC, frames.PROTOCOL, 9, plan.digest, b"x" * 16).pack(),
        Ask(1 << 40, 0.0).pack(),
        Chunk(0, 0, 0, b"x" * 500).pack(),
        Chunk(1 << 50, 7, 9, b"x" * 500).pack(),
        frames.BYE + bytes(16),
    ]
    rogue.sndtimeo = 10_000
    for _ in range(count - 1):
        frame = bytearray(source.choice(honest))
        frame[source.randrange(len(frame))] = source.randrange(256)
        rogue.send(bytes(frame))
    rogue.send(bytes(frames.MAX_FRAME_BYTES + 1))
    rogue.close(linger=10_000)


def test_a_peer_without_the_key_gets_nothing(
    tmp_path: Path, wire: Callable[..., zmq.Socket[bytes]]
) -> None:
    """No key, a key of its own, or no ZeroMQ at all: not one frame comes back."""
    keys = Keys.make(tmp_path / "keys")
    plan = plan_of(tmp_path / "real")
    serving = Serving(plan, keys)
    hello = Hello(frames.MAGIC, frames.PROTOCOL, 0, plan.digest, b"x" * 16).pack()
    rogues = [wire(serving.address, None, None), wire(serving.address, keys, zmq.curve_keypair())]
    for rogue in rogues:
        rogue.send(hello)
    raw = socket.create_connection((serving.address.host, serving.address.port))
    raw.sendall(random.Random(1).randbytes(100_000))
    be_device(plan, line_to(plan, serving.address, keys))
    serving.finished()
    assert not any(rogue.poll(0) for rogue in rogues)
    raw.close()


def test_a_device_that_never_reads_is_not_waited_for(
    tmp_path: Path, wire: Callable[..., zmq.Socket[bytes]]
) -> None:
    """It asks and asks, and its answers are dropped once its queue is full."""
    plan = plan_of(tmp_path / "real")
    serving = Serving(plan)
    deaf = wire(serving.address, None, None)
    for _ in range(20_000):
        deaf.send(Ask(0, 1.0).pack())
    be_device(plan, line_to(plan, serving.address))
    assert serving.finished().summary.num_steps == NUM_BATCHES
