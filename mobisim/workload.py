"""What a scenario's devices have to work through: the shapes of their mini-batches, in order."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mobisim.cost.work import BatchShape
from mobisim.errors import InputError
from mobisim.scenario.schema import Metric, Scenario, Training
from mobisim.world import Workload

if TYPE_CHECKING:
    from mobisim.training.data import TaskData

EVALUATIONS_PER_EPOCH = 10
MAX_MINI_BATCHES, MAX_SAMPLE_VISITS = 1_000_000, 100_000_000


@dataclass(frozen=True)
class Planned:
    """A workload and the data that it comes from, if any."""

    workload: Workload
    data: TaskData | None = None
    samples: tuple[NDArray[np.int64], ...] = ()
    padding_fraction: float | None = None

    @property
    def num_samples(self) -> NDArray[np.int64]:
        """Samples of each mini-batch."""
        return np.array([len(batch) for batch in self.samples], dtype=np.int64)

    @property
    def at_the_end(self) -> Planned:
        """The same, judged on the held-out split."""
        assert self.data is not None
        return replace(self, data=self.data.at_the_end)

    @cached_property
    def fingerprint(self) -> str | None:
        """A digest of the training data's tokens and labels; None without data."""
        if self.data is None:
            return None
        digest = hashlib.sha256()
        for split in self.data.splits:
            digest.update(np.concatenate(split.tokens).tobytes())
            digest.update(split.lengths.tobytes() + split.labels.tobytes())
        return digest.hexdigest()[:16]


def plan(scenario: Scenario) -> Planned:
    """The workload of a scenario; with training, that of the data and its order.

    Raises:
        InputError: the data cannot be found or read.
    """
    if scenario.training is not None:
        return plan_training(scenario.training, scenario.seed)
    assert scenario.num_batches is not None
    shape = None
    if scenario.batch_size is not None and scenario.sequence_length is not None:
        shape = BatchShape.uniform(scenario.batch_size, scenario.sequence_length)
    return Planned(Workload(scenario.num_batches, (shape,)))


def plan_training(training: Training, seed: int) -> Planned:
    """The workload of a training: its data in the order of the seed.

    Raises:
        InputError: the data cannot be found or read.
    """
    # Reading data costs start-up time that timing-only scenarios must not pay.
    from mobisim.training.data import load_task, mini_batches  # noqa: PLC0415

    try:
        data = load_task(
            training.task,
            backbone=training.backbone,
            sequence_length=training.sequence_length,
            num_samples=training.num_samples,
            validation=training.validation,
            seed=seed,
        )
    except InputError as error:
        raise error if error.where else error.placed("training") from error
    _check_length(len(data.train), training)
    samples = mini_batches(len(data.train), training.batch_size, training.epochs, seed)
    lengths = data.train.lengths
    shapes = [_shape(training, lengths[batch].tolist()) for batch in samples]
    distinct = tuple(dict.fromkeys(shapes))
    index = {shape: i for i, shape in enumerate(distinct)}
    order = np.array([index[shape] for shape in shapes], dtype=np.int32)
    real = sum(int(lengths[batch].sum()) for batch in samples)
    sent = sum(shape.num_tokens for shape in shapes)
    return Planned(Workload(len(samples), distinct, order), data, tuple(samples), 1 - real / sent)


def _check_length(num_samples: int, training: Training) -> None:
    """Refuse a training whose mini-batches would not fit in memory as a list.

    Raises:
        InputError: too many of them.
    """
    per_epoch = -(-num_samples // training.batch_size)
    most = min(MAX_MINI_BATCHES // per_epoch, MAX_SAMPLE_VISITS // num_samples)
    if training.epochs > most:
        raise InputError(
            "longer than any training that mobisim plans",
            where="training.epochs",
            expected=f"at most {most} with {num_samples} samples, {per_epoch} mini-batches each",
            got=str(training.epochs),
        )


def _shape(training: Training, lengths: Sequence[int]) -> BatchShape:
    """The shape of a mini-batch as it is sent, padding included where it is sent."""
    if training.padding == "fixed":
        lengths = [training.sequence_length] * len(lengths)
    elif training.padding == "longest":
        lengths = [max(lengths)] * len(lengths)
    return BatchShape.of_lengths(lengths, labels_per_token=training.head == "next_token")


_METRICS: dict[str, tuple[Metric, ...]] = {
    "classification": ("accuracy", "f1", "mcc", "loss"),
    "next_token": ("perplexity", "loss", "token_accuracy"),
}


def metric_name(training: Training) -> Metric:
    """The metric that evaluations report: the target's, or the head's usual one.

    Raises:
        InputError: the target's metric is none of those that the head has.
    """
    known = _METRICS[training.head]
    metric = training.target.metric if training.target is not None else known[0]
    if metric not in known:
        raise InputError(
            f"a {training.head} head has no {metric}",
            where="training.target.metric",
            expected=f"one of {', '.join(known)}",
        )
    return metric


def evaluation_interval(training: Training, num_batches: int) -> int:
    """After how many steps each the side network is evaluated."""
    per_epoch = math.ceil(num_batches / training.epochs)
    return training.evaluate_every or max(1, per_epoch // EVALUATIONS_PER_EPOCH)


def is_judged(done: int, every: int, total: int) -> bool:
    """Whether an evaluation follows so many steps."""
    return done % every == 0 or done == total
