"""Which tokens go up: counts follow from lengths, choices from scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mobisim.training.backbone import Backbone
from mobisim.training.data import TaskData
from mobisim.training.selection import (
    Selection,
    influences,
    most_influential,
    strongest_taps,
)

LENGTHS = np.array([4, 1, 3])
SCORES = torch.tensor([5.0, 1, 2, 3, 7, 1, 9, 4])


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, [0, 1, 2, 3, 4, 5, 6, 7]),
        ({"tokens": "loss", "pooling": "mean"}, [0, 1, 2, 3, 4, 5, 6, 7]),
        ({"tokens": "loss", "pooling": "first"}, [0, 4, 5]),
        ({"tokens": "loss", "pooling": "last"}, [3, 4, 7]),
        ({"tokens": "loss", "head": "next_token"}, [0, 1, 2, 4, 5, 6]),
        ({"share": 0.5, "pooling": "mean"}, [0, 3, 4, 6, 7]),
        ({"share": 0.5, "pooling": "last"}, [0, 3, 4, 6, 7]),
        ({"share": 0.3, "pooling": "last"}, [0, 3, 4, 7]),
        ({"share": 0.3, "pooling": "first"}, [0, 3, 4, 5]),
        ({"share": 0.3, "tokens": "loss", "pooling": "first"}, [0, 4, 5]),
        ({"share": 0.5, "tokens": "loss", "head": "next_token"}, [0, 2, 4, 6]),
    ],
)
def test_the_best_of_what_enters_the_loss(rule: dict[str, Any], expected: list[int]) -> None:
    """Among them always what the head reads; rounded up, so that each sample sends something."""
    selection = Selection(**rule)
    assert selection.rows(LENGTHS, SCORES).tolist() == expected
    assert int(selection.counts(LENGTHS).sum()) == len(expected)
    assert selection.takes_all == (len(expected) == 8)
    if not selection.scores:
        assert selection.rows(LENGTHS).tolist() == expected


def test_taps_of_the_greatest_norm_are_kept(backbone: Backbone, task: TaskData) -> None:
    """In ascending order, by the mean norm of a token's activations."""
    ids = task.train.tokens[:8]
    norms = [float(tap.norm(dim=1).mean()) for tap in backbone.taps(ids, (1, 2, 3))]
    best = sorted(np.argsort(norms)[-2:] + 1)
    assert strongest_taps(backbone, ids, (1, 2, 3), 2) == tuple(best)


def test_the_layer_that_changes_most_is_tapped(backbone: Backbone, task: TaskData) -> None:
    """Of each block, by the hidden states that transformers itself reports."""
    ids = list(task.train.tokens[:5])
    states: list[list[torch.Tensor]] = []
    for tokens in ids:
        with torch.no_grad():
            one = backbone.base(torch.from_numpy(tokens).long()[None], output_hidden_states=True)
        own = torch.cat([*one.hidden_states[:-1]])  # the last one comes after the final norm
        states.append(list(own))
    expected = [
        1 - float(torch.cat([torch.cosine_similarity(s[i], s[i + 1]) for s in states]).mean())
        for i in (0, 1)
    ]
    found = influences(backbone, ids)
    assert found[:2] == pytest.approx(expected, abs=1e-5)
    best = 1 + int(np.argmax(found[:2]))
    assert most_influential(backbone, ids, [(1, 2), (3, 3)]) == (best, 3)
