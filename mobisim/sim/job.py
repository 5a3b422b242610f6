"""What the server knows of those whose mini-batches it takes in, and of each mini-batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from mobisim.span import NONE
from mobisim.world import Batch, Part

if TYPE_CHECKING:
    from mobisim.sim.server import Worker


class Client(Protocol):
    """A device, as the server knows it."""

    index: int
    num_batches: int
    joined: int  # how many of its mini-batches have joined the queue
    may_vanish: bool  # so that its mini-batches join once they are whole

    def numbers(self, number: int) -> Batch:
        """The times and sizes of a mini-batch."""
        ...

    def replies(self, number: int, batch: Batch) -> None:
        """A mini-batch's reply sets out to the client."""
        ...

    def step_starts(self) -> None:
        """One of the client's mini-batches is taken up: credit for one more."""
        ...

    def deliver(self) -> None:
        """All is learned: the side network sets out to the client."""
        ...


class Sender(Protocol):
    """An uplink, as the server knows it."""

    def is_let_in(self) -> None:
        """There is room for the mini-batch that it waits to carry."""
        ...


class Receiver(Protocol):
    """What messages go to."""

    def arrives(self, device: Client, number: int, batch: Batch, now: float) -> None:
        """A message is here."""
        ...

    def has_room(self, sender: Sender, part: Part) -> bool:
        """Whether what a first part is of may set out; else its uplink is told when."""
        ...


class Kept:
    """What the server has kept of all devices, as a client: one that waits for nothing."""

    index = NONE
    num_batches = joined = 0
    may_vanish = False

    def numbers(self, number: int) -> Batch:
        """The world's replay has them."""
        raise NotImplementedError(number)

    def replies(self, number: int, batch: Batch) -> None:
        """Nobody waits for a reply."""

    def step_starts(self) -> None:
        """Nobody needs credit."""

    def deliver(self) -> None:
        """It is there already."""


class Job:
    """A mini-batch at the server: which parts have arrived, when it came, who works on it.

    `done` is the part that is worked on; before the first, what the server has kept is unpacked.
    """

    __slots__ = ("arrived", "batch", "device", "done", "number", "since", "version", "worker")

    def __init__(self, device: Client, number: int, batch: Batch, since: float) -> None:
        self.device, self.number, self.batch, self.since = device, number, batch, since
        self.arrived = 0
        self.done = NONE
        self.version = NONE
        self.worker: Worker | None = None
