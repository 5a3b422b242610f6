from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics

from mobisim.training.evaluate import classification_metrics, f1, mcc, next_token_metrics
from mobisim.training.message import NO_LABEL


@pytest.mark.parametrize("seed", range(5))
def test_two_class_metrics_agree_with_scikit_learn(seed: int) -> None:
    """Accuracy, F1 and Matthews' correlation are the textbook ones."""
    source = torch.Generator().manual_seed(seed)
    logits = torch.randn(40, 2, generator=source)
    labels = torch.randint(0, 2, (40,), generator=source)
    predicted = logits.argmax(dim=1)
    ours = classification_metrics(logits, labels)
    assert ours["accuracy"] == sklearn_metrics.accuracy_score(labels, predicted)
    assert ours["f1"] == pytest.approx(sklearn_metrics.f1_score(labels, predicted))
    assert ours["mcc"] == pytest.approx(sklearn_metrics.matthews_corrcoef(labels, predicted))


def test_one_sided_predictions_give_zero_and_no_error() -> None:
    """A constant prediction has no correlation, and F1 of an absent class is 0."""
    zeros, ones = np.zeros(4, dtype=np.int64), np.ones(4, dtype=np.int64)
    assert (f1(zeros, zeros), mcc(zeros, zeros), mcc(ones, zeros)) == (0.0, 0.0, 0.0)


def test_more_classes_have_no_f1() -> None:
    """With three classes only accuracy and loss are given."""
    assert set(classification_metrics(torch.eye(3), torch.arange(3))) == {"accuracy", "loss"}


def test_perplexity_of_a_uniform_guess_is_the_vocabulary() -> None:
    """Equal logits over V words give perplexity V; unlabelled positions do not count."""
    labels = torch.tensor([1, 2, NO_LABEL])
    metrics = next_token_metrics([(torch.zeros(3, 7), labels), (torch.zeros(1, 7), labels[:1])])
    assert metrics["perplexity"] == pytest.approx(7)
    assert metrics["loss"] == pytest.approx(math.log(7))


def test_token_accuracy_counts_labelled_positions() -> None:
    """Two of three labelled positions hit, over two batches."""
    logits = torch.eye(3)
    batches = [(logits, torch.tensor([0, 1, NO_LABEL])), (logits[:1], torch.tensor([2]))]
    assert next_token_metrics(batches)["token_accuracy"] == pytest.approx(2 / 3)


def test_nothing_to_predict_is_not_a_number() -> None:
    """Samples of one token have no next token, and no metric is made up for them."""
    metrics = next_token_metrics([(torch.zeros(1, 3), torch.tensor([NO_LABEL]))])
    assert all(math.isnan(value) for value in metrics.values())
