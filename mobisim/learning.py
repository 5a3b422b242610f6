"""Learning on the timeline: the trainer follows the step spans and may end the run."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from mobisim.cost.architecture import architecture
from mobisim.cost.system import System
from mobisim.errors import InputError
from mobisim.report.results import partial_prefix
from mobisim.scenario.document import read_text
from mobisim.scenario.schema import Training
from mobisim.span import STEP, SpanColumns
from mobisim.training.artifact import save_side_network
from mobisim.training.backbone import load_backbone
from mobisim.training.tokens import backbone_directory
from mobisim.training.trainer import Trainer, TrainingConfig
from mobisim.workload import Planned, metric_name

EVALUATIONS_PER_EPOCH = 10
Progress = Callable[[int, int], None]
Restored = TypeVar("Restored")


@dataclass(frozen=True)
class Learned:
    """What was learned at the steps of one block: one value per step, NaN for no evaluation."""

    loss: NDArray[np.float64]
    metric: NDArray[np.float64]
    stop_after: int | None = None  # the row of the block after which the run ends


@dataclass
class History:
    """Losses and evaluations of all steps so far; what a checkpoint must bring back."""

    loss: list[float] = field(default_factory=list)
    metric: list[float] = field(default_factory=list)
    initial: float = math.nan


class Learning:
    """Trains at each step span, in their order."""

    def __init__(
        self,
        system: System,
        planned: Planned,
        checkpoints: Checkpoints,
        progress: Progress | None = None,
        *,
        trainer: Trainer | None = None,
        step: Callable[[int, int], float] | None = None,
    ) -> None:
        training = system.scenario.training
        assert training is not None
        self.system, self.training, self.checkpoints = system, training, checkpoints
        self.progress = progress or (lambda done, total: None)
        self.trainer = trainer or make_trainer(system, planned)
        self.step = step or self.trainer.step
        self.total = planned.workload.num_batches
        self.every = evaluation_interval(training, self.total)
        self.metric = metric_name(training)
        self.history = checkpoints.load(self._restored) or History(initial=self._evaluate())
        self.done = 0
        self.stopped = False
        self.time_to_target_s: float | None = None

    @property
    def stand_in(self) -> dict[str, str] | None:
        """What is trained and what is timed, where they differ."""
        model = self.system.scenario.model
        assert model is not None
        if not is_stand_in(self.system, self.training):
            return None
        return {"trained": self.training.backbone, "timed": model.name}

    def add(self, columns: SpanColumns) -> Learned:
        """Train at each step of a block. Runs begin at time zero."""
        rows = np.flatnonzero((columns.kind == STEP) & ~columns.cut)
        first = self.done
        for row in rows.tolist():
            self._step(int(columns.batch[row]), int(columns.version_read[row]))
            if self._meets_target():
                self.time_to_target_s = float(columns.end[row])
                if self.training.stop_at_target:
                    self.stopped = True
                    return self._learned(first, stop_after=row)
        return self._learned(first)

    def _learned(self, first: int, stop_after: int | None = None) -> Learned:
        loss, metric = self.history.loss[first : self.done], self.history.metric[first : self.done]
        return Learned(np.array(loss), np.array(metric), stop_after)

    def _restored(self, state: dict[str, Any]) -> History:
        self.trainer.load_state_dict(state["trainer"])
        return History(**state["history"])

    def _state(self) -> dict[str, Any]:
        return {"trainer": self.trainer.state_dict(), "history": vars(self.history)}

    def _step(self, batch: int, version_read: int) -> None:
        self.done += 1
        if self.done <= len(self.history.loss):
            return  # a checkpoint has brought this step back
        self.history.loss.append(self.step(batch, version_read))
        judged = is_judged(self.done, self.every, self.total)
        self.history.metric.append(self._evaluate() if judged else math.nan)
        self.checkpoints.maybe_save(self._state)
        self.progress(self.done, self.total)

    def _evaluate(self) -> float:
        return self.trainer.evaluate()[self.metric]

    def _meets_target(self) -> bool:
        target = self.training.target
        value = self.history.metric[self.done - 1]
        return (
            target is not None
            and self.time_to_target_s is None
            and not math.isnan(value)
            and target.met_by(value)
        )

    @property
    def diverged_at(self) -> int | None:
        """The first step whose loss is no number; None where all are."""
        losses = self.history.loss[: self.done]
        return next((i + 1 for i, loss in enumerate(losses) if not math.isfinite(loss)), None)

    def final_metric(self) -> float:
        """The metric after the last step; measured now where that step was not evaluated."""
        last = self.history.metric[self.done - 1] if self.done else self.history.initial
        return self._evaluate() if math.isnan(last) else last

    def save(self, path: Path) -> None:
        """Write the side network with its configuration."""
        save_side_network(path, self.trainer)
        path.chmod(0o644)  # as readable as the files beside it


def evaluation_interval(training: Training, num_batches: int) -> int:
    """Every how many steps the side network is evaluated."""
    per_epoch = math.ceil(num_batches / training.epochs)
    return training.evaluate_every or max(1, per_epoch // EVALUATIONS_PER_EPOCH)


def is_judged(done: int, every: int, total: int) -> bool:
    """Whether an evaluation follows so many steps."""
    return done % every == 0 or done == total


def make_trainer(system: System, planned: Planned) -> Trainer:
    """The trainer that a scenario asks for."""
    training = system.scenario.training
    assert training is not None
    assert planned.data is not None
    backbone = load_backbone(training.backbone)
    return Trainer(backbone, planned.data, _config(system, training, backbone.num_layers))


def _config(system: System, training: Training, num_layers: int) -> TrainingConfig:
    scenario = system.scenario
    assert scenario.wire.codec is not None
    return TrainingConfig(
        batch_size=training.batch_size,
        epochs=training.epochs,
        sequence_length=training.sequence_length,
        codec=scenario.wire.codec,
        block_size=scenario.wire.block_size,
        bottleneck=scenario.side_network.bottleneck,
        head=training.head,
        pooling=training.pooling,
        tap_layers=trained_taps(system, num_layers),
        optimizer=training.optimizer,
        padding=training.padding,
        granularity=scenario.granularity,
        seed=scenario.seed,
        max_staleness=scenario.server.workers - 1,
    )


def trained_taps(system: System, num_layers: int) -> tuple[int, ...] | None:
    """The timed model's taps at the same relative depth of the trained backbone."""
    if system.scenario.side_network.taps == "all":
        return None
    assert system.backbone is not None
    depth = system.backbone.num_layers
    return tuple(dict.fromkeys(math.ceil(tap * num_layers / depth) for tap in system.taps))


