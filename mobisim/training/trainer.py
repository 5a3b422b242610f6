"""The side network's trainer: real learning at the parameters that the timeline says.

Axes: N tokens of a mini-batch that go up, B samples, L taps, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mobisim.training import message
from mobisim.training.activations import StoreLimits
from mobisim.training.alignment import Aligned, Fleet
from mobisim.training.backbone import Backbone
from mobisim.training.course import Course, MiniBatch, Samples
from mobisim.training.data import Split, TaskData
from mobisim.training.learner import (
    Learner,
    TrainingConfig,
    alone,
    backward,
)
from mobisim.training.message import LabelKind
from mobisim.training.residuals import FIT_SAMPLES, WordGuess, answer, fit, residuals, uniform
from mobisim.training.selection import strongest_taps
from mobisim.training.side_network import Ragged, SideNetwork, SideNetworkConfig
from mobisim.training.source import Source
from mobisim.training.threads import one_thread_per_kernel
from mobisim.training.tokens import word_ids


class Trainer(Learner):
    """A side network that learns from frozen backbones' activations, as they crossed the wire.

    Without a `fleet` there is one device. Residuals are those of each device's own prediction, and
    so is what it makes of the side network's answers.
    """

    def __init__(
        self,
        backbone: Backbone,
        data: TaskData,
        config: TrainingConfig,
        *,
        fleet: Fleet | None = None,
        course: Course | None = None,
        limits: StoreLimits | None = None,
        shared: Path | None = None,
    ) -> None:
        course = course or alone(data, config)
        fleet = fleet or Fleet.alone(backbone, config.tap_layers)
        self.fleet = _filtered(fleet, data, config, course)
        self.sources = [
            Source(one, data, config, taps, chunks, limits=limits, shared=shared)
            for one, taps, chunks in zip(
                self.fleet.backbones, self.fleet.taps, _chunks(self.fleet, course), strict=True
            )
        ]
        first = self.sources[0]
        self.tap_layers, self.layout = first.tap_layers, first.layout
        self.activations = first.activations
        self.side_network = SideNetwork(
            _side_config(self.fleet, data, config),
            seed=config.seed,
            frozen_tail=backbone.tail() if config.head == "next_token" else None,
        )
        self.projections = self.fleet.projections(config.seed)
        network = (
            Aligned(self.side_network, list(self.projections.values()))
            if self.projections
            else self.side_network
        )
        super().__init__(backbone, data, config, network, course)
        self._guesses: dict[int, nn.Module] = {}

    def source(self, device: int) -> Source:
        """What a device's activations come from."""
        return self.sources[self.fleet.of_device[device]]

    def guess(self, device: int = 0) -> nn.Module:
        """A device's own prediction from pooled features; fitted when it is first needed."""
        if device not in self._guesses:
            make = {"head": self._fit, "verbaliser": self._words, "uniform": self._uniform}
            self._guesses[device] = make[self.config.prediction](device)
        return self._guesses[device]

    def step_from(self, loss: Tensor) -> float:
        """The step of a loss that was worked out at the newest version: its value."""
        with one_thread_per_kernel():
            self.optimizer.zero_grad()
            value = backward(loss)
            self._update()
            return value

    def step_together(self, batch_indices: Sequence[int], version_read: int) -> float:
        """One step on all samples of several mini-batches: the loss of all, as `step` has it."""
        together = MiniBatch.of(self.course.mini_batches[index] for index in batch_indices)
        return self._step(version_read, lambda: self._loss(self._by_ways(together)))

    @property
    def label_kind(self) -> LabelKind:
        """What stands for labels in a message."""
        return "residual" if self.config.learns == "residuals" else super().label_kind

    def sent_lengths(self, samples: Samples) -> Samples:
        """Tokens of training samples that go up, padding apart: int64 [B]."""
        return self.activations.lengths(samples)

    def messages(
        self, batch_index: int, device: int = 0, samples: Samples | None = None
    ) -> list[bytes]:
        """What crosses a device's uplink for a mini-batch, or some samples of it, as real bytes."""
        samples = self.batches[batch_index] if samples is None else samples
        source = self.source(device)
        return message.pack(
            self.payload(batch_index, source.activations.rows(samples), device, samples),
            source.layout,
            granularity=self.config.granularity,
            padded_length=self.padded_length(batch_index),
        )

    def num_payload_bytes(self, batch_index: int) -> int:
        """Bytes really encoded for one mini-batch, labels and framing included."""
        return sum(map(len, self.messages(batch_index)))

    def padded_length(self, batch_index: int) -> int | None:
        """Tokens sent per sample of a mini-batch; None where only some or real ones are."""
        selects = self.config.tokens == "loss" or self.activations.selection.share < 1
        return None if selects else super().padded_length(batch_index)

    def targets(self, samples: Samples, device: Samples | int = 0) -> Tensor:
        """What training samples of a device, or of several [B], teach.

        That is labels [B], next tokens [N], or residuals [B, C].
        """
        labels = super().targets(samples)
        if self.config.head == "next_token":
            return labels[self.activations.chosen(samples)]
        if self.config.learns == "labels":
            return labels
        devices = np.broadcast_to(device, samples.shape)
        guessed_BC = torch.empty(len(samples), self.data.num_classes)
        for owner in np.unique(devices).tolist():
            mine = devices == owner
            features_BD = self.source(owner).of(samples[mine])
            guessed_BC[torch.from_numpy(mine)] = self.guess(owner)(features_BD)
        return residuals(guessed_BC, labels)

    def labels_given_away(self) -> float:
        """The share of training samples whose residual is largest where their label is."""
        told = total = 0
        for device in range(self.course.num_devices):
            for batch in self.course.first_epoch(device):
                labels = super().targets(batch.samples)
                argmax = self.targets(batch.samples, device).argmax(dim=1)
                told, total = told + int((argmax == labels).sum()), total + len(batch)
        return told / total

    def taps(self, batch_index: int) -> list[Tensor]:
        """What the server trains a mini-batch on: L tensors fp32 [N, D]."""
        return self._aligned(self._sorted(batch_index))

    def _aligned(self, mini_batch: MiniBatch) -> list[Tensor]:
        """The activations of samples that are sorted by their ways to the side network."""
        way_of = self.fleet.way_of[mini_batch.devices]
        parts = [self._along(int(way), mini_batch.at(way_of == way)) for way in np.unique(way_of)]
        return (
            parts[0] if len(parts) == 1 else [torch.cat(taps) for taps in zip(*parts, strict=True)]
        )

    def _along(self, way: int, part: MiniBatch) -> list[Tensor]:
        """The activations of samples that come along one way."""
        taps = self.sources[self.fleet.ways[way][0]].received(part.samples, part.kept)
        return self._projected(way, taps)

    def _projected(self, way: int, taps: list[Tensor]) -> list[Tensor]:
        projection = self.projections.get(way)
        return taps if projection is None else projection(taps)

    def _sorted(self, batch_index: int) -> MiniBatch:
        """A mini-batch in the order of its samples' ways to the side network."""
        return self._by_ways(self.course.mini_batches[batch_index])

    def _by_ways(self, mini_batch: MiniBatch) -> MiniBatch:
        return mini_batch.at(np.argsort(self.fleet.way_of[mini_batch.devices], kind="stable"))

    def _fit(self, device: int) -> nn.Module:
        """A head on the first samples of a device's first epoch, which it has labels of."""
        own = [batch.samples for batch in self.course.first_epoch(device)]
        samples = np.concatenate([np.zeros(0, np.int64), *own])[:FIT_SAMPLES]
        labels = self._labels(self.data.train, samples)
        return fit(self.source(device).of(samples), labels, self.data.num_classes)

    def _words(self, device: int) -> nn.Module:
        backbone = self.source(device).backbone
        return WordGuess(backbone.tail(), word_ids(backbone.name, self.config.words))

    def _uniform(self, device: int) -> nn.Module:
        return uniform(self.source(device).backbone.width, self.data.num_classes)

    def _differentiate(self, batch_index: int) -> float:
        return self._loss(self._sorted(batch_index))

    def _loss(self, mini_batch: MiniBatch) -> float:
        """The loss of samples that are sorted by their ways, its gradient left behind."""
        lie = Ragged.of(torch.from_numpy(self.activations.lengths(mini_batch.samples)))
        targets = self.targets(mini_batch.samples, mini_batch.devices)
        return backward(self.side_network.loss(self._aligned(mini_batch), lie, targets))

    def _judged_by_each(self) -> list[dict[str, float]]:
        """What comes along one way is worked out once for all of its devices."""
        found: dict[int, dict[str, float]] = {}
        for way in range(len(self.fleet.ways)):
            devices = np.flatnonzero(self.fleet.way_of == way).tolist()
            found |= zip(devices, self._judged_along(way, devices), strict=True)
        return [found[device] for device in range(len(found))]

    def _judged_along(self, way: int, devices: Sequence[int]) -> list[dict[str, float]]:
        if self.config.learns == "labels":
            return [self._metrics(partial(self._learned, way))] * len(devices)
        learned = {int(s[0]): self._learned(way, s) for s in self._evaluation_chunks()}
        return [self._metrics(partial(self._answer, device, learned)) for device in devices]

    def _answer(self, device: int, learned: dict[int, Tensor], samples: Samples) -> Tensor:
        """What a device makes of what was learned, by chunks of evaluation samples."""
        guessed_BC = self.guess(device)(self.source(device).of_judged(samples))
        return answer(guessed_BC, learned[int(samples[0])])

    def _logits(self, samples: Samples) -> Tensor:
        return self._learned(0, samples)

    def _learned(self, way: int, samples: Samples) -> Tensor:
        """What the side network says of evaluation samples that come along one way."""
        store = self.sources[self.fleet.ways[way][0]].evaluation
        lie = Ragged.of(torch.from_numpy(store.lengths(samples)))
        logits: Tensor = self.side_network(self._projected(way, store.taps(samples)), lie)
        return logits

    def _labels(self, split: Split, samples: Samples) -> Tensor:
        labels = super()._labels(split, samples)
        judged = split is self.data.evaluation and self.config.head == "next_token"
        return labels[self.sources[0].evaluation.chosen(samples)] if judged else labels


