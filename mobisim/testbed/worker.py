"""The server's worker: decodes, runs the side network and steps, by the trainer's own code."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from mobisim.errors import InputError
from mobisim.span import DECODE, NONE, QUEUE, SIDE_FORWARD, STEP, WAIT, Row
from mobisim.testbed.clock import now
from mobisim.testbed.gate import Gate
from mobisim.testbed.jobs import Job, Jobs
from mobisim.testbed.plan import Plan
from mobisim.training.codec import decode_rows, encode_rows
from mobisim.training.message import NO_LABEL, Unpacking, pack_part
from mobisim.training.side_network import Ragged
from mobisim.training.trainer import Trainer

WARM_UPS = 3
Told = Callable[[int, int, float, float], None]  # kind, part, start, end


class CorruptError(InputError):
    """A message of the right size that holds nothing to learn from."""


class Bench:
    """What a worker computes of a mini-batch: part by part, then the step."""

    def __init__(self, plan: Plan, trainer: Trainer) -> None:
        self.plan, self.trainer = plan, trainer
        self.by_layer = plan.prepared.system.by_layer

    def run(self, batch: int, part_of: Callable[[int], bytes], told: Told) -> float:
        """The loss of a mini-batch whose messages `part_of` brings; each span is told of.

        Raises:
            InputError: a message holds no mini-batch of this run.
        """
        one = _MiniBatch(self, batch)
        for part in range(self.plan.num_parts):
            body = part_of(part)
            begun = now()
            taps = one.decode(body)
            decoded = now()
            told(DECODE, part, begun, decoded)
            if self.by_layer:
                one.forward(taps)
                told(SIDE_FORWARD, part, decoded, now())
        begun = now()
        if not self.by_layer:
            one.forward(taps)
        loss = one.step()
        told(STEP, NONE, begun, now())
        return loss

    def rehearse(self, batch: int) -> list[bytes]:
        """Messages of a mini-batch's shape with random activations."""
        trainer = self.trainer
        samples = trainer.batches[batch]
        shape = int(trainer.data.train.lengths[samples].sum()), trainer.layout.width
        taps = torch.randn(len(trainer.tap_layers), *shape)
        rows = torch.stack([encode_rows(tap_ND, trainer.layout) for tap_ND in taps])
        groups = torch.split(rows, 1 if self.by_layer else len(rows))
        padded = trainer.padded_length(batch)
        return [
            pack_part(
                trainer.payload(batch, group, 0), trainer.layout,
                first_tap=1 + number * len(group), padded_length=padded,
            )
            for number, group in enumerate(groups)
        ]  # fmt: skip

    def warm_up(self) -> None:
        """Step on random activations a few times, and leave no trace of it."""
        before = copy.deepcopy(self.trainer.state_dict())
        for batch in self.plan.some_batches(1):
            messages = self.rehearse(batch)
            for _ in range(WARM_UPS):
                self.run(batch, messages.__getitem__, lambda *_: None)
        self.trainer.load_state_dict(before)


class _MiniBatch:
    """A mini-batch at the server, while its parts come in."""

    def __init__(self, bench: Bench, batch: int) -> None:
        self.trainer, self.batch = bench.trainer, batch
        self.net = bench.trainer.side_network
        self.unpacking = Unpacking(bench.trainer.layout)
        self.layers = self.net.layers()
        self.state_ND: Tensor | None = None

    def decode(self, body: bytes) -> list[Tensor]:
        """The taps of a message.

        Raises:
            InputError: it is corrupt.
        """
        first = self.unpacking.next_tap == 1
        rows = self.unpacking.add(body)
        if first:
            self._check()
        taps = decode_rows(rows.contiguous(), self.trainer.layout)
        if not torch.isfinite(taps).all():
            raise CorruptError("activations that are no numbers", got=f"mini-batch {self.batch}")
        return list(taps)

    def _check(self) -> None:
        """The message brings this mini-batch's samples, and labels that the head knows."""
        unpacking, trainer = self.unpacking, self.trainer
        lengths = trainer.data.train.lengths[trainer.batches[self.batch]]
        if unpacking.batch != self.batch or unpacking.lengths.tolist() != lengths.tolist():
            raise CorruptError(
                "another mini-batch than was due", got=f"mini-batch {unpacking.batch}"
            )
        config = self.net.config
        per_token = config.head == "next_token"
        classes = trainer.backbone.vocab_size if per_token else config.num_classes
        known = unpacking.labels[unpacking.labels != NO_LABEL] if per_token else unpacking.labels
        if len(known) and not 0 <= known.min() <= known.max() < classes:
            raise CorruptError("labels that the head does not have", got=f"mini-batch {self.batch}")

    def forward(self, taps: list[Tensor]) -> None:
        """The side network over some more taps."""
        for tap_ND in taps:
            before = tap_ND if self.state_ND is None else self.state_ND
            self.state_ND = self.net.adapt(self.layers.pop(0), tap_ND, before)

    def step(self) -> float:
        """Head, loss, backward and update; the loss."""
        assert self.state_ND is not None
        samples = Ragged.of(torch.from_numpy(self.unpacking.lengths))
        labels = torch.from_numpy(self.unpacking.labels)
        return self.trainer.step_from(self.net.loss_of(self.state_ND, samples, labels))


class Worker:
    """Takes mini-batches up one after the other and tells its spans."""

    def __init__(
        self, bench: Bench, jobs: Jobs, gate: Gate, rows: Callable[[Row], None], zero: float
    ) -> None:
        self.bench, self.jobs, self.gate, self._rows, self.zero = bench, jobs, gate, rows, zero
        actors = bench.plan.prepared.world.actors
        self._actor, self._queue = actors.worker(0), actors.server
        self.free_at = 0.0

    def work(self) -> tuple[int, float] | None:
        """Take the next mini-batch up and step it: whose, and its loss; None if it was corrupt."""
        job = self.jobs.next()
        at = now() - self.zero
        if job.since < self.free_at:
            self._row(QUEUE, self._queue, job.since, at, job, self.bench.plan.tap(0))
        else:
            at = job.since
        self.gate.take_up(job.device, at)

        def told(kind: int, part: int, start: float, end: float) -> None:
            self._tell(job, kind, part, start - self.zero, end - self.zero)

        try:
            loss = self.bench.run(job.batch, lambda part: self._part(job, part), told)
        except InputError as error:
            self.gate.reject(job.device, job.batch, str(error))
            return None
        self.jobs.close(job)
        return job.device, loss

    def _part(self, job: Job, part: int) -> bytes:
        since = now() - self.zero
        body, arrived = self.jobs.part(job, part)
        if arrived > since:
            tap = self.bench.plan.tap(part)
            self._row(WAIT, self._actor, since, now() - self.zero, job, tap)
        return body

    def _tell(self, job: Job, kind: int, part: int, start: float, end: float) -> None:
        version = self.bench.trainer.version
        read, written = (version - 1, version) if kind == STEP else (NONE, NONE)
        tap = NONE if kind == STEP else self.bench.plan.tap(part)
        self._row(kind, self._actor, start, end, job, tap, read, written)
        self.free_at = end

    def _row(
        self, kind: int, actor: int, start: float, end: float, job: Job, tap: int,
        read: int = NONE, written: int = NONE,
    ) -> None:  # fmt: skip
        if end > start:
            self._rows(
                (kind, actor, start, end, job.device, job.batch, tap, NONE, read, written, False)
            )
