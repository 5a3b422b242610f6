"""The device: the real backbone and the real codec, mini-batch after mini-batch."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from torch import Tensor

from mobisim.span import ENCODE, FORWARD, WAIT
from mobisim.testbed.clock import now
from mobisim.testbed.frames import Note
from mobisim.testbed.outbox import Message
from mobisim.testbed.plan import Plan
from mobisim.testbed.radio import Line, Radio
from mobisim.training.codec import encode_rows
from mobisim.training.message import pack_part
from mobisim.training.trainer import Trainer

WARM_UPS = 3
Told = Callable[[int, int, float, float], None]  # kind, part, start, end


class Backend:
    """What a device computes: each part of a mini-batch, forwarded, encoded and packed."""

    def __init__(self, plan: Plan, trainer: Trainer, device: int = 0) -> None:
        self.plan, self.trainer, self.device = plan, trainer, device

    def run(self, batch: int, told: Told, made: Callable[[int, bytes], None]) -> None:
        """Compute a mini-batch; each span and each message is told of as it is done."""
        trainer = self.trainer
        ids = [trainer.data.train.tokens[i] for i in trainer.batches[batch]]
        padded = trainer.padded_length(batch)
        part = _Part(self, batch, told, made)
        trainer.backbone.stream(ids, trainer.tap_layers, part.take, padded)

    def pack(self, batch: int, first_tap: int, taps: list[Tensor]) -> bytes:
        """The message of some taps."""
        trainer = self.trainer
        rows = torch.stack([encode_rows(tap_ND, trainer.layout) for tap_ND in taps])
        payload = trainer.payload(batch, rows, self.device)
        padded = trainer.padded_length(batch)
        return pack_part(payload, trainer.layout, first_tap=first_tap, padded_length=padded)

    def warm_up(self) -> None:
        """Run every shape a few times, so that nothing is met for the first time later."""
        for batch in self.plan.some_batches(1):
            for _ in range(WARM_UPS):
                self.run(batch, lambda *_: None, lambda *_: None)


class _Part:
    """Gathers taps until a message is complete."""

    def __init__(
        self, backend: Backend, batch: int, told: Told, made: Callable[[int, bytes], None]
    ) -> None:
        self.backend, self.batch, self.told, self.made = backend, batch, told, made
        self.by_layer = backend.plan.prepared.system.by_layer
        self.taps: list[Tensor] = []
        self.count = 0
        self.since = now()

    def take(self, tap_ND: Tensor) -> None:
        """A tap is there; the last one of a message makes the message."""
        self.taps.append(tap_ND)
        self.count += 1
        if self.by_layer or self.count == len(self.backend.trainer.tap_layers):
            self._finish()

    def _finish(self) -> None:
        part = self.count - 1 if self.by_layer else 0
        forwarded = now()
        first_tap = 1 + self.count - len(self.taps)
        body = self.backend.pack(self.batch, first_tap, self.taps)
        encoded = now()
        self.told(FORWARD, part, self.since, forwarded)
        self.told(ENCODE, part, forwarded, encoded)
        self.made(part, body)
        self.taps = []
        self.since = now()


def be_device(plan: Plan, line: Line, found: Callable[[Line], Line] = lambda line: line) -> None:
    """Work through all mini-batches; returns when the side network is here.

    `found` gives the line to take once all is warmed up: the server may still start till then.
    """
    torch.set_num_threads(1)
    backend = Backend(plan, plan.trainer(), line.device)
    backend.warm_up()
    gc.collect()
    gc.freeze()
    radio = Radio(found(line))
    try:
        radio.start()
        _work(plan, backend, radio)
    finally:
        radio.close()


def _work(plan: Plan, backend: Backend, radio: Radio) -> None:
    run_ahead = plan.group(backend.device).run_ahead
    batch = radio.first_batch()
    while True:
        batch, ticket = radio.next_batch(batch)
        if batch == plan.num_batches:
            if radio.wait_for_end():
                return
            continue
        since = now()
        waited = not radio.has_credit(batch, run_ahead)
        if waited and not radio.wait_for_credit(batch, run_ahead):
            continue
        notes = [(WAIT, since, now())] if waited else []
        _compute(plan, backend, radio, batch, ticket, notes)
        batch += 1


def _compute(
    plan: Plan,
    backend: Backend,
    radio: Radio,
    batch: int,
    ticket: int,
    notes: list[tuple[int, float, float]],
) -> None:
    def told(kind: int, _part: int, start: float, end: float) -> None:
        notes.append((kind, start, end))

    def made(part: int, body: bytes) -> None:
        by_server = tuple(Note(k, radio.to_server(a), radio.to_server(b)) for k, a, b in notes)
        size = plan.wire_bytes(backend.device, batch, part)
        handed_at = max(radio.to_server(now()), by_server[-1].end)
        notes.clear()
        radio.hand_over(Message(batch, part, body, size, handed_at, by_server), ticket)

    backend.run(batch, told, made)