def _chunks(fleet: Fleet, course: Course) -> Iterator[list[Samples]]:
    """Of each backbone the mini-batches in which samples first come, each once."""
    for number in range(len(fleet.backbones)):
        devices = np.flatnonzero(np.array(fleet.of_device) == number).tolist()
        first = (batch.samples for device in devices for batch in course.first_epoch(device))
        # Devices that go through the same samples share the very arrays.
        yield list({id(samples): samples for samples in first}.values())


def _filtered(fleet: Fleet, data: TaskData, config: TrainingConfig, course: Course) -> Fleet:
    """With the best of the taps where some are left out: the first backbone's first mini-batch."""
    if config.keep is None or config.keep.taps is None:
        return fleet
    ids = [data.train.tokens[i] for i in course.mini_batches[0].samples]
    first = fleet.taps[0]
    best = strongest_taps(fleet.backbones[0], ids, first, config.keep.taps)
    places = [first.index(layer) for layer in best]
    return replace(fleet, taps=tuple(tuple(taps[at] for at in places) for taps in fleet.taps))


def _side_config(fleet: Fleet, data: TaskData, config: TrainingConfig) -> SideNetworkConfig:
    """The side network that the configuration asks for on these backbones and this task."""
    classifies = config.head == "classification"
    return SideNetworkConfig(
        width=fleet.width,
        num_taps=len(fleet.taps[0]),
        bottleneck=config.bottleneck,
        activation=config.activation,
        head=config.head,
        pooling=config.pooling_on(fleet.backbones[0]),
        num_classes=data.num_classes if classifies else 0,
        learns=config.learns,
    )
