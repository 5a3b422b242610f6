"""The side network's trainer: real learning at the parameters that the timeline says.

Axes: N real tokens of a mini-batch, B samples, L taps, D width.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from mobisim.training import message
from mobisim.training.activations import ActivationStore, StoreLimits
from mobisim.training.backbone import Backbone
from mobisim.training.codec import TapFormat
from mobisim.training.data import Split, TaskData
from mobisim.training.learner import (
    Learner,
    Samples,
    TrainingConfig,
    backward,
    in_order,
    ragged,
)
from mobisim.training.side_network import SideNetwork, SideNetworkConfig
from mobisim.training.threads import one_thread_per_kernel


class Trainer(Learner):
    """A side network that learns from a frozen backbone's activations, as they crossed the wire."""

    def __init__(
        self,
        backbone: Backbone,
        data: TaskData,
        config: TrainingConfig,
        *,
        limits: StoreLimits | None = None,
        shared: Path | None = None,
    ) -> None:
        self._limits, self._shared = limits, shared
        self.tap_layers = config.tap_layers or tuple(range(1, backbone.num_layers + 1))
        self.layout = TapFormat(config.codec, config.block_size, backbone.width)
        self.side_network = SideNetwork(
            _side_config(backbone, data, config, len(self.tap_layers)),
            seed=config.seed,
            frozen_tail=backbone.tail() if config.head == "next_token" else None,
        )
        super().__init__(backbone, data, config, self.side_network)
        self.activations = self._store(data.train, self.layout, self._first_epoch())
        self.evaluation = self._store(
            data.evaluation,
            TapFormat("fp32", config.block_size, backbone.width),
            in_order(len(data.evaluation)),
        )

    def step_from(self, loss: Tensor) -> float:
        """The step of a loss that was worked out at the newest version: its value."""
        with one_thread_per_kernel():
            self.optimizer.zero_grad()
            value = backward(loss)
            self._update()
            return value

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

    def _store(self, split: Split, layout: TapFormat, chunks: list[Samples]) -> ActivationStore:
        return ActivationStore(
            self.backbone,
            split,
            tap_layers=self.tap_layers,
            layout=layout,
            chunks=chunks,
            limits=self._limits,
            shared=self._shared,
        )

    def _first_epoch(self) -> list[Samples]:
        return self.batches[: -(-len(self.data.train) // self.config.batch_size)]

    def _differentiate(self, batch_index: int) -> float:
        samples = self.batches[batch_index]
        taps = self.activations.taps(samples)
        split = self.data.train
        labels = self._labels(split, samples)
        return backward(self.side_network.loss(taps, ragged(split, samples), labels))

    def _logits(self, samples: Samples) -> Tensor:
        taps = self.evaluation.taps(samples)
        logits: Tensor = self.side_network(taps, ragged(self.data.evaluation, samples))
        return logits


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
    )
