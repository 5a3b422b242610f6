"""The server's end of the wire: one thread that lets devices in, and nobody else."""

from __future__ import annotations

import functools
import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import count
from typing import Any

import zmq
from zmq.auth.thread import ThreadAuthenticator

from mobisim.errors import MobisimError
from mobisim.testbed import frames
from mobisim.testbed.bell import Bell, Sleep, readable
from mobisim.testbed.clock import clock_name, now
from mobisim.testbed.delivery import Delivery
from mobisim.testbed.endpoint import SERVER_NAME, Address, Keys
from mobisim.testbed.frames import Ask, Bye, Chunk, Hello, RubbishError, State
from mobisim.testbed.inbox import Arrival, Inbox
from mobisim.testbed.jobs import Jobs
from mobisim.testbed.plan import Plan
from mobisim.testbed.radio import HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS, hurried
from mobisim.testbed.record import Record

LOG = logging.getLogger("mobisim.testbed")
HANDSHAKE_MS = 5_000
QUEUED_FRAMES = 16  # of one peer, each way
LINGER_MS = 2_000
TOLD = 5  # times that one complaint is logged in full
FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


class DeviceGoneError(MobisimError):
    """A device has not been heard of for too long."""


class Complaints:
    """Log lines that a peer can cause, so many of a kind and then only their number."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, kind: str, detail: str) -> None:
        """Tell of one."""
        self.counts[kind] += 1
        number = self.counts[kind]
        if number <= TOLD or number & (number - 1) == 0:
            LOG.warning("%s: %s (%d so far)", kind, detail[: frames.MAX_REASON], number)


def _port(endpoint: Any) -> int:
    return int(endpoint.rpartition(b":")[2])


class Gate:
    """Takes messages in, hands credit and the side network out."""

    def __init__(
        self, plan: Plan, jobs: Jobs, record: Record, *,
        address: Address, keys: Keys | None, paced: bool, patience_s: float,
    ) -> None:  # fmt: skip
        self.plan, self.jobs, self.record = plan, jobs, record
        self.keys, self.patience_s = keys, patience_s
        self.inboxes = [Inbox(plan, device, record.add) for device in range(plan.num_devices)]
        self.complaints = Complaints()
        self.zero: float | None = None
        self._clock = clock_name()
        self._peers: dict[int, bytes] = {}  # by device: who it is on the wire
        self._devices: dict[bytes, int] = {}
        self._heard_at = [now()] * plan.num_devices
        self._todo: deque[Callable[[], None]] = deque()
        self._flying: list[tuple[float, int, Arrival]] = []
        self._numbers = count()
        self.delivery = Delivery(plan, record, paced=paced)
        self._closing = False
        self._bell = Bell()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._wire = self._listen(address)
        self._thread = threading.Thread(target=self._run, name="gate", daemon=True)

    def _listen(self, address: Address) -> zmq.Socket[bytes]:
        with hurried():  # ZeroMQ's own thread starts with its first socket
            wire = self._context.socket(zmq.ROUTER)
        wire.router_mandatory = True  # a peer that never reads is noticed, and not waited for
        wire.linger = LINGER_MS
        wire.sndhwm = wire.rcvhwm = QUEUED_FRAMES
        wire.maxmsgsize = frames.MAX_FRAME_BYTES
        wire.handshake_ivl = HANDSHAKE_MS
        wire.heartbeat_ivl, wire.heartbeat_timeout = HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS
        self._guard: ThreadAuthenticator | None = None
        if self.keys is not None:
            self._guard = ThreadAuthenticator(self._context, log=LOG)
            self._guard.start()
            self._guard.configure_curve(domain="*", location=str(self.keys.folder))
            wire.curve_secretkey = self.keys.secret(SERVER_NAME)
            wire.curve_publickey = self.keys.public(SERVER_NAME)
            wire.curve_server = True
        self._failures = wire.get_monitor_socket(FAILED)
        wire.bind(address.url)
        self.address = Address(address.host, _port(wire.getsockopt(zmq.LAST_ENDPOINT)))
        return wire

    # What the worker's thread calls.

    def open(self) -> None:
        """Let devices in."""
        self._thread.start()

    def wait_for_devices(self) -> None:
        """Wait until every device is ready."""
        self.jobs.wait_until(lambda: len(self._peers) == self.plan.num_devices)

    def begin(self, zero: float) -> None:
        """The run's time is counted from here; devices set out."""
        for inbox in self.inboxes:
            inbox.zero = zero
        self.zero = zero
        self._post(self._tell_all)

    def take_up(self, device: int, at: float) -> None:
        """A mini-batch is taken up: its device has one more credit."""
        self.inboxes[device].take_up(at)
        # Waited for: the worker would not let go of the interpreter for milliseconds afterwards.
        self._have_done(lambda: self._tell(device))

    def reject(self, device: int, batch: int, reason: str) -> None:
        """A mini-batch was corrupt: its device must begin again with it."""

        def begin_again() -> None:
            self._flying = [one for one in self._flying if one[2].device != device]
            self.jobs.forget(device)
            self.record.forget(device, batch)
            self.inboxes[device].begin_with(batch)
            peer = self._peers.pop(device, None)
            if peer is not None:
                self._refuse(peer, reason)

        self._have_done(begin_again)

    def deliver(self, network: bytes, at: float) -> None:
        """All is learned: bring the side network to the devices, and wait until they have it."""
        assert self.zero is not None
        self.delivery.begin(network, self.zero, at)
        self._post(self._tell_all)
        if network:
            self.jobs.wait_until(lambda: len(self.delivery.gone) == self.plan.num_devices)

    def close(self) -> None:
        """Say goodbye and end the thread."""
        self._closing = True
        self._bell.ring()
        if self._thread.is_alive():
            self._thread.join()
        self._failures.close()
        self._wire.disable_monitor()
        self._wire.close()
        if self._guard is not None:
            self._guard.stop()
        self._context.term()
        self._bell.close()

    def _post(self, what: Callable[[], None]) -> None:
        self._todo.append(what)
        self._bell.ring()

    def _have_done(self, what: Callable[[], None]) -> None:
        """Have the gate's thread do something, and wait for it."""
        done = threading.Event()
        self._post(what)
        self._post(done.set)
        while not done.wait(1.0) and self._thread.is_alive():
            pass

    # What the gate's own thread does.

    def _run(self) -> None:
        sleep = Sleep(self._bell, self._wire, self._failures)
        try:
            with hurried():
                while not self._closing:
                    sleep.until_woken(self._next_s())
                    self._turn()
        except BaseException as error:  # noqa: BLE001 - handed to the worker's thread
            self.jobs.end(error)

    def _next_s(self) -> float:
        due = [self._flying[0][0]] if self._flying else []
        due += [at for at in map(self.delivery.due, self._peers) if at is not None]
        return min([1.0, *(at - now() for at in due)])

    def _turn(self) -> None:
        for peer, frame in self._heard():
            self._take(peer, frame)
        self._land()
        while self._todo:
            self._todo.popleft()()
        for device, peer in self._peers.items():
            self.delivery.send(device, functools.partial(self._send, peer))
        self._notice_failures()
        self._check_patience()

    def _heard(self) -> Iterator[tuple[bytes, bytes]]:
        for _ in range(QUEUED_FRAMES):
            if not readable(self._wire):
                return
            peer, *rest = self._wire.recv_multipart(zmq.NOBLOCK)
            if len(rest) == 1:
                yield peer, rest[0]
            else:
                self._refuse(peer, f"{len(rest)} frames where one is a message")

    def _take(self, peer: bytes, frame: bytes) -> None:
        at = now()
        try:
            device = self._devices.get(peer)
            tag = frame[:1]
            if tag == frames.HELLO:
                self._greet(peer, Hello.unpack(frame))
            elif device is None:
                self._send(peer, self._state(None, self._asked(frame)).pack())
            else:
                self._heard_at[device] = at
                self._serve(device, tag, frame, at)
        except RubbishError as error:
            self._refuse(peer, str(error))

    def _asked(self, frame: bytes) -> float:
        return Ask.unpack(frame).sent_at if frame[:1] == frames.ASK else -1.0

    def _serve(self, device: int, tag: bytes, frame: bytes, at: float) -> None:
        if tag == frames.CHUNK and self.zero is not None:
            self._receive(device, Chunk.unpack(frame), at)
        elif tag == frames.ASK:
            self._answer(device, Ask.unpack(frame))
        elif tag == frames.BYE and self.delivery.network is not None:
            self.delivery.landed(device, Bye.unpack(frame))
            self.jobs.changed()
        else:
            raise RubbishError(f"a frame out of place: {tag!r}")

    def _greet(self, peer: bytes, hello: Hello) -> None:
        if (hello.magic, hello.protocol) != (frames.MAGIC, frames.PROTOCOL):
            raise RubbishError("another protocol")
        if hello.device >= self.plan.num_devices:
            raise RubbishError(f"no device {hello.device} in this scenario")
        if hello.digest != self.plan.digest:
            raise RubbishError("another scenario, data or version: start both ends with the same")
        self._forget(self._peers.get(hello.device))
        self._peers[hello.device], self._devices[peer] = peer, hello.device
        self._heard_at[hello.device] = now()
        self.inboxes[hello.device].forget_fragment()
        self.delivery.begin_again(hello.device)
        LOG.info("device-%d is here", hello.device)
        self._tell(hello.device)
        self.jobs.changed()

    def _forget(self, peer: bytes | None) -> None:
        if peer is not None:
            self._devices.pop(peer, None)

    def _refuse(self, peer: bytes, reason: str) -> None:
        device = self._devices.pop(peer, None)
        name = "a stranger" if device is None else f"device-{device}"
        self.complaints.add(f"refused {name}", reason)
        self._send(peer, frames.pack_refused(reason))

    def _receive(self, device: int, chunk: Chunk, at: float) -> None:
        arrival = self.inboxes[device].add(chunk, at)
        if arrival is not None:
            heappush(self._flying, (arrival.lands_at, next(self._numbers), arrival))

    def _land(self) -> None:
        while self._flying and self._flying[0][0] <= now():
            _, _, arrival = heappop(self._flying)
            assert self.zero is not None
            inbox = self.inboxes[arrival.device]
            at = now() - self.zero if inbox.group.latency_s else arrival.received_at
            inbox.landed(arrival, at)
            self.jobs.add(arrival, at)

    def _answer(self, device: int, ask: Ask) -> None:
        self._tell(device, ask.sent_at)
        self.delivery.acknowledged(device, ask.network_bytes)

    def _tell_all(self) -> None:
        for device in self._peers:
            self._tell(device)

    def _tell(self, device: int, answers: float = -1.0) -> None:
        peer = self._peers.get(device)
        if peer is not None:
            self._send(peer, self._state(device, answers).pack())

    def _state(self, device: int | None, answers: float) -> State:
        inbox = self.inboxes[device or 0]
        known = device is not None
        return State(
            known=known,
            started=known and self.zero is not None,
            done=known and self.delivery.network is not None,
            now=now(),
            zero=self.zero or 0.0,
            answers=answers,
            taken_up=inbox.taken_up if known else 0,
            batch=inbox.expected[0] if known else 0,
            part=inbox.expected[1] if known else 0,
            offset=inbox.offset if known else 0,
            network_size=self.delivery.size if known else 0,
            clock=self._clock,
        )

    def _send(self, peer: bytes, frame: bytes) -> bool:
        """Whether a frame could be sent: who never reads is not waited for."""
        try:
            self._wire.send_multipart([peer, frame], zmq.NOBLOCK)
        except zmq.ZMQError:
            return False
        return True

    def _notice_failures(self) -> None:
        while readable(self._failures):
            self._failures.recv_multipart(zmq.NOBLOCK)
            self.complaints.add("refused a stranger", "no handshake with one of our keys")

    def _check_patience(self) -> None:
        if self.zero is None:
            return
        for device, heard_at in enumerate(self._heard_at):
            if device not in self.delivery.gone and now() - heard_at > self.patience_s:
                raise DeviceGoneError(f"device-{device} was silent for {self.patience_s:g} s")
