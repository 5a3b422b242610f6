"""Which tokens of a sample go up: all of them, those that enter the loss, or the best of these.

Axes: B samples, N tokens of the samples laid end to end, M tokens selected.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cosine_similarity

from mobisim.scenario.methods import Tokens
from mobisim.training.backbone import Backbone
from mobisim.training.side_network import HeadKind, Pooling
from mobisim.training.tokens import Tokens as Ids

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Selection:
    """A rule that says how many tokens of each sample go up from its length alone.

    A head that reads the first or the last token has that one in its loss, one that takes the mean
    all of them, and one that predicts next tokens all but the last (of a single token, that one).
    Of these the `share` with the highest scores go up, rounded up; what the head reads is among
    them.
    """

    tokens: Tokens = "all"
    head: HeadKind = "classification"
    pooling: Pooling = "mean"
    share: float = 1.0

    @property
    def takes_all(self) -> bool:
        """Whether nothing is left out."""
        return self.share == 1 and (self.tokens == "all" or self._read == "mean")

    @property
    def scores(self) -> bool:
        """Whether the choice depends on scores."""
        return self.share < 1 and (self.tokens == "all" or self._read not in ("first", "last"))

    def counts(self, lengths_B: Counts) -> Counts:
        """How many tokens of each sample go up: int64 [B]."""
        starts_B, ends_B = self._range(lengths_B)
        found: Counts = np.ceil((ends_B - starts_B) * self.share).astype(np.int64)
        return found

    def rows(self, lengths_B: Counts, score_N: Tensor | None = None) -> Tensor:
        """Where the tokens that go up lie among all: ascending, int64 [M].

        `score_N` is needed where the choice depends on scores.
        """
        return torch.from_numpy(np.concatenate(list(self._chosen(lengths_B, score_N))))

    def _chosen(self, lengths_B: Counts, score_N: Tensor | None) -> Iterator[Counts]:
        offsets_B = np.cumsum(lengths_B) - lengths_B
        ranges = zip(*self._range(lengths_B), strict=True)
        for offset, length, count, (start, end) in zip(
            offsets_B, lengths_B, self.counts(lengths_B), ranges, strict=True
        ):
            candidates = np.arange(offset + start, offset + end)
            if count < len(candidates):
                assert score_N is not None
                score = score_N[offset : offset + length].double().numpy().copy()
                if self._read in _READ:
                    score[_READ[self._read]] = np.inf
                best = np.argsort(-score[start:end], kind="stable")[:count]
                candidates = candidates[np.sort(best)]
            yield candidates

    def _range(self, lengths_B: Counts) -> tuple[Counts, Counts]:
        """The first token of each sample that could go up, and the one after the last."""
        starts_B, ends_B = np.zeros_like(lengths_B), lengths_B.copy()
        if self.tokens == "loss" and self._read == "last":
            starts_B = lengths_B - 1
        elif self.tokens == "loss" and self._read == "first":
            ends_B = np.ones_like(lengths_B)
        elif self.tokens == "loss" and self._read == "next":
            ends_B = np.maximum(lengths_B - 1, 1)
        return starts_B, ends_B

    @property
    def _read(self) -> Literal["mean", "first", "last", "next"]:
        return "next" if self.head == "next_token" else self.pooling


def strongest_taps(
    backbone: Backbone, ids: Sequence[Ids], tap_layers: Sequence[int], count: int
) -> tuple[int, ...]:
    """The `count` taps whose activations have the greatest mean norm over some samples."""
    norms = [float(tap_ND.norm(dim=1).mean()) for tap_ND in backbone.taps(ids, tap_layers)]
    best = sorted(range(len(norms)), key=lambda i: -norms[i])[:count]
    return tuple(tap_layers[i] for i in sorted(best))


def influences(backbone: Backbone, ids: Sequence[Ids]) -> list[float]:
    """How much each layer changes the activations of some samples.

    That is one less the cosine of what comes into it and what comes out, the mean over all tokens
    (the block influence of Men et al., arXiv:2403.03853).
    """
    pairs = pairwise(backbone.states(ids))
    return [1 - float(cosine_similarity(before, after, dim=1).mean()) for before, after in pairs]


def most_influential(
    backbone: Backbone, ids: Sequence[Ids], blocks: Sequence[tuple[int, int]]
) -> tuple[int, ...]:
    """The layer of most influence on some samples, of each block of layers from first to last."""
    score = influences(backbone, ids)
    return tuple(max(range(low, high + 1), key=lambda i: score[i - 1]) for low, high in blocks)


_READ = {"first": 0, "last": -1}
