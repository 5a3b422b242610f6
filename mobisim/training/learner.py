"""What all trainers share: data and its order, losses, the optimiser, versions and evaluation.

A trainer says what its parameters are and how they give logits; everything else is the same for
all, so that methods are compared on equal terms.

Axes: N tokens of a mini-batch, B samples.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mobisim.scenario.method_options import Keep, Tuning
from mobisim.scenario.methods import Learns, Prediction, Tokens
from mobisim.scenario.schema import Optimizer
from mobisim.training.backbone import Backbone
from mobisim.training.course import Course, Samples
from mobisim.training.data import Split, TaskData, mini_batches
from mobisim.training.evaluate import classification_metrics, next_token_metrics
from mobisim.training.message import NO_LABEL, Granularity, LabelKind, Payload
from mobisim.training.side_network import Activation, HeadKind, Pooling, Ragged
from mobisim.training.threads import one_thread_per_kernel

EVALUATION_CHUNK = 32  # samples forwarded and judged together
Padding = Literal["fixed", "longest", "none"]
Snapshot = list[Tensor]


@dataclass(frozen=True)
class TrainingConfig:
    """How a method trains; `tap_layers` counts blocks from 1, None taps them all.

    Of residuals, `words` names one for each class where the prediction is a verbaliser's. What is
    kept for later epochs is kept in `cache_codec`, None as it was received. `ranks` are those of
    each device's LoRA, None or nothing for the method's. A buffer of updates moves what all have
    learned by `server_lr` times their mean.
    """

    batch_size: int
    epochs: int
    sequence_length: int
    codec: str = "fp32"
    block_size: int = 64
    bottleneck: int = 64
    activation: Activation = "gelu"
    head: HeadKind = "classification"
    pooling: Pooling | None = None
    tap_layers: tuple[int, ...] | None = None
    optimizer: Optimizer = Optimizer()  # noqa: RUF009 - frozen, so it may be shared
    padding: Padding = "fixed"
    granularity: Granularity = "batch"
    seed: int = 0
    max_staleness: int = 0
    tuning: Tuning = Tuning()  # noqa: RUF009 - frozen as well
    tokens: Tokens = "all"
    keep: Keep | None = None
    learns: Learns = "labels"
    prediction: Prediction = "head"
    words: tuple[str, ...] = ()
    cache_codec: str | None = None
    ranks: tuple[int | None, ...] = ()
    server_lr: float = 1.0

    def pooling_on(self, backbone: Backbone) -> Pooling:
        """How a classification head pools; only a decoder's last token has read all of them."""
        return self.pooling or ("last" if backbone.is_decoder else "mean")


