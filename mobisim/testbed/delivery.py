"""The side network on its way to the devices once all is learned, a window of it at a time."""

from __future__ import annotations

from collections.abc import Callable

from mobisim.span import DOWNLOAD, LATENCY, NONE
from mobisim.testbed.clock import now
from mobisim.testbed.frames import CHUNK_BYTES, Bye, RubbishError, pack_network
from mobisim.testbed.outbox import chunk_bytes
from mobisim.testbed.plan import Plan
from mobisim.testbed.record import Record

WINDOW_BYTES = 8 * CHUNK_BYTES  # beyond what a device has said it has
PATIENCE_S = 0.05  # with a device whose queue is full


class Delivery:
    """What was sent of the side network, and what has come. Bytes by device."""

    def __init__(self, plan: Plan, record: Record, *, paced: bool) -> None:
        self.plan, self.record, self.paced = plan, record, paced
        self.network: bytes | None = None  # None: not learned yet
        self.gone: set[int] = set()
        self._zero = self._stepped_at = 0.0
        self._sent = [0] * plan.num_devices
        self._known = [0] * plan.num_devices
        self._patient_until = [0.0] * plan.num_devices
        self._ends: list[float] = []  # when each downlink would have carried all of it

    def begin(self, network: bytes, zero: float, stepped_at: float) -> None:
        """All is learned; devices may have it."""
        self._zero, self._stepped_at = zero, stepped_at
        for device in range(self.plan.num_devices):
            size = self.plan.group(device).download_bytes
            self._ends.append(self.plan.downlink_pace(device).end(stepped_at, size))
        self.network = network  # last: from here on the gate's thread sends

    @property
    def size(self) -> int:
        """Bytes of the side network; none before it is there."""
        return len(self.network or b"")

    def begin_again(self, device: int) -> None:
        """A device is here anew: what was on its way is lost."""
        self._sent[device] = self._known[device]

    def acknowledged(self, device: int, num_bytes: int) -> None:
        """So much has come.

        Raises:
            RubbishError: more than there is.
        """
        if num_bytes > self.size:
            raise RubbishError("more of the side network than there is")
        if num_bytes < self._known[device]:
            self._sent[device] = num_bytes
        self._known[device] = num_bytes

    def due(self, device: int) -> float | None:
        """When the next chunk may go: when the downlink, at its rate, would have carried it."""
        if self._sent[device] >= min(self.size, self._known[device] + WINDOW_BYTES):
            return None
        if not self.paced:
            return self._patient_until[device]
        whole = self._ends[device] - self._stepped_at
        due = self._zero + self._stepped_at + whole * self._end(device) / self.size
        return max(due, self._patient_until[device])

    def _end(self, device: int) -> int:
        rate = self.plan.group(device).downlink_bits_per_s
        size = chunk_bytes(rate if self.paced else None)
        return min(self._sent[device] + size, self.size)

    def send(self, device: int, send: Callable[[bytes], bool]) -> None:
        """Send what is due, as far as it is taken."""
        while (due := self.due(device)) is not None and due <= now():
            start, end = self._sent[device], self._end(device)
            if not send(pack_network(start, (self.network or b"")[start:end])):
                self._patient_until[device] = now() + PATIENCE_S
                return
            self._sent[device] = end

    def landed(self, device: int, bye: Bye) -> None:
        """A device has all of it: its rows, and no more is owed to it."""
        if device in self.gone:
            return
        group, actors = self.plan.group(device), self.plan.prepared.world.actors
        link, at = actors.downlink(device), now() - self._zero
        received = min(max(bye.received_at - self._zero, self._stepped_at), at)
        landed = min(max(bye.landed_at - self._zero, received), at)
        size = group.download_bytes
        rest = device, NONE, NONE
        self.record.add(
            (DOWNLOAD, link, self._stepped_at, received, *rest, size, NONE, NONE, False)
        )
        if group.latency_s and landed > received:
            self.record.add((LATENCY, link, received, landed, *rest, NONE, NONE, NONE, False))
        self.gone.add(device)
