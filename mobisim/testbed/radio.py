"""The device's end of the wire: one thread that speaks to the server while the device computes."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import zmq

from mobisim.errors import MobisimError
from mobisim.testbed import frames
from mobisim.testbed.bell import Bell, Sleep, readable, writable
from mobisim.testbed.clock import Offset, clock_name, now
from mobisim.testbed.endpoint import DEVICE_NAME, SERVER_NAME, Address, Keys
from mobisim.testbed.frames import Ask, Bye, Hello, State
from mobisim.testbed.outbox import Message, Outbox, Place
from mobisim.testbed.pace import Pace

ASK_EVERY_S = 1.0  # while nothing else tells how far the server is
PINGS, PING_EVERY_S = 20, 0.005
HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS = 2_000, 10_000
RECONNECT_MS, RECONNECT_MAX_MS = 100, 1_000
SEND_QUEUE = 8  # frames in the socket; all others wait in the outbox
GOODBYE_S = 2.0
URGENT = 10  # of niceness, by which threads that only pass things on go before the others


class ServerRefusedError(MobisimError):
    """The server does not serve this device."""


class ServerGoneError(MobisimError):
    """The server has not been heard of for too long."""


@dataclass(frozen=True)
class Line:
    """How to reach the server, as which device, and how fast."""

    address: Address
    keys: Keys | None
    device: int
    digest: bytes
    pace: Pace | None  # None where the kernel limits the link
    latency_s: float
    patience_s: float


class Radio:
    """Carries messages up, credit and the side network down. All times are the server's clock's."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.outbox = Outbox(line.pace)
        self.offset = Offset()
        self.network = bytearray()
        self._clock = clock_name()
        self._state: State | None = None
        self._restart: int | None = None
        self._generation = 0
        self._said_hello = False
        self._changed = threading.Condition()
        self._incoming: deque[Message] = deque()
        self._bell = Bell()
        self._carrying = False  # the thread wakes by itself before a new message could go
        self._failure: BaseException | None = None
        self._landed: tuple[float, float] | None = None
        self._finished = False
        self._asked_at = self._heard_at = now()
        self._asked_after: tuple[Place, int] = (0, 0), 0
        self._pings = 0
        self._thread = threading.Thread(target=self._run, name="radio", daemon=True)

    # What the computing thread calls.

    def start(self) -> None:
        """Connect, say hello, and wait until all are ready; then the run begins."""
        self._thread.start()
        with self._changed:
            while not self._started():
                self._changed.wait()
                self._raise_failure()

    def _started(self) -> bool:
        state = self._state
        return state is not None and state.known and (state.started or state.done)

    def next_batch(self, proposed: int) -> tuple[int, int]:
        """The mini-batch to go on with, and a ticket for its messages.

        It is the proposed one unless the server has lost what was before.
        """
        with self._changed:
            self._raise_failure()
            if self._restart is not None:
                proposed, self._restart = self._restart, None
            return proposed, self._generation

    def has_credit(self, batch: int, run_ahead: int) -> bool:
        """Whether the device may begin this mini-batch."""
        assert self._state is not None
        return self._state.taken_up > batch - run_ahead

    def wait_for_credit(self, batch: int, run_ahead: int) -> bool:
        """Wait until it may; False where it should go on elsewhere."""
        with self._changed:
            while not self.has_credit(batch, run_ahead) and self._restart is None:
                self._changed.wait()
                self._raise_failure()
            return self._restart is None

    def hand_over(self, message: Message, ticket: int) -> None:
        """Give a message to the uplink; the device goes on at once."""
        with self._changed:
            if ticket == self._generation:
                self._incoming.append(message)
            wakes = self._carrying
        if not wakes:
            self._bell.ring()

    def wait_for_end(self) -> bool:
        """Wait until the side network is here; False where mini-batches must be done again."""
        with self._changed:
            while not self._finished and self._restart is None:
                self._changed.wait()
                self._raise_failure()
            return self._finished

    def first_batch(self) -> int:
        """The mini-batch that the server expects."""
        assert self._state is not None
        return self._state.batch

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._finished = True
        self._bell.ring()
        if self._thread.is_alive():
            self._thread.join()
        self._bell.close()

    def to_server(self, instant: float) -> float:
        """One's own time by the server's clock."""
        return instant + self.offset.seconds

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    # What the thread does.

    def _run(self) -> None:
        try:
            with hurried(), self._connected() as wire:
                sleep = Sleep(self._bell, wire)
                while not self._finished:
                    self._turn(wire)
                    self._rest(wire, sleep)
        except BaseException as error:  # noqa: BLE001 - handed to the computing thread
            self._failure = error
        with self._changed:
            self._changed.notify_all()

    @contextlib.contextmanager
    def _connected(self) -> Iterator[zmq.Socket[bytes]]:
        context = zmq.Context()
        wire = context.socket(zmq.DEALER)
        wire.linger = int(GOODBYE_S * 1000)
        wire.sndhwm = SEND_QUEUE
        wire.immediate = True
        wire.maxmsgsize = frames.MAX_FRAME_BYTES
        wire.heartbeat_ivl, wire.heartbeat_timeout = HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS
        wire.reconnect_ivl, wire.reconnect_ivl_max = RECONNECT_MS, RECONNECT_MAX_MS
        if self.line.keys is not None:
            keys = self.line.keys
            wire.curve_serverkey = keys.public(SERVER_NAME)
            wire.curve_publickey = keys.public(DEVICE_NAME)
            wire.curve_secretkey = keys.secret(DEVICE_NAME)
        wire.connect(self.line.address.url)
        try:
            yield wire
        finally:
            wire.close()
            context.term()

    def _turn(self, wire: zmq.Socket[bytes]) -> None:
        if now() - self._heard_at > self.line.patience_s:
            raise ServerGoneError(f"the server was silent for {self.line.patience_s:g} s")
        self._listen(wire)
        self._take_in()
        self._speak(wire)

    def _listen(self, wire: zmq.Socket[bytes]) -> None:
        while readable(wire):
            self._hear(wire.recv(zmq.NOBLOCK))

    def _hear(self, frame: bytes) -> None:
        self._heard_at = now()
        tag = frame[:1]
        if tag == frames.STATE:
            self._learn(State.unpack(frame))
        elif tag == frames.NETWORK:
            self._download(*frames.unpack_network(frame))
        elif tag == frames.REFUSED:
            raise ServerRefusedError(f"the server refuses: {frames.unpack_refused(frame)}")

    def _learn(self, state: State) -> None:
        if state.answers >= 0 and state.clock != self._clock:
            self.offset.learn(state.answers, state.now, self._heard_at)
        if not state.known:
            self._said_hello = False
            return
        place = state.batch, state.part
        with self._changed:
            if place < self.outbox.floor:
                self._go_back(place)
            self.outbox.received(place)
            # All that was sent before the question is in its answer.
            if state.answers == self._asked_at and (place, state.offset) < self._asked_after:
                self.outbox.rewind(place, state.offset, self.to_server(now()))
            self._state, self.outbox.zero = state, state.zero
            self._finish_without_network(state)
            self._changed.notify_all()

    def _go_back(self, place: Place) -> None:
        """The server has lost what it had acknowledged: begin again with this mini-batch."""
        self.outbox.begin_again(place)
        self._incoming.clear()
        self._generation += 1
        self._restart = place[0]

    def _finish_without_network(self, state: State) -> None:
        if state.done and not state.network_size:
            self._finished = True

    def _download(self, offset: int, body: bytes) -> None:
        assert self._state is not None
        if offset == len(self.network):
            self.network += body
            self._asked_at = 0.0  # acknowledge at once
        if self._landed is None and len(self.network) == self._state.network_size:
            received = now()
            time.sleep(self.line.latency_s)
            self._landed = self.to_server(received), self.to_server(now())

    def _take_in(self) -> None:
        with self._changed:
            while self._incoming:
                self.outbox.put(self._incoming.popleft())

    def _speak(self, wire: zmq.Socket[bytes]) -> None:
        try:
            self._greet(wire)
            self._ask(wire)
            due = self.outbox.due()
            while self._said_hello and due is not None and due <= self.to_server(now()):
                if not writable(wire):
                    return
                wire.send(self.outbox.next_chunk().pack(), zmq.NOBLOCK)
                due = self.outbox.due()
            self._leave(wire)
        except zmq.Again:
            return

    def _greet(self, wire: zmq.Socket[bytes]) -> None:
        if self._said_hello:
            return
        line = self.line
        hello = Hello(frames.MAGIC, frames.PROTOCOL, line.device, line.digest, self._clock)
        wire.send(hello.pack(), zmq.NOBLOCK)
        self._said_hello = True
        self._asked_at = 0.0

    def _ask(self, wire: zmq.Socket[bytes]) -> None:
        every = PING_EVERY_S if self._pinging else ASK_EVERY_S
        last = max(self._asked_at, 0.0 if self._pinging else self._heard_at)
        if self._asked_at and now() - last < every:
            return
        self._asked_at, self._asked_after = now(), self.outbox.position
        self._pings += 1
        wire.send(Ask(len(self.network), self._asked_at).pack(), zmq.NOBLOCK)

    @property
    def _pinging(self) -> bool:
        """Whether clocks are being compared: some round trips, before the run takes all cores."""
        started = self._state is not None and self._state.started
        return not started and self._pings < PINGS

    def _leave(self, wire: zmq.Socket[bytes]) -> None:
        if self._landed is not None:
            wire.send(Bye(*self._landed).pack(), zmq.NOBLOCK)
            with self._changed:
                self._finished = True
                self._changed.notify_all()

    def _rest(self, wire: zmq.Socket[bytes], sleep: Sleep) -> None:
        """Sleep until something comes, or the next chunk is due."""
        due = self.outbox.due() if self._said_hello else None
        with self._changed:
            self._carrying = due is not None
            if self._incoming or self._finished:
                return
        left = ASK_EVERY_S if due is None else due - self.to_server(now())
        if left <= 0 and not writable(wire):
            left = ASK_EVERY_S
        if self._pinging or not self._said_hello:
            left = min(left, PING_EVERY_S)
        sleep.until_woken(left)


@contextlib.contextmanager
def hurried() -> Iterator[None]:
    """Let this thread, and those that it starts, go before others, where the system allows it."""
    try:
        thread = threading.get_native_id()
        before = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, before - URGENT)
    except (OSError, AttributeError):
        yield
        return
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, thread, before)
