"""Metrics of predictions against labels.

Axes: B samples, N positions with a next token, C classes, V words.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mobisim.training.message import NO_LABEL

CLASSIFICATION_METRICS = ("accuracy", "loss", "f1", "mcc")
NEXT_TOKEN_METRICS = ("perplexity", "loss", "token_accuracy")
LOWER_IS_BETTER = frozenset({"loss", "perplexity"})

_TWO = 2


def classification_metrics(logits_BC: Tensor, labels_B: Tensor) -> dict[str, float]:
    """Accuracy and loss; for two classes also F1 of class 1 and Matthews' correlation."""
    predicted = logits_BC.argmax(dim=1).numpy()
    truth = labels_B.numpy()
    metrics = {
        "accuracy": float(np.mean(predicted == truth)),
        "loss": float(functional.cross_entropy(logits_BC.double(), labels_B)),
    }
    if logits_BC.shape[1] == _TWO:
        metrics |= {"f1": f1(predicted, truth), "mcc": mcc(predicted, truth)}
    return metrics


def f1(predicted: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """F1 of class 1; 0 where it is neither predicted nor true."""
    hits = int(np.sum((predicted == 1) & (truth == 1)))
    total = int(np.sum(predicted == 1) + np.sum(truth == 1))
    return 2 * hits / total if total else 0.0


def mcc(predicted: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Matthews' correlation of two classes; 0 where either side has one class only."""
    pairs = [(p, t) for p in (0, 1) for t in (0, 1)]
    tn, fn, fp, tp = (int(np.sum((predicted == p) & (truth == t))) for p, t in pairs)
    scale = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return (tp * tn - fp * fn) / scale if scale else 0.0


def next_token_metrics(batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Perplexity, loss and accuracy over all labelled positions of the batches.

    Shapes: pairs of logits [N, V] and labels [N].
    """
    loss, hits, count = 0.0, 0, 0
    for logits_NV, labels_N in batches:
        known = labels_N != NO_LABEL
        total = functional.cross_entropy(logits_NV[known], labels_N[known], reduction="sum")
        loss += float(total)
        hits += int(torch.sum(logits_NV[known].argmax(dim=1) == labels_N[known]))
        count += int(known.sum())
    if not count:
        return {"perplexity": math.nan, "loss": math.nan, "token_accuracy": math.nan}
    mean = loss / count
    return {"perplexity": math.exp(min(mean, 700)), "loss": mean, "token_accuracy": hits / count}
