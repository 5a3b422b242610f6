"""The trainer of methods that train a backbone, or a bypass within it.

Axes: N tokens of a mini-batch, B samples, D width, C classes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mobisim.scenario.methods import MethodInfo
from mobisim.training import zeroth_order
from mobisim.training.backbone import Backbone
from mobisim.training.codec import TapFormat
from mobisim.training.course import Course, Samples
from mobisim.training.cut import Cut
from mobisim.training.data import Split, TaskData
from mobisim.training.learner import (
    Learner,
    TrainingConfig,
    backward,
    in_order,
)
from mobisim.training.message import NO_LABEL, pack_part
from mobisim.training.plain_messages import pack_slopes, pack_tokens, pack_update
from mobisim.training.side_network import ClassificationHead, Ragged, mean_loss
from mobisim.training.threads import one_thread_per_kernel
from mobisim.training.tokens import Tokens
from mobisim.training.tuned import Tuned


class TunedModel(nn.Module):
    """A backbone that trains by a method, and the head on top of it.

    A classification head always trains; a next-token head is the backbone's own output embedding,
    and trains only where all does.
    """

    def __init__(
        self, backbone: Backbone, method: MethodInfo, config: TrainingConfig, num_classes: int
    ) -> None:
        super().__init__()
        checkpointing = config.tuning.checkpointing
        self.tuned = Tuned(backbone, method, seed=config.seed, checkpointing=checkpointing)
        self.head: nn.Module
        if config.head == "next_token":
            self.head = _Vocabulary(backbone, self.tuned, trains="all" in method.trains)
        else:
            width = self.tuned.output_width
            random = torch.Generator().manual_seed(config.seed)
            self.head = ClassificationHead(width, num_classes, config.pooling_on(backbone), random)

    def forward(self, ids: Sequence[Tokens]) -> Tensor:
        """Logits: [B, C] for classification, [N, V] for next-token."""
        lengths_B = torch.tensor([len(sample) for sample in ids])
        logits: Tensor = self.head(self.tuned(ids), Ragged.of(lengths_B))
        return logits


class _Vocabulary(nn.Module):
    """The backbone's output embedding; where that is its input embedding as well, one of both."""

    def __init__(self, backbone: Backbone, tuned: Tuned, *, trains: bool) -> None:
        super().__init__()
        own = backbone.vocabulary()
        shared = own[0].weight is backbone.base.get_input_embeddings().weight
        self.layers = copy.deepcopy(own).requires_grad_(trains)
        if shared:
            self.layers[0].weight = tuned.backbone.get_input_embeddings().weight

    def forward(self, hidden_ND: Tensor, samples: Ragged) -> Tensor:  # noqa: ARG002 (head contract)
        """Logits of each position: [N, D] -> [N, V]."""
        logits: Tensor = self.layers(hidden_ND)
        return logits


class TunedTrainer(Learner):
    """A backbone that learns by a method, with gradients through it.

    A mini-batch is worked through in `tuning.micro_batches` pieces whose gradients add up to that
    of its mean loss.
    """

    def __init__(
        self,
        backbone: Backbone,
        data: TaskData,
        config: TrainingConfig,
        method: MethodInfo,
        course: Course | None = None,
    ) -> None:
        self.method = method
        self.model = TunedModel(backbone, method, config, data.num_classes)
        super().__init__(backbone, data, config, self.model, course)

    def upload(self, batch_index: int) -> bytes:
        """The mini-batch itself, as it goes up where the server trains on it."""
        samples = self.batches[batch_index]
        payload = self.payload(batch_index, torch.empty(0))
        return pack_tokens(
            payload, _tokens(self.data.train, samples), self.padded_length(batch_index)
        )

    @property
    def _pieces(self) -> int:
        """The pieces of a mini-batch; one, where it is exchanged for a reply."""
        return 1 if self.method.replies else self.config.tuning.micro_batches

    def _differentiate(self, batch_index: int) -> float:
        return sum(backward(loss) for loss in self._losses(batch_index))

    def _losses(self, batch_index: int) -> Iterator[Tensor]:
        """What each piece of a mini-batch adds to its mean loss."""
        samples, split = self.batches[batch_index], self.data.train
        total = _num_labels(self._labels(split, samples))
        for piece in np.array_split(samples, min(self._pieces, len(samples))):
            labels = self._labels(split, piece)
            loss = mean_loss(self.model(_tokens(split, piece)), labels)
            yield loss * (_num_labels(labels) / total)

    def _evaluation_chunks(self) -> list[Samples]:
        """Samples of like length together, to pad little."""
        split = self.data.evaluation
        order = np.argsort(split.lengths, kind="stable")
        return [order[chunk] for chunk in in_order(len(split))]

    def _logits(self, samples: Samples) -> Tensor:
        logits: Tensor = self.model(_tokens(self.data.evaluation, samples))
        return logits


