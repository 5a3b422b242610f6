"""The trainer: real learning, one mini-batch at a time, at the parameters that the timeline says.

Axes: N real tokens of a mini-batch, B samples, L taps, D width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobisim.scenario.schema import Optimizer
from mobisim.training import message
from mobisim.training.activations import ActivationStore, StoreLimits
from mobisim.training.backbone import Backbone
from mobisim.training.codec import TapFormat
from mobisim.training.data import Split, TaskData, mini_batches
from mobisim.training.evaluate import classification_metrics, next_token_metrics
from mobisim.training.message import NO_LABEL, Granularity, Payload
from mobisim.training.side_network import (
    Activation,
    HeadKind,
    Pooling,
    Ragged,
    SideNetwork,
    SideNetworkConfig,
)
from mobisim.training.threads import one_thread_per_kernel

EVALUATION_CHUNK = 32  # samples forwarded and judged together
Padding = Literal["fixed", "longest", "none"]
Snapshot = list[Tensor]


@dataclass(frozen=True)
class TrainingConfig:
    """How a side network is trained; `tap_layers` counts blocks from 1, None taps them all."""

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


class Trainer:
    """A side network with its data, its optimiser, and the versions that may still be read.

    The initial parameters are version 0; the step that writes version v is the v-th.
    """

    def __init__(
        self,
        backbone: Backbone,
        data: TaskData,
        config: TrainingConfig,
        *,
        limits: StoreLimits | None = None,
        shared: Path | None = None,
    ) -> None:
        self.backbone, self.data, self.config = backbone, data, config
        self._limits, self._shared = limits, shared
        self.tap_layers = config.tap_layers or tuple(range(1, backbone.num_layers + 1))
        self.layout = TapFormat(config.codec, config.block_size, backbone.width)
        self.batches = mini_batches(len(data.train), config.batch_size, config.epochs, config.seed)
        self.side_network = SideNetwork(
            _side_config(backbone, data, config, len(self.tap_layers)),
            seed=config.seed,
            frozen_tail=backbone.tail() if config.head == "next_token" else None,
        )
        self.optimizer = _optimizer(self.parameters, config.optimizer)
        self.version = 0
        self._old: dict[int, Snapshot] = {}
        self.activations = self._store(data.train, self.layout, _first_epoch(self))
        self.evaluation = self._store(
            data.evaluation,
            TapFormat("fp32", config.block_size, backbone.width),
            in_order(len(data.evaluation)),
        )

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """The trainable parameters, in a fixed order."""
        return [p for p in self.side_network.parameters() if p.requires_grad]

    def step(self, batch_index: int, version_read: int | None = None) -> float:
        """The loss of one mini-batch, after its gradient at `version_read` updated the newest.

        Raises: ValueError where that version is no longer, or not yet, kept.
        """
        samples = self.batches[batch_index]
        with one_thread_per_kernel():
            taps = self.activations.taps(samples)
            with self._at(self.version if version_read is None else version_read):
                loss = self._backward(self._loss(taps, samples))
            self._update()
            return loss

    def step_from(self, loss: Tensor) -> float:
        """The step of a loss that was worked out at the newest version: its value."""
        with one_thread_per_kernel():
            value = self._backward(loss)
            self._update()
            return value

    def evaluate(self) -> dict[str, float]:
        """Metrics of the newest version on the evaluation split, on unquantised activations."""
        split = self.data.evaluation
        with one_thread_per_kernel(), torch.no_grad():
            batches = ((self._logits(s), self._labels(split, s)) for s in in_order(len(split)))
            if self.config.head == "next_token":
                return next_token_metrics(batches)
            logits, labels = zip(*batches, strict=True)
            return classification_metrics(torch.cat(logits), torch.cat(labels))

    def payload(self, batch_index: int, rows_LNR: Tensor, device: int = 0) -> Payload:
        """A mini-batch with these encoded taps, ready to be packed."""
        samples = self.batches[batch_index]
        return Payload(
            device=device,
            batch=batch_index,
            label_kind="token" if self.config.head == "next_token" else "sample",
            lengths=self.data.train.lengths[samples],
            labels=self._labels(self.data.train, samples).numpy(),
            rows_LNR=rows_LNR,
        )

    def messages(self, batch_index: int, device: int = 0) -> list[bytes]:
        """What crosses the uplink for one mini-batch, as real bytes."""
        rows_LNR = self.activations.rows(self.batches[batch_index])
        return message.pack(
            self.payload(batch_index, rows_LNR, device),
            self.layout,
            granularity=self.config.granularity,
            padded_length=self.padded_length(batch_index),
        )

    def num_payload_bytes(self, batch_index: int) -> int:
        """Bytes really encoded for one mini-batch, labels and framing included."""
        return sum(map(len, self.messages(batch_index)))

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

    def _store(
        self, split: Split, layout: TapFormat, chunks: list[NDArray[np.int64]]
    ) -> ActivationStore:
        return ActivationStore(
            self.backbone,
            split,
            tap_layers=self.tap_layers,
            layout=layout,
            chunks=chunks,
            limits=self._limits,
            shared=self._shared,
        )

    def _loss(self, taps: list[Tensor], samples: NDArray[np.int64]) -> Tensor:
        """The loss of training samples at the current parameters."""
        split = self.data.train
        return self.side_network.loss(taps, _ragged(split, samples), self._labels(split, samples))

    def _backward(self, loss: Tensor) -> float:
        """The value of a loss, its gradient left in the parameters."""
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    def _update(self) -> None:
        """The optimiser's update: one version more."""
        self._remember()
        self.optimizer.step()
        self.version += 1

    def _logits(self, samples: NDArray[np.int64]) -> Tensor:
        """Logits of evaluation samples."""
        taps = self.evaluation.taps(samples)
        logits: Tensor = self.side_network(taps, _ragged(self.data.evaluation, samples))
        return logits

    def _labels(self, split: Split, samples: NDArray[np.int64]) -> Tensor:
        """Labels of samples [B], or of their tokens [N]."""
        if self.config.head == "next_token":
            return next_tokens([split.tokens[i] for i in samples])
        return torch.from_numpy(split.labels[samples])

    def padded_length(self, batch_index: int) -> int | None:
        """Tokens sent per sample of a mini-batch; None where only real tokens are."""
        if self.config.padding == "none":
            return None
        if self.config.padding == "fixed":
            return self.config.sequence_length
        return int(self.data.train.lengths[self.batches[batch_index]].max())

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


