"""The side network's trainer: real learning at the parameters that the timeline says.

Axes: N tokens of a mini-batch that go up, B samples, L taps, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mobisim.training import message
from mobisim.training.activations import ActivationStore, StoreLimits
from mobisim.training.backbone import Backbone
from mobisim.training.codec import TapFormat, decode_rows, encode_rows
from mobisim.training.data import Split, TaskData, mini_batches
from mobisim.training.learner import (
    Learner,
    Samples,
    TrainingConfig,
    backward,
    in_order,
)
from mobisim.training.message import LabelKind
from mobisim.training.residuals import FIT_SAMPLES, Features, WordGuess, answer, fit, residuals
from mobisim.training.selection import Selection, strongest_taps
from mobisim.training.side_network import Ragged, SideNetwork, SideNetworkConfig
from mobisim.training.threads import one_thread_per_kernel
from mobisim.training.tokens import word_ids


class Trainer(Learner):
    """A side network that learns from a frozen backbone's activations, as they crossed the wire.

    `hits` says of each mini-batch's samples which the server has kept from before: those are read
    as the cache holds them, None where it keeps all.
    """

    def __init__(
        self,
        backbone: Backbone,
        data: TaskData,
        config: TrainingConfig,
        *,
        limits: StoreLimits | None = None,
        shared: Path | None = None,
        hits: Sequence[NDArray[np.bool_]] | None = None,
    ) -> None:
        self._limits, self._shared, self._hits = limits, shared, hits
        self.tap_layers = _tap_layers(backbone, data, config)
        self.layout = TapFormat(config.codec, config.block_size, backbone.width)
        self.side_network = SideNetwork(
            _side_config(backbone, data, config, len(self.tap_layers)),
            seed=config.seed,
            frozen_tail=backbone.tail() if config.head == "next_token" else None,
        )
        super().__init__(backbone, data, config, self.side_network)
        pooling = "last" if config.prediction == "verbaliser" else self.side_network.config.pooling
        self._features = Features(len(data.train), backbone.width, pooling)
        self._judged = Features(len(data.evaluation), backbone.width, pooling)
        share = config.keep.tokens if config.keep else 1.0
        self.activations = self._store(
            data.train, self.layout, self._first_epoch(), self._features, share
        )
        exact = TapFormat("fp32", config.block_size, backbone.width)
        chunks = in_order(len(data.evaluation))
        self.evaluation = self._store(data.evaluation, exact, chunks, self._judged)
        self._guess: nn.Module | None = None

    @property
    def guess(self) -> nn.Module:
        """The device's own prediction from pooled features; fitted when it is first needed."""
        if self._guess is None:
            self._guess = self._words() if self.config.prediction == "verbaliser" else self._fit()
        return self._guess

    def step_from(self, loss: Tensor) -> float:
        """The step of a loss that was worked out at the newest version: its value."""
        with one_thread_per_kernel():
            self.optimizer.zero_grad()
            value = backward(loss)
            self._update()
            return value

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
        """What crosses the uplink for one mini-batch, or for some samples of it, as real bytes."""
        samples = self.batches[batch_index] if samples is None else samples
        return message.pack(
            self.payload(batch_index, self.activations.rows(samples), device, samples),
            self.layout,
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

    def targets(self, samples: Samples) -> Tensor:
        """What training samples teach: labels [B], next tokens [N], or residuals [B, C]."""
        labels = super().targets(samples)
        if self.config.head == "next_token":
            return labels[self.activations.chosen(samples)]
        if self.config.learns == "labels":
            return labels
        self.activations.fill(samples)
        return residuals(self.guess(self._features.values_SD[samples]), labels)

    def labels_given_away(self) -> float:
        """The share of training samples whose residual is largest where their label is."""
        told = sum(
            int(
                (self.targets(samples).argmax(dim=1) == super(Trainer, self).targets(samples)).sum()
            )
            for samples in self._first_epoch()
        )
        return told / len(self.data.train)

    def taps(self, batch_index: int) -> list[Tensor]:
        """What the server trains a mini-batch on: L tensors fp32 [N, D]."""
        samples = self.batches[batch_index]
        taps = self.activations.taps(samples)
        kept = self.config.cache_codec
        if kept is None or kept == self.config.codec:
            return taps
        hits_B = self._is_hit(batch_index)
        hits_N = torch.from_numpy(np.repeat(hits_B, self.activations.lengths(samples)))
        layout = TapFormat(kept, self.config.block_size, self.backbone.width)
        for tap_ND in taps:
            tap_ND[hits_N] = decode_rows(encode_rows(tap_ND[hits_N], layout), layout)
        return taps

    def _is_hit(self, batch_index: int) -> NDArray[np.bool_]:
        if self._hits is not None:
            return self._hits[batch_index]
        seen = batch_index >= len(self._first_epoch())
        return np.full(len(self.batches[batch_index]), seen)

    def _store(
        self,
        split: Split,
        layout: TapFormat,
        chunks: list[Samples],
        features: Features,
        share: float = 1.0,
    ) -> ActivationStore:
        config, pooling = self.config, self.side_network.config.pooling
        return ActivationStore(
            self.backbone,
            split,
            tap_layers=self.tap_layers,
            layout=layout,
            chunks=chunks,
            limits=self._limits,
            shared=self._shared,
            selection=Selection(config.tokens, config.head, pooling, share),
            watch=features.take if config.learns == "residuals" else None,
        )

    def _first_epoch(self) -> list[Samples]:
        return self.batches[: -(-len(self.data.train) // self.config.batch_size)]

    def _fit(self) -> nn.Module:
        """A head on the first samples of the first epoch, which the device has labels of."""
        samples = np.concatenate(self._first_epoch())[:FIT_SAMPLES]
        self.activations.fill(samples)
        labels = self._labels(self.data.train, samples)
        return fit(self._features.values_SD[samples], labels, self.data.num_classes)

    def _words(self) -> nn.Module:
        return WordGuess(self.backbone.tail(), word_ids(self.backbone.name, self.config.words))

    def _differentiate(self, batch_index: int) -> float:
        samples = self.batches[batch_index]
        taps = self.taps(batch_index)
        lie = Ragged.of(torch.from_numpy(self.activations.lengths(samples)))
        return backward(self.side_network.loss(taps, lie, self.targets(samples)))

    def _logits(self, samples: Samples) -> Tensor:
        taps = self.evaluation.taps(samples)
        lie = Ragged.of(torch.from_numpy(self.evaluation.lengths(samples)))
        logits: Tensor = self.side_network(taps, lie)
        if self.config.learns == "labels":
            return logits
        return answer(self.guess(self._judged.values_SD[samples]), logits)

    def _labels(self, split: Split, samples: Samples) -> Tensor:
        labels = super()._labels(split, samples)
        judged = split is self.data.evaluation and self.config.head == "next_token"
        return labels[self.evaluation.chosen(samples)] if judged else labels


def _tap_layers(backbone: Backbone, data: TaskData, config: TrainingConfig) -> tuple[int, ...]:
    """The layers that are tapped: those asked for, or the best of them."""
    layers = config.tap_layers or tuple(range(1, backbone.num_layers + 1))
    if config.keep is None or config.keep.taps is None:
        return layers
    first = mini_batches(len(data.train), config.batch_size, 1, config.seed)[0]
    ids = [data.train.tokens[i] for i in first]
    return strongest_taps(backbone, ids, layers, config.keep.taps)


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
        pooling=config.pooling_on(backbone),
        num_classes=data.num_classes if classifies else 0,
        learns=config.learns,
    )
