"""TCP in simple form against the kernel's own, over a link that the kernel limits.

Two network namespaces are joined by a pair of tunnels: `tc`'s token bucket limits the rate, and a
relay between the tunnels holds each packet for half a round trip, or loses it (few kernels come
with netem). All of it is made here and removed again. As root: `pytest tests/benchmarks -s`.
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from mobisim.channel import carrier, directions
from mobisim.scenario.schema import DeviceGroup

TUN = "/dev/net/tun"
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
SENDER, RECEIVER = "10.213.7.1", "10.213.7.2"
PORT = 40713
MTU, HEADERS = 1500, 52  # IP 20, TCP 20, timestamps 12
REPEATS = 3
QUEUE_BYTES = 4_000_000  # more than any window here: the bucket itself loses nothing

pytestmark = pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0 or not os.path.exists(TUN) or not shutil.which("tc"),  # noqa: PTH110 - a device
    reason="needs root, tunnels and tc",
)


@dataclass
class Relay:
    """Carries packets between two tunnels, each after a delay; may lose those to the receiver."""

    ends: tuple[int, int]
    delay_s: float
    loss: float = 0.0
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Until stopped."""
        chance = random.Random(1)
        waiting: tuple[deque[tuple[float, bytes]], ...] = (deque(), deque())
        while not self.stopped.is_set():
            due = min((queue[0][0] for queue in waiting if queue), default=time.monotonic() + 0.05)
            ready, _, _ = select.select(self.ends, [], [], max(0.0, due - time.monotonic()))
            for end in ready:
                to_receiver = end == self.ends[0]
                packet = os.read(end, 65536)
                if not (to_receiver and len(packet) > MTU // 2 and chance.random() < self.loss):
                    at = time.monotonic() + self.delay_s
                    waiting[0 if to_receiver else 1].append((at, packet))
            for queue, end in zip(waiting, reversed(self.ends), strict=True):
                while queue and queue[0][0] <= time.monotonic():
                    os.write(end, queue.popleft()[1])


def sh(command: str) -> None:
    """Run a command that must succeed."""
    subprocess.run(command.split(), check=True, capture_output=True)


def tunnel(name: str, namespace: str, address: str) -> int:
    """A tunnel whose far end lies in a namespace."""
    end = os.open(TUN, os.O_RDWR)
    fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    sh(f"ip link set {name} netns {namespace}")
    sh(f"ip -n {namespace} addr add {address}/24 dev {name}")
    sh(f"ip -n {namespace} link set {name} mtu {MTU} txqueuelen 10000 up")
    return end


@contextmanager
def limited_link(
    rate: float, round_trip_s: float, loss: float = 0.0, window: int = 0
) -> Iterator[tuple[str, str]]:
    """Two namespaces, sender's and receiver's, joined by a link; windows may be limited."""
    tag = f"{os.getpid() % 100_000}"
    sender, receiver = f"tcp-sender-{tag}", f"tcp-receiver-{tag}"
    ends: list[int] = []
    try:
        for namespace in (sender, receiver):
            sh(f"ip netns add {namespace}")
        ends = [tunnel("mobi0", sender, SENDER), tunnel("mobi1", receiver, RECEIVER)]
        sh(
            f"ip netns exec {sender} tc qdisc add dev mobi0 root tbf rate {int(rate)}bit "
            f"burst {2 * MTU} limit {QUEUE_BYTES}"
        )
        if window:
            packets = window // (MTU - HEADERS)
            sh(f"ip -n {sender} route change 10.213.7.0/24 dev mobi0 cwnd lock {packets}")
        relay = Relay((ends[0], ends[1]), round_trip_s / 2, loss)
        thread = threading.Thread(target=relay.run)
        thread.start()
        try:
            yield sender, receiver
        finally:
            relay.stopped.set()
            thread.join()
    finally:
        for end in ends:
            os.close(end)
        for namespace in (sender, receiver):
            subprocess.run(f"ip netns del {namespace}".split(), check=False, capture_output=True)


RECEIVE = f"""
import socket, struct
server = socket.create_server(("{RECEIVER}", {PORT}))
server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_000_000)  # and no tuning of it
print("ready", flush=True)
while True:
    peer, _ = server.accept()
    left = struct.unpack("!Q", peer.recv(8, socket.MSG_WAITALL))[0]
    while left:
        left -= len(peer.recv(min(left, 1 << 20)))
    peer.sendall(b"!")
    peer.close()
"""
SEND = f"""
import socket, struct, sys, time
size, control = int(sys.argv[1]), sys.argv[2]
peer = socket.socket()
peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, control.encode())
peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_000_000)
peer.connect(("{RECEIVER}", {PORT}))
content = struct.pack("!Q", size - 8) + bytes(size - 8)
begun = time.monotonic()
peer.sendall(content)
peer.recv(1)
print(time.monotonic() - begun)
"""


def measured(
    rate: float, round_trip_s: float, sizes: list[int], *,
    control: str = "reno", loss: float = 0.0, window: int = 0,
) -> list[float]:  # fmt: skip
    """Seconds of one transfer each, on new connections: until the answer, less a round trip."""
    with limited_link(rate, round_trip_s, loss, window) as (sender, receiver):
        inside = ["ip", "netns", "exec"]
        serve = [*inside, receiver, sys.executable, "-c", RECEIVE]
        with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            assert server.stdout.readline().strip() == "ready"
            try:
                return [_one(sender, size, control) - round_trip_s for size in sizes]
            finally:
                server.kill()


def _one(sender: str, size: int, control: str) -> float:
    command = ["ip", "netns", "exec", sender, sys.executable, "-c", SEND, str(size), control]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    return float(done.stdout)


def predicted(rate: float, round_trip_s: float, size: int, **tcp: object) -> float:
    """Seconds of the same transfer in a scenario."""
    group = DeviceGroup.model_validate(
        {
            "profile": {"kind": "fixed", "forward_s": 1.0, "encode_s": 0.0},
            "link": {
                "kind": "constant",
                "uplink": f"{rate!r} bit/s",
                "latency": f"{round_trip_s / 2!r} s",
                "mtu_bytes": MTU - HEADERS,
                "overhead_bytes": HEADERS,
                "tcp": tcp,
            },
        }
    )
    up, _ = directions(group, {})
    bits = group.link.wire_bytes(size) * 8
    return carrier(up.channel, 0, 0).end(0.0, bits) if up.channel else bits / up.bits_per_s


SIZES = [10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000]
LINKS = [(10e6, 0.05), (20e6, 0.1), (50e6, 0.2)]


def say(line: str) -> None:
    """One line of the table."""
    sys.stderr.write(f"{line}\n")


def test_slow_start_explains_short_transfers() -> None:
    """Windows that double each round trip from ten packets on: within 5 % in the middle of all."""
    say("\nrate Mbit/s, round trip ms, kB: measured s, with slow start, at the rate alone")
    errors, plain_errors = [], []
    for rate, round_trip_s in LINKS:
        found = measured(rate, round_trip_s, SIZES * REPEATS)
        for at, size in enumerate(SIZES):
            seconds = statistics.median(found[at :: len(SIZES)])
            ours = predicted(rate, round_trip_s, size)
            plain = predicted(rate, round_trip_s, size, slow_start=False)
            errors.append(abs(ours - seconds) / (seconds + round_trip_s))
            plain_errors.append(abs(plain - seconds) / (seconds + round_trip_s))
            say(
                f"{rate / 1e6:4.0f} {round_trip_s * 1e3:4.0f} {size / 1e3:6.0f}: "
                f"{seconds:7.3f} {ours:7.3f} {plain:7.3f}"
            )
    middle, worst = statistics.median(errors), max(errors)
    say(
        f"errors of delivery: median {middle:.1%}, greatest {worst:.1%}; "
        f"without slow start {statistics.median(plain_errors):.1%}, {max(plain_errors):.1%}"
    )
    assert middle <= 0.05
    assert middle < statistics.median(plain_errors) / 2


@pytest.mark.parametrize("window", [65_536, 262_144])
def test_the_window_limits_the_rate(window: int) -> None:
    """With so many bytes on their way at most, a round trip brings no more than these."""
    rate, round_trip_s, size = 50e6, 0.1, 3_000_000
    seconds = statistics.median(measured(rate, round_trip_s, [size] * REPEATS, window=window))
    ours = predicted(rate, round_trip_s, size, max_window=f"{window} B")
    say(f"\nwindow {window} B: measured {seconds:.3f} s, predicted {ours:.3f} s")
    assert ours == pytest.approx(seconds, rel=0.1)


@pytest.mark.parametrize("loss", [0.005, 0.02])
def test_loss_limits_the_rate(loss: float) -> None:
    """Reno under random loss gets about what Mathis' law gives."""
    rate, round_trip_s, size = 50e6, 0.05, 5_000_000
    seconds = statistics.median(measured(rate, round_trip_s, [size] * REPEATS, loss=loss))
    ours = predicted(rate, round_trip_s, size, loss=loss)
    say(f"\nloss {loss:.1%}: measured {seconds:.2f} s, predicted {ours:.2f} s")
    assert ours == pytest.approx(seconds, rel=0.35)


def test_nothing_is_left_behind() -> None:
    """Namespaces and tunnels are removed, whatever happened between."""
    with pytest.raises(RuntimeError), limited_link(10e6, 0.05):
        raise RuntimeError
    listed = "ip netns"
    left = subprocess.run(listed.split(), check=True, capture_output=True, text=True).stdout
    assert "tcp-sender-" not in left
    assert "mobi0" not in [name for _, name in socket.if_nameindex()]
