"""Lessons: real training, step by step, with the evaluations between them and checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

import safetensors.torch
import torch

from mobisim.cost.system import System
from mobisim.errors import InputError
from mobisim.learning import History, Merged
from mobisim.report.results import replacing
from mobisim.trainers import make_trainer
from mobisim.training.artifact import save_side_network
from mobisim.training.learner import Learner
from mobisim.training.rounds import RoundTrainer
from mobisim.training.trainer import Trainer
from mobisim.training.tuned_artifact import save_tuned
from mobisim.training.tuned_trainer import TunedTrainer
from mobisim.workload import Planned, evaluation_interval, is_judged, metric_name

SIDE_NETWORK, TUNED = "side_network.safetensors", "tuned.safetensors"

Progress = Callable[[int, int], None]
Maker = Callable[[System, Planned], Learner]
Restored = TypeVar("Restored")


class Taught:
    """Lessons of a trainer."""

    def __init__(
        self,
        system: System,
        planned: Planned,
        checkpoints: Checkpoints,
        progress: Progress | None = None,
        *,
        trainer: Learner | None = None,
        step: Callable[[int, int], float] | None = None,
        make: Maker | None = None,
    ) -> None:
        training = system.scenario.training
        assert training is not None
        self.checkpoints = checkpoints
        self.progress = progress or (lambda done, total: None)
        self.system, self.planned, self._make = system, planned, make or make_trainer
        self.trainer = trainer or self._make(system, planned)
        self._step = step or self.trainer.step
        rounds = planned.workload.rounds
        self.total = len(self.trainer.batches) if rounds is None else len(rounds.selected)
        self.learned = 0  # of these mini-batches, or rounds
        self.every = evaluation_interval(training, self.total)
        self.metric = metric_name(training)
        self.kept: dict[int, list[torch.Tensor]] = {}
        self.history = History()
        if restored := checkpoints.load(self._restored):
            self.history = restored
        else:
            self.history.initial = self.evaluate()

    def step(self, device: int, batch: int, version_read: int, merged: Merged = ()) -> None:
        """Train one mini-batch, or what devices merge, and evaluate where it is time."""
        history = self.history
        history.loss.append(self._learn(device, batch, version_read, merged))
        together = 1 if self.planned.workload.rounds is not None else 1 + len(merged)
        self.learned += together
        judged = is_judged(self.learned, self.every, self.total, together)
        history.metric.append(self.evaluate() if judged else math.nan)
        self.checkpoints.maybe_save(self._state)
        self.progress(self.learned, self.total)

    def _learn(self, device: int, batch: int, version_read: int, merged: Merged) -> float:
        """The loss of a step: on mini-batches, or on what devices did up to their last ones."""
        course, rounds = self.trainer.course, self.planned.workload.rounds
        if not merged:
            return self._step(course.number(device, batch), version_read)
        if rounds is None:
            assert isinstance(self.trainer, Trainer)
            others = [course.number(device, batch) for device, batch, _ in merged]
            together = [course.number(device, batch), *others]
            return self.trainer.step_together(together, version_read)
        assert isinstance(self.trainer, RoundTrainer)
        local = rounds.local.tolist()
        worked = [
            course.numbers(device, range(last + 1 - local[device], last + 1))
            for device, last, _ in merged
        ]
        return self.trainer.average(worked, [version for _, _, version in merged])

    def _restored(self, state: dict[str, Any]) -> History:
        self.trainer.load_state_dict(state["trainer"])
        self.kept, self.learned = state["kept"], state["learned"]
        return History(**state["history"])

    def _state(self) -> dict[str, Any]:
        return {
            "trainer": self.trainer.state_dict(),
            "history": vars(self.history),
            "kept": self.kept,
            "learned": self.learned,
        }

    def evaluate(self) -> float:
        """The metric now."""
        found = [each[self.metric] for each in self.trainer.evaluate_each()]
        if len(found) > 1:
            of_groups = (found[one.start : one.stop] for one in self.system.scenario.ranges)
            marks = [(fmean(group), min(group), max(group)) for group in of_groups]
            self.history.groups[len(self.history.loss)] = marks
        return fmean(found)

    def evaluate_held_out(self) -> float:
        """The metric now on the held-out split."""
        return held_out_metric(self.system, self.planned, self.trainer.parameters, self._make)

    def end(self, *, reads_held_out: bool) -> None:
        """Some run ends here: judge it on the held-out split if there is one, now or later."""
        if self.planned.data is None or self.planned.data.held_out is None:
            return
        done = len(self.history.loss)
        if reads_held_out:
            self.history.held_out[done] = self.evaluate_held_out()
        else:
            self.kept[done] = [p.detach().clone() for p in self.trainer.parameters]

    def save(self, folder: Path) -> None:
        """Write what was trained, with its configuration."""
        path = _save(folder, self.trainer)
        path.chmod(0o644)  # as readable as the files beside it


def _save(folder: Path, trainer: Learner) -> Path:
    if isinstance(trainer, TunedTrainer):
        save_tuned(folder / TUNED, trainer)
        return folder / TUNED
    assert isinstance(trainer, Trainer)
    save_side_network(folder / SIDE_NETWORK, trainer)
    return folder / SIDE_NETWORK


def held_out_metric(
    system: System, planned: Planned, parameters: Sequence[torch.Tensor], make: Maker
) -> float:
    """The metric on the held-out split of what trainable parameters make of a scenario."""
    assert system.scenario.training is not None
    judge = make(system, planned.at_the_end)
    with torch.no_grad():
        for parameter, value in zip(judge.parameters, parameters, strict=True):
            parameter.copy_(value)
    return judge.evaluate()[metric_name(system.scenario.training)]


def packed(parameters: Sequence[torch.Tensor]) -> bytes:
    """Trainable parameters as bytes, in their order."""
    tensors = {str(number): value.detach() for number, value in enumerate(parameters)}
    return safetensors.torch.save(tensors)


def unpacked(content: bytes) -> list[torch.Tensor]:
    """What `packed` was given."""
    tensors = safetensors.torch.load(content)
    return [tensors[str(number)] for number in range(len(tensors))]


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
        with replacing(self.path) as aside:
            torch.save(state() | {"digest": self.digest}, aside)
        self.last = now

    def clear(self) -> None:
        """Remove the checkpoint: the run is published."""
        self.path.unlink(missing_ok=True)
