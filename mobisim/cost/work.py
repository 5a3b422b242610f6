"""Pieces of work and shapes of mini-batches: what compute models turn into seconds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Work:
    """FLOPs of matrix products, bytes moved to and from memory, operators launched."""

    flop: float = 0.0
    num_bytes: float = 0.0
    num_ops: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.flop + other.flop, self.num_bytes + other.num_bytes, self.num_ops + other.num_ops
        )

    def __mul__(self, factor: float) -> Work:
        return Work(self.flop * factor, self.num_bytes * factor, self.num_ops * factor)

    @classmethod
    def total(cls, pieces: Iterable[Work]) -> Work:
        """All pieces as one."""
        return sum(pieces, cls())


@dataclass(frozen=True)
class BatchShape:
    """What a mini-batch's cost depends on.

    `num_tokens` are the tokens sent, padding included where it is sent; `num_pairs` the attended
    pairs, the sum over samples of length squared; `num_labels` the label values that ride along.
    """

    num_samples: int
    num_tokens: int
    num_pairs: int
    max_length: int
    num_labels: int

    @classmethod
    def uniform(cls, num_samples: int, length: int) -> Self:
        """The shape of a mini-batch of equally long samples, labelled one by one."""
        tokens = num_samples * length
        return cls(num_samples, tokens, tokens * length, length, num_samples)

    @classmethod
    def of_lengths(cls, lengths: Iterable[int], *, labels_per_token: bool = False) -> Self:
        """The shape of a mini-batch whose samples are sent with these lengths."""
        sent = list(lengths)
        tokens = sum(sent)
        return cls(
            num_samples=len(sent),
            num_tokens=tokens,
            num_pairs=sum(length * length for length in sent),
            max_length=max(sent),
            num_labels=tokens if labels_per_token else len(sent),
        )

    def pieces(self, number: int) -> list[Self]:
        """The mini-batch in so many pieces, the larger ones first, of a sample at least."""
        number = min(number, self.num_samples)
        counts = self.num_samples, self.num_tokens, self.num_pairs, self.num_labels
        dealt = zip(*(_dealt(count, number) for count in counts), strict=True)
        return [
            type(self)(samples, tokens, pairs, self.max_length, labels)
            for samples, tokens, pairs, labels in dealt
        ]


def _dealt(total: int, number: int) -> list[int]:
    each, rest = divmod(total, number)
    return [each + (i < rest) for i in range(number)]
