"""Additive side-tuning: what the labels leave of the device's own prediction is learned.

The device predicts classes from the frozen backbone's last activations, pooled as the head pools
them, by a linear head that it fitted itself or by the probabilities of stated words. The server
sees one-hot label minus prediction; prediction plus what it learned of that is the answer.

Axes: B samples, S samples of a split, D width, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mobisim.training.side_network import Pooling, Ragged, pool

FIT_SAMPLES = 256  # of the first epoch, in its order: forwarded anyway, and labelled on the device
FIT_ITERATIONS = 100
_DECAY = 0.1  # of the weights over standardised features, per sample
_LEAST = 1e-6  # of a probability that is a sum


class Features:
    """What predictions are made from: the pooled last activations of a split's samples."""

    def __init__(self, num_samples: int, width: int, pooling: Pooling) -> None:
        self.pooling = pooling
        self.values_SD = torch.zeros(num_samples, width)

    def take(self, samples: Tensor, lengths_B: Tensor, last_ND: Tensor) -> None:
        """Keep those of some samples, whose last activations lie end to end."""
        self.values_SD[samples] = pool(last_ND, Ragged.of(lengths_B), self.pooling)


class LinearGuess(nn.Module):
    """A linear head on the features."""

    def __init__(self, weight_CD: Tensor, bias_C: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight_CD", weight_CD)
        self.register_buffer("bias_C", bias_C)

    def forward(self, features_BD: Tensor) -> Tensor:
        """Class probabilities: [B, D] -> [B, C]."""
        logits = functional.linear(features_BD, self.weight_CD, self.bias_C)  # type: ignore[arg-type]
        return torch.softmax(logits, dim=1)


class WordGuess(nn.Module):
    """The probabilities of one word for each class, by the backbone's own next-token head."""

    def __init__(self, tail: nn.Module, words_C: list[int]) -> None:
        super().__init__()
        self.tail, self.words_C = tail, words_C

    def forward(self, features_BD: Tensor) -> Tensor:
        """Class probabilities: [B, D] -> [B, C]."""
        logits: Tensor = self.tail(features_BD)
        return torch.softmax(logits[:, self.words_C], dim=1)


def uniform(width: int, num_classes: int) -> LinearGuess:
    """Who knows nothing takes each class for as likely as the others."""
    return LinearGuess(torch.zeros(num_classes, width), torch.zeros(num_classes))


def fit(features_BD: Tensor, labels_B: Tensor, num_classes: int) -> LinearGuess:
    """Multinomial logistic regression on standardised features, with weight decay.

    It costs at most FIT_ITERATIONS passes of 4·B·D·C FLOPs each: far less than the backbone's
    forward of one sample.
    """
    if not len(features_BD):
        return uniform(features_BD.shape[1], num_classes)
    mean_D, scale_D = features_BD.mean(0), features_BD.std(0, correction=0).clamp(min=_LEAST)
    x_BD = ((features_BD - mean_D) / scale_D).double()
    weight_CD = torch.zeros(num_classes, x_BD.shape[1], dtype=torch.double, requires_grad=True)
    bias_C = torch.zeros(num_classes, dtype=torch.double, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight_CD, bias_C], max_iter=FIT_ITERATIONS, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        logits = functional.linear(x_BD, weight_CD, bias_C)
        loss = functional.cross_entropy(logits, labels_B) + _DECAY / 2 * weight_CD.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    solver.step(closure)  # type: ignore[no-untyped-call]
    folded_CD = weight_CD.detach() / scale_D
    return LinearGuess(folded_CD.float(), (bias_C.detach() - folded_CD @ mean_D.double()).float())


def residuals(guess_BC: Tensor, labels_B: Tensor) -> Tensor:
    """One-hot labels minus predictions: [B, C]; only a label's own entry is positive."""
    return functional.one_hot(labels_B, guess_BC.shape[1]) - guess_BC


def answer(guess_BC: Tensor, learned_BC: Tensor) -> Tensor:
    """Logarithms of the probabilities that prediction and learned residual add up to: [B, C]."""
    sum_BC = (guess_BC + learned_BC).clamp(min=_LEAST)
    return (sum_BC / sum_BC.sum(dim=1, keepdim=True)).log()
