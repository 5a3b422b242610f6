"""Sending and receiving while pieces are timed: the wire of the testbed, with nothing behind it.

The device's end hands over empty messages of the scenario's sizes, in the scenario's rhythm; the
server's end takes them in and throws them away. The testbed's own threads do all that lies in
between, beside whatever the main thread computes meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from mobisim.span import ENCODE, FORWARD
from mobisim.testbed.clock import now
from mobisim.testbed.endpoint import Address, Keys
from mobisim.testbed.frames import Note
from mobisim.testbed.gate import Gate
from mobisim.testbed.jobs import Jobs
from mobisim.testbed.outbox import Message
from mobisim.testbed.plan import Plan
from mobisim.testbed.radio import Line, Radio
from mobisim.testbed.record import Record
from mobisim.validation.rhythm import FREE, Beat

PATIENCE_S, LOOK_S = 600.0, 0.1


class Wire:
    """One end, with a thread that plays the part of what is behind it."""

    def __init__(self) -> None:
        self._thread = threading.Thread(target=self._play, daemon=True)

    def close(self) -> None:
        """Carry nothing any more."""
        raise NotImplementedError

    def _play(self) -> None:
        raise NotImplementedError


class Receiving(Wire):
    """The server's end."""

    def __init__(self, plan: Plan, keys: Keys, address: Address) -> None:
        super().__init__()
        self._plan, self._jobs = plan, Jobs()
        self._gate = Gate(
            plan, self._jobs, Record(),
            address=address, keys=keys, paced=True, patience_s=PATIENCE_S,
        )  # fmt: skip
        self.address = self._gate.address
        self._gate.open()
        self._thread.start()

    def close(self) -> None:
        """Carry nothing any more; who plays a part sleeps on."""
        self._gate.close()

    def _play(self) -> None:
        self._gate.wait_for_devices()
        zero = now()
        self._gate.begin(zero)
        while True:
            job = self._jobs.next()
            self._gate.take_up(job.device, now() - zero)
            for part in range(self._plan.num_parts):
                self._jobs.part(job, part)
            self._jobs.close(job)


class Sending(Wire):
    """The device's end. It also times how late it learns that a message is taken up."""

    def __init__(self, plan: Plan, keys: Keys, address: Address, *, paced: bool) -> None:
        super().__init__()
        self._plan, self._pace = plan, plan.uplink_pace(0)
        self._group = group = plan.group(0)
        pace = plan.uplink_pace(0) if paced else None
        self._radio = Radio(Line(address, keys, 0, plan.digest, pace, group.latency_s, PATIENCE_S))
        self._beat, self._carries = FREE, threading.Event()
        self._carried_at = 0.0  # when the link has carried what was handed over so far
        self._first_carried_at: dict[int, float] = {}  # of each mini-batch, its first message
        self._delays: list[float] = []
        self.handed_over = 0  # messages so far
        self._thread.start()

    @contextmanager
    def carrying(self, beat: Beat) -> Iterator[None]:
        """Hand messages over for as long as the block lasts.

        Raises:
            RuntimeError: there are none left, or nobody takes them.
        """
        self._beat = beat
        self._carries.set()
        try:
            yield
        finally:
            self._carries.clear()
        if not self._thread.is_alive():
            raise RuntimeError("the wire was closed while pieces were timed")

    def delay_s(self, seconds: float) -> float:
        """From when the link has carried a message until the device knows that it is taken up.

        The latency left out; the median over so many seconds, with one message at least, in
        which the calling thread sleeps.
        """
        with self.carrying(FREE):
            known, until = len(self._delays), now() + seconds
            while now() < until or len(self._delays) == known:
                time.sleep(LOOK_S)
        return median(self._delays[known:])

    def close(self) -> None:
        """Carry nothing any more; who plays a part sleeps on."""
        self._radio.close()

    def _play(self) -> None:
        self._radio.start()
        beat, number = FREE, 0
        for batch in range(self._plan.num_batches):
            _, ticket = self._radio.next_batch(batch)
            self._await(batch)
            self._carries.wait()
            if beat is not self._beat:
                beat, number = self._beat, 0
            for part in range(self._plan.num_parts):
                beat.wait(number, part)
                self._hand_over(self._empty(batch, part), ticket)
            number = beat.after(number)

    def _await(self, batch: int) -> None:
        run_ahead = self._group.run_ahead
        waits = not self._radio.has_credit(batch, run_ahead)
        self._radio.wait_for_credit(batch, run_ahead)
        carried_at = self._first_carried_at.pop(batch - run_ahead, None)
        if waits and carried_at is not None:
            knows_at = self._radio.to_server(now()) - self._radio.outbox.zero
            self._delays.append(knows_at - carried_at - self._group.latency_s)

    def _hand_over(self, message: Message, ticket: int) -> None:
        begun = max(message.handed_at - self._radio.outbox.zero, self._carried_at)
        self._carried_at = self._pace.end(begun, message.wire_bytes)
        self._first_carried_at.setdefault(message.batch, self._carried_at)
        self._radio.hand_over(message, ticket)
        self.handed_over += 1

    def _empty(self, batch: int, part: int) -> Message:
        plan, at = self._plan, self._radio.to_server(now())
        notes = tuple(Note(kind, at, at) for kind in (FORWARD, ENCODE))
        body = bytes(plan.num_bytes(batch, part))
        return Message(batch, part, body, plan.wire_bytes(0, batch, part), at, notes)
