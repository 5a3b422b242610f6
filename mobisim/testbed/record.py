"""What happened so far: rows, losses and the side network's versions that will be judged."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mobisim.span import Block, Row, SpanColumns
from mobisim.training.trainer import Trainer


class Record:
    """The rows of a run, written by two threads."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._lock = threading.Lock()

    def add(self, row: Row) -> None:
        """One more span."""
        with self._lock:
            self._rows.append(row)

    def forget(self, device: int, batch: int) -> None:
        """A device's mini-batches from this one on will be done again."""
        with self._lock:
            self._rows = [r for r in self._rows if r[4] != device or r[5] < batch]

    def rows(self) -> list[Row]:
        """All rows in the order of their ends."""
        with self._lock:
            return sorted(self._rows, key=lambda row: row[3])

    def block(self) -> Block:
        """All rows as one block."""
        return Block(self.rows())

    def state(self, stepped: list[int]) -> dict[str, Any]:
        """What a checkpoint keeps: rows of mini-batches that are stepped."""
        kept = [row for row in self.rows() if row[5] < stepped[row[4]]]
        columns = SpanColumns.from_rows(kept)
        return {name: torch.from_numpy(values) for name, values in vars(columns).items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        columns = SpanColumns(**{name: values.numpy() for name, values in state.items()})
        self._rows = list(columns.spans())


@dataclass
class Learned:
    """Losses in the order of steps, and copies of the side network where it is to be judged."""

    losses: list[float] = field(default_factory=list)
    versions: dict[int, list[Tensor]] = field(default_factory=dict)
    _spare: list[list[Tensor]] = field(default_factory=list)

    def reserve(self, trainer: Trainer, count: int) -> None:
        """Have memory for so many copies; to get it within the run takes time from steps."""
        self._spare = [[p.detach().clone() for p in trainer.parameters] for _ in range(count)]

    def keep(self, trainer: Trainer) -> None:
        """Copy the newest version: judging it takes time, which the run does not have."""
        if not self._spare:
            self.reserve(trainer, 1)
        copied = self._spare.pop()
        for copy, parameter in zip(copied, trainer.parameters, strict=True):
            copy.copy_(parameter.detach())
        self.versions[trainer.version] = copied


class Replay:
    """The steps of a run that is over, as learning follows them: losses and judged versions."""

    def __init__(self, trainer: Trainer, learned: Learned) -> None:
        self.trainer, self.learned = trainer, learned
        self._place(0)

    def step(self, _batch: int, version_read: int) -> float:
        """The loss of a step; the side network is as after it, where it was kept."""
        self._place(version_read + 1)
        return self.learned.losses[version_read]

    def _place(self, version: int) -> None:
        values = self.learned.versions.get(version)
        if values is not None:
            with torch.no_grad():
                for parameter, value in zip(self.trainer.parameters, values, strict=True):
                    parameter.copy_(value)
        self.trainer.version = version


def network_bytes(trainer: Trainer) -> bytes:
    """The trainable parameters as they are delivered: fp32, one after the other."""
    flat = [p.detach().numpy().astype("<f4").tobytes() for p in trainer.parameters]
    return b"".join(flat)


def in_one(block: Block) -> Iterator[Block]:
    """The stream of a single block."""
    yield block


def last_end(rows: list[Row]) -> float:
    """When the last of these ended."""
    return float(np.max([row[3] for row in rows])) if rows else 0.0