def is_stand_in(system: System, training: Training) -> bool:
    """Whether what is trained has other sizes than what is timed."""
    path = backbone_directory(training.backbone) / "config.json"
    return architecture(json.loads(read_text(path, "configuration"))) != system.backbone


class Checkpoints:
    """Where a long training keeps what a resumed run needs.

    The file stands beside the result's place, carries the digest of the very same run, and goes
    when the result is published.
    """

    def __init__(self, place: Path, digest: str, *, every_s: float, resume: bool) -> None:
        self.place, self.digest, self.every_s, self.resume = place, digest, every_s, resume
        self.path = place.with_name(f"{place.name}.checkpoint")
        self.last = time.monotonic()

    def load(self, restored: Callable[[dict[str, Any]], Restored]) -> Restored | None:
        """What `restored` makes of the checkpoint; None where there is none to resume from.

        Raises:
            InputError: the checkpoint is broken, or one of another run.
        """
        if not self.resume or not self.path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, weights_only=True)
            if state["digest"] == self.digest:
                return restored(state)
        except Exception as error:  # torch raises many unrelated kinds on a broken file
            raise InputError(
                f"this checkpoint cannot be read: {type(error).__name__}",
                where=str(self.path),
                hint="remove it to begin again",
            ) from error
        raise InputError(
            "this checkpoint is one of another run",
            where=str(self.path),
            hint="choose another --out, or remove it to begin again",
        )

    def maybe_save(self, state: Callable[[], dict[str, Any]]) -> None:
        """Write a checkpoint when the last one, or the start, is long ago."""
        now = time.monotonic()
        if now - self.last < self.every_s:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_name(f"{partial_prefix(self.place)}checkpoint")
        try:
            torch.save(state() | {"digest": self.digest}, aside)
            aside.replace(self.path)
        finally:
            aside.unlink(missing_ok=True)
        self.last = now

    def clear(self) -> None:
        """Remove the checkpoint: the run is published."""
        self.path.unlink(missing_ok=True)