def in_order(num_samples: int) -> list[NDArray[np.int64]]:
    """The chunks in which evaluation samples are forwarded."""
    numbers = np.arange(num_samples)
    return [numbers[i : i + EVALUATION_CHUNK] for i in range(0, num_samples, EVALUATION_CHUNK)]


def next_tokens(tokens: list[NDArray[np.int32]]) -> Tensor:
    """The next token of each position, NO_LABEL at the last of each sample: int64 [N]."""
    shifted = [np.append(ids[1:], NO_LABEL) for ids in tokens]
    return torch.from_numpy(np.concatenate(shifted).astype(np.int64))


def _first_epoch(trainer: Trainer) -> list[NDArray[np.int64]]:
    num_batches = -(-len(trainer.data.train) // trainer.config.batch_size)
    return trainer.batches[:num_batches]


def _ragged(split: Split, samples: NDArray[np.int64]) -> Ragged:
    return Ragged.of(torch.from_numpy(split.lengths[samples]))


def _side_config(
    backbone: Backbone, data: TaskData, config: TrainingConfig, num_taps: int
) -> SideNetworkConfig:
    """The side network that the configuration asks for on this backbone and task."""
    classifies = config.head == "classification"
    return SideNetworkConfig(
        width=backbone.width,
        num_taps=num_taps,
        bottleneck=config.bottleneck,
        activation=config.activation,
        head=config.head,
        pooling=config.pooling or ("last" if backbone.is_decoder else "mean"),
        num_classes=data.num_classes if classifies else 0,
    )


def _optimizer(parameters: list[torch.nn.Parameter], config: Optimizer) -> torch.optim.Optimizer:
    if config.name == "sgd":
        return torch.optim.SGD(
            parameters, config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
    return torch.optim.AdamW(
        parameters, config.lr, betas=config.betas, weight_decay=config.weight_decay
    )
