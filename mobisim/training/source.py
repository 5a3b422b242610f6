"""A frozen backbone at work on a task: its activations as they crossed the wire, and exact ones.

Axes: N tokens that go up, S samples of a split, D the backbone's width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobisim.training.activations import ActivationStore, StoreLimits
from mobisim.training.backbone import Backbone
from mobisim.training.codec import TapFormat, decode_rows, encode_rows
from mobisim.training.course import Samples
from mobisim.training.data import Split, TaskData
from mobisim.training.learner import TrainingConfig, in_order
from mobisim.training.residuals import Features
from mobisim.training.selection import Selection


class Source:
    """What devices of one backbone send of the training samples, and judge the others by.

    A sample is forwarded once for all of them, with the others of its chunk.

    Attributes:
        activations: the training samples' taps as the codec packs them.
        evaluation: the evaluation samples' taps, exact.
        features, judged: what predictions of these samples are made from.
    """

    def __init__(
        self,
        backbone: Backbone,
        data: TaskData,
        config: TrainingConfig,
        tap_layers: Sequence[int],
        chunks: Sequence[Samples],
        *,
        limits: StoreLimits | None = None,
        shared: Path | None = None,
    ) -> None:
        self.backbone, self.config, self.tap_layers = backbone, config, tuple(tap_layers)
        self.layout = TapFormat(config.codec, config.block_size, backbone.width)
        self._pooling = config.pooling_on(backbone)
        self._limits, self._shared = limits, shared
        reads = "last" if config.prediction == "verbaliser" else self._pooling
        self.features = Features(len(data.train), backbone.width, reads)
        self.judged = Features(len(data.evaluation), backbone.width, reads)
        share = config.keep.tokens if config.keep else 1.0
        self.activations = self._store(data.train, self.layout, chunks, self.features, share)
        exact = TapFormat("fp32", config.block_size, backbone.width)
        judged = in_order(len(data.evaluation))
        self.evaluation = self._store(data.evaluation, exact, judged, self.judged)

    def received(self, samples: Samples, kept_B: NDArray[np.bool_]) -> list[Tensor]:
        """What the server has of training samples; of those `kept` as its cache packs them.

        Shapes: L tensors fp32 [N, D].
        """
        taps, codec = self.activations.taps(samples), self.config.cache_codec
        if codec is None or codec == self.config.codec:
            return taps
        kept_N = torch.from_numpy(np.repeat(kept_B, self.activations.lengths(samples)))
        layout = TapFormat(codec, self.config.block_size, self.backbone.width)
        for tap_ND in taps:
            tap_ND[kept_N] = decode_rows(encode_rows(tap_ND[kept_N], layout), layout)
        return taps

    def of(self, samples: Samples) -> Tensor:
        """What predictions of training samples are made from: [B, D]."""
        self.activations.fill(samples)
        return self.features.values_SD[samples]

    def of_judged(self, samples: Samples) -> Tensor:
        """The same of evaluation samples."""
        self.evaluation.fill(samples)
        return self.judged.values_SD[samples]

    def _store(
        self,
        split: Split,
        layout: TapFormat,
        chunks: Sequence[Samples],
        features: Features,
        share: float = 1.0,
    ) -> ActivationStore:
        config = self.config
        return ActivationStore(
            self.backbone,
            split,
            tap_layers=self.tap_layers,
            layout=layout,
            chunks=chunks,
            limits=self._limits,
            shared=self._shared,
            selection=Selection(config.tokens, config.head, self._pooling, share),
            watch=features.take if config.learns == "residuals" else None,
        )
