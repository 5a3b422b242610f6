"""Pieces of work and shapes of mini-batches: what compute models turn into seconds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
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

    Attributes:
        num_tokens: the tokens that are computed, padding included where it is.
        num_pairs: the attended pairs, the sum over samples of length squared.
        num_labels: the label values that ride along.
        num_sent: the tokens whose activations go up; None for all that are computed.
        kept: the part of it that the server has kept from before.
    """

    num_samples: int
    num_tokens: int
    num_pairs: int
    max_length: int
    num_labels: int
    num_sent: int | None = None
    kept: BatchShape | None = None

    @classmethod
    def uniform(cls, num_samples: int, length: int) -> Self:
        """The shape of a mini-batch of equally long samples, labelled one by one."""
        return cls.of_lengths([length] * num_samples)

    @classmethod
    def of_lengths(
        cls, lengths: Iterable[int], *, sent: int | None = None, num_labels: int | None = None
    ) -> Self:
        """The shape of a mini-batch whose samples are computed with these lengths.

        Labels are one for each sample unless there are `num_labels`.
        """
        computed = list(lengths)
        tokens = sum(computed)
        return cls(
            num_samples=len(computed),
            num_tokens=tokens,
            num_pairs=sum(length * length for length in computed),
            max_length=max(computed),
            num_labels=len(computed) if num_labels is None else num_labels,
            num_sent=None if sent == tokens else sent,
        )

    @classmethod
    def total(cls, shapes: Iterable[Self]) -> Self:
        """One mini-batch of the samples of several, as they are sent."""
        parts = [shape.sent for shape in shapes]
        return cls(
            num_samples=sum(shape.num_samples for shape in parts),
            num_tokens=sum(shape.num_tokens for shape in parts),
            num_pairs=sum(shape.num_pairs for shape in parts),
            max_length=max(shape.max_length for shape in parts),
            num_labels=sum(shape.num_labels for shape in parts),
        )

    @property
    def sent(self) -> Self:
        """The same as the wire and the server see it: the tokens sent alone."""
        if self.num_sent is None and self.kept is None:
            return self
        return replace(self, num_tokens=self.tokens_sent, num_sent=None, kept=None)

    @property
    def fresh(self) -> Self | None:
        """What the server has not kept; None where it has all."""
        kept = self.kept
        if kept is None:
            return self
        if kept.num_samples == self.num_samples:
            return None
        return replace(
            self,
            num_samples=self.num_samples - kept.num_samples,
            num_tokens=self.num_tokens - kept.num_tokens,
            num_pairs=self.num_pairs - kept.num_pairs,
            num_labels=self.num_labels - kept.num_labels,
            num_sent=self.tokens_sent - kept.tokens_sent,
            kept=None,
        )

    @property
    def tokens_sent(self) -> int:
        """Tokens whose activations go up."""
        return self.num_tokens if self.num_sent is None else self.num_sent

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