class SplitTrainer(TunedTrainer):
    """A backbone cut in two: up to layer `tuning.cut`, the middle one if null, on the device."""

    def __init__(
        self,
        backbone: Backbone,
        data: TaskData,
        config: TrainingConfig,
        method: MethodInfo,
        course: Course | None = None,
    ) -> None:
        super().__init__(backbone, data, config, method, course)
        layout = TapFormat(config.codec, config.block_size, backbone.width)
        self.cut = Cut(self.model.tuned, config.tuning.cut or backbone.num_layers // 2, layout)

    def exchange(self, batch_index: int) -> tuple[bytes, bytes]:
        """What goes up and comes down for one mini-batch, as real bytes; nothing is updated."""
        with one_thread_per_kernel():
            self._differentiate(batch_index)
        self.optimizer.zero_grad()
        return self._packed(batch_index, self.cut.up, 1), self._packed(
            batch_index, self.cut.down, 2
        )

    def _packed(self, batch_index: int, rows_NR: Tensor, number: int) -> bytes:
        """A message; the first alone brings lengths and labels."""
        return pack_part(
            self.payload(batch_index, rows_NR[None]),
            self.cut.layout,
            first_tap=number,
            padded_length=self.padded_length(batch_index),
        )


class ForwardTrainer(TunedTrainer):
    """A backbone that learns from forward passes along `tuning.perturbations` directions."""

    def slopes(self, batch_index: int) -> tuple[float, Tensor]:
        """What the device works out of a mini-batch: its loss, and the slopes that it sends."""
        return self.slopes_along(batch_index, self._directions(batch_index))

    def slopes_along(
        self, batch_index: int, directions: zeroth_order.Directions
    ) -> tuple[float, Tensor]:
        """The loss of a mini-batch, and its slopes along some directions."""
        with torch.no_grad():
            return zeroth_order.slopes(
                self.parameters,
                lambda: sum(loss.item() for loss in self._losses(batch_index)),
                directions,
                self.config.tuning.perturbations,
            )

    def exchange(self, batch_index: int) -> tuple[bytes, bytes]:
        """What goes up and comes down for one mini-batch, which is stepped."""
        _, slopes = self.slopes(batch_index)
        self.step(batch_index)
        return pack_slopes(batch_index, slopes), pack_update(batch_index, self.parameters)

    def _differentiate(self, batch_index: int) -> float:
        value, slopes = self.slopes(batch_index)
        found = zeroth_order.gradient(self._directions(batch_index), slopes)
        for parameter, gradient in zip(self.parameters, found, strict=True):
            parameter.grad = gradient
        return value

    def _directions(self, batch_index: int) -> zeroth_order.Directions:
        return zeroth_order.directions(self.parameters, self.config.seed, batch_index)


def tuned_trainer(
    backbone: Backbone,
    data: TaskData,
    config: TrainingConfig,
    method: MethodInfo,
    course: Course | None = None,
) -> TunedTrainer:
    """The trainer that a method's description asks for."""
    return _TRAINERS[method.kernel](backbone, data, config, method, course)


_TRAINERS: dict[str, type[TunedTrainer]] = {
    "gradients": TunedTrainer,
    "cut_gradients": SplitTrainer,
    "slopes": ForwardTrainer,
}


def _tokens(split: Split, samples: Samples) -> list[Tokens]:
    return [split.tokens[i] for i in samples]


def _num_labels(labels: Tensor) -> int:
    return int((labels != NO_LABEL).sum())
