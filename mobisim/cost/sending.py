"""Which tokens of a sample go up and what stands for its labels, counted from lengths alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mobisim.cost.system import System
from mobisim.cost.work import BatchShape
from mobisim.scenario.methods import Learns, Tokens

# What of a sample its head reads: one token, the mean of all, or each that has a next one.
Reads = Literal["one", "mean", "next"]
Padding = Literal["fixed", "longest", "none"]


@dataclass(frozen=True)
class Sending:
    """What goes up of the samples of a mini-batch.

    With `tokens` loss those that the head reads, of which a filter keeps a `share`, rounded up;
    padding goes up only where all do. Labels are one value per sample, or per token sent; of
    residuals there is one per class.
    """

    tokens: Tokens = "all"
    reads: Reads = "mean"
    share: float = 1.0
    learns: Learns = "labels"
    num_classes: int = 2

    @property
    def pads(self) -> bool:
        """Whether padding is sent where it is computed."""
        return self.tokens == "all" and self.share == 1

    def count(self, length: int) -> int:
        """Tokens of a sample of `length` that go up."""
        entering = {"one": 1, "mean": length, "next": max(length - 1, 1)}[self.reads]
        return math.ceil((entering if self.tokens == "loss" else length) * self.share)

    def shape(
        self, lengths: Sequence[int], padding: Padding = "none", longest: int = 0
    ) -> BatchShape:
        """The mini-batch of samples of these lengths, padded to `longest` where that is fixed."""
        computed = list(lengths)
        if padding != "none":
            computed = [longest if padding == "fixed" else max(lengths)] * len(computed)
        sent = sum(computed) if self.pads else sum(map(self.count, lengths))
        return BatchShape.of_lengths(
            computed, sent=sent, num_labels=self.labels(len(lengths), sent)
        )

    def labels(self, num_samples: int, num_tokens: int) -> int:
        """Values that stand for the labels of so many samples, of which so many tokens go up."""
        if self.learns == "residuals":
            return self.num_classes * num_samples
        return num_tokens if self.reads == "next" else num_samples


def sending_of(system: System, reads: Reads) -> Sending:
    """What a scenario's method sends for a head that reads `reads`."""
    options = system.options
    share = options.keep.tokens if options.keep is not None else 1.0
    return Sending(options.tokens, reads, share, options.learns, system.num_classes)