class Learner(ABC):
    """A network that learns a task mini-batch by mini-batch, and the versions still to be read.

    The initial parameters are version 0; the step that writes version v is the v-th. Without a
    `course` one device goes through all samples.
    """

    def __init__(
        self,
        backbone: Backbone,
        data: TaskData,
        config: TrainingConfig,
        network: nn.Module,
        course: Course | None = None,
    ) -> None:
        self.backbone, self.data, self.config, self.network = backbone, data, config, network
        self.course = course or alone(data, config)
        self.batches = [batch.samples for batch in self.course.mini_batches]
        self.optimizer = optimizer_of(self.parameters, config.optimizer)
        self.version = 0
        self._old: dict[int, Snapshot] = {}

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters, in a fixed order."""
        return [p for p in self.network.parameters() if p.requires_grad]

    def trained(self) -> dict[str, Tensor]:
        """The trainable parameters by name."""
        return trained(self.network)

    def step(self, batch_index: int, version_read: int | None = None) -> float:
        """The loss of one mini-batch, after its gradient at `version_read` updated the newest.

        Raises: ValueError where that version is no longer, or not yet, kept.
        """
        return self._step(version_read, lambda: self._differentiate(batch_index))

    def _step(self, version_read: int | None, differentiate: Callable[[], float]) -> float:
        with one_thread_per_kernel():
            with self._at(self.version if version_read is None else version_read):
                self.optimizer.zero_grad()
                loss = differentiate()
            self._update()
            return loss

    def evaluate(self) -> dict[str, float]:
        """Metrics of the newest version on the evaluation split, the mean over all devices."""
        found = self.evaluate_each()
        return {name: fmean(each[name] for each in found) for name in found[0]}

    def evaluate_each(self) -> list[dict[str, float]]:
        """The same as each device would judge it."""
        with one_thread_per_kernel(), torch.no_grad():
            return self._judged_by_each()

    def _judged_by_each(self) -> list[dict[str, float]]:
        return [self._metrics(self._logits)] * self.course.num_devices

    def _metrics(self, logits: Callable[[Samples], Tensor]) -> dict[str, float]:
        """Metrics on the evaluation split of what gives the logits of its samples."""
        split = self.data.evaluation
        batches = ((logits(s), self._labels(split, s)) for s in self._evaluation_chunks())
        if self.config.head == "next_token":
            return next_token_metrics(batches)
        found, labels = zip(*batches, strict=True)
        return classification_metrics(torch.cat(found), torch.cat(labels))

    def state_dict(self) -> dict[str, Any]:
        """All that a bit-exact resume needs, given the same backbone, data and configuration."""
        return {
            "version": self.version,
            "parameters": [p.detach().clone() for p in self.parameters],
            "optimizer": self.optimizer.state_dict(),
            "old": {version: list(old) for version, old in self._old.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a `state_dict` of the same backbone, data and configuration."""
        self.version = state["version"]
        with torch.no_grad():
            for parameter, value in zip(self.parameters, state["parameters"], strict=True):
                parameter.copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self._old = {version: list(old) for version, old in state["old"].items()}

    def padded_length(self, batch_index: int) -> int | None:
        """Tokens sent per sample of a mini-batch; None where only real tokens are."""
        if self.config.padding == "none":
            return None
        if self.config.padding == "fixed":
            return self.config.sequence_length
        return int(self.data.train.lengths[self.batches[batch_index]].max())

    def payload(
        self,
        batch_index: int,
        rows_LNR: Tensor,
        device: int = 0,
        samples: Samples | None = None,
    ) -> Payload:
        """A device's mini-batch, or some samples of it, with these encoded taps."""
        samples = self.batches[batch_index] if samples is None else samples
        return Payload(
            device=device,
            batch=batch_index,
            label_kind=self.label_kind,
            lengths=self.sent_lengths(samples),
            labels=self.targets(samples, device).numpy(),
            rows_LNR=rows_LNR,
        )

    @property
    def label_kind(self) -> LabelKind:
        """What stands for labels in a message."""
        return "token" if self.config.head == "next_token" else "sample"

    def sent_lengths(self, samples: Samples) -> Samples:
        """Tokens of training samples that go up, padding apart: int64 [B]."""
        return self.data.train.lengths[samples]

    def targets(self, samples: Samples, device: Samples | int = 0) -> Tensor:  # noqa: ARG002
        """What samples of a device, or of several [B], teach: labels [B], or next tokens [N]."""
        return self._labels(self.data.train, samples)

    @abstractmethod
    def _differentiate(self, batch_index: int) -> float:
        """The loss of a mini-batch at the current parameters, its gradient left in them."""

    @abstractmethod
    def _logits(self, samples: Samples) -> Tensor:
        """Logits of evaluation samples."""

    def _evaluation_chunks(self) -> list[Samples]:
        """The evaluation samples that are judged together."""
        return in_order(len(self.data.evaluation))

    def _labels(self, split: Split, samples: Samples) -> Tensor:
        """Labels of samples [B], or of their tokens [N]."""
        if self.config.head == "next_token":
            return next_tokens([split.tokens[i] for i in samples])
        return torch.from_numpy(split.labels[samples])

    def _update(self) -> None:
        """The optimiser's update: one version more."""
        self._remember()
        self.optimizer.step()
        self.version += 1

    @contextlib.contextmanager
    def _at(self, version: int) -> Iterator[None]:
        """The parameters of an older version in place of the newest while the context is open."""
        if version == self.version:
            yield
            return
        if version not in self._old:
            raise ValueError(
                f"version {version} is not kept: the newest is {self.version}, "
                f"and max_staleness is {self.config.max_staleness}"
            )
        newest = [parameter.data for parameter in self.parameters]
        self._place(self._old[version])
        try:
            yield
        finally:
            self._place(newest)

    def _place(self, values: Snapshot) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.data = value

    def _remember(self) -> None:
        """Keeps the newest version for later reads, and drops what is too old to be read."""
        if self.config.max_staleness:
            self._old[self.version] = [p.detach().clone() for p in self.parameters]
            self._old.pop(self.version - self.config.max_staleness, None)


def alone(data: TaskData, config: TrainingConfig) -> Course:
    """The course of one device that goes through all samples."""
    size, epochs = config.batch_size, config.epochs
    return Course.of(mini_batches(len(data.train), size, epochs, config.seed), epochs)


def trained(network: nn.Module) -> dict[str, Tensor]:
    """The trainable parameters of a network by name."""
    named = network.named_parameters()
    return {name: value.detach() for name, value in named if value.requires_grad}


def backward(loss: Tensor) -> float:
    """The value of a loss, its gradient added to that of the parameters."""
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item()


def in_order(num_samples: int) -> list[Samples]:
    """The chunks in which evaluation samples are forwarded."""
    numbers = np.arange(num_samples)
    return [numbers[i : i + EVALUATION_CHUNK] for i in range(0, num_samples, EVALUATION_CHUNK)]


def next_tokens(tokens: list[NDArray[np.int32]]) -> Tensor:
    """The next token of each position, NO_LABEL at the last of each sample: int64 [N]."""
    shifted = [np.append(ids[1:], NO_LABEL) for ids in tokens]
    return torch.from_numpy(np.concatenate(shifted).astype(np.int64))


def ragged(split: Split, samples: Samples) -> Ragged:
    """Where the samples lie among their tokens laid end to end."""
    return Ragged.of(torch.from_numpy(split.lengths[samples]))


def optimizer_of(parameters: list[nn.Parameter], config: Optimizer) -> torch.optim.Optimizer:
    """An optimiser of these parameters, without a past."""
    if config.name == "sgd":
        return torch.optim.SGD(
            parameters, config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
    return torch.optim.AdamW(
        parameters, config.lr, betas=config.betas, weight_decay=config.weight_decay
    )
