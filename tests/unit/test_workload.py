"""Workloads: tokens really sent, under each padding."""

from __future__ import annotations

import numpy as np
import pytest

from mobisim.errors import InputError
from mobisim.scenario.load import load
from mobisim.workload import Planned, metric_name, plan


def _planned(*overrides: str) -> Planned:
    return plan(load("wifi_5mbps", ["training.num_samples=100", *overrides]))


def _tokens(planned: Planned) -> int:
    order = planned.workload.order
    assert order is not None
    shapes = [planned.workload.shapes[i] for i in order]
    return sum(shape.num_tokens for shape in shapes if shape is not None)


def _real_tokens(planned: Planned) -> int:
    assert planned.data is not None
    return int(planned.data.train.lengths.sum()) * 3


def test_fixed_padding_sends_every_sample_at_full_length() -> None:
    """100 samples of 64 tokens in each of three epochs."""
    assert _tokens(_planned()) == 3 * 100 * 64


def test_no_padding_sends_the_real_tokens_only() -> None:
    """What is sent is what the samples have."""
    planned = _planned("training.padding=none")
    assert _tokens(planned) == _real_tokens(planned)
    assert planned.padding_fraction == 0.0


def test_longest_padding_lies_between() -> None:
    """Padding to the longest of each mini-batch sends less than fixed and more than none."""
    longest = _tokens(_planned("training.padding=longest"))
    assert _tokens(_planned("training.padding=none")) < longest < _tokens(_planned())


def test_padding_fraction_is_what_is_not_real() -> None:
    """Of the tokens sent, those that are no words."""
    planned = _planned()
    assert planned.padding_fraction == pytest.approx(1 - _real_tokens(planned) / _tokens(planned))


def test_the_last_mini_batch_of_an_epoch_may_be_short() -> None:
    """100 samples are six mini-batches of 16 and one of 4, three times."""
    assert _planned().num_samples.tolist() == [16, 16, 16, 16, 16, 16, 4] * 3


@pytest.mark.parametrize(("pooling", "sent"), [("first", 10), ("mean", 5120), ("null", 5120)])
def test_without_training_the_pooling_says_which_tokens_go_up(pooling: str, sent: int) -> None:
    """One for each of 10 samples, or all of 512; an encoder's head reads all unless stated."""
    planned = plan(load("papers/fed_roberta", [f"pooling={pooling}"]))
    shape = planned.workload.shapes[0]
    assert shape is not None
    assert shape.tokens_sent == sent


def test_pooling_is_stated_once() -> None:
    """Where something is trained, training states it."""
    with pytest.raises(InputError, match="training states its own"):
        load("wifi_5mbps", ["pooling=first"])


def test_an_epoch_visits_each_sample_once() -> None:
    """Every epoch is a permutation of the samples, and no two are the same."""
    planned = _planned()
    epochs = [np.concatenate(planned.samples[7 * i : 7 * i + 7]) for i in range(3)]
    assert all(sorted(epoch) == list(range(100)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])


def test_next_token_heads_send_a_label_per_token() -> None:
    """Labels follow the tokens sent."""
    shape = _planned("training.head=next_token", "training.target=null").workload.shapes[0]
    assert shape is not None
    assert shape.num_labels == shape.num_tokens


def test_timing_only_needs_no_data() -> None:
    """A stated shape repeats for all mini-batches."""
    planned = plan(load("shared_server"))
    assert planned.data is None
    assert planned.workload.num_batches == 100
    assert planned.workload.order is None


def test_a_metric_that_the_head_lacks_is_refused() -> None:
    """A next-token head has no F1."""
    training = load("wifi_5mbps", ["training.target.metric=perplexity"]).training
    assert training is not None
    with pytest.raises(InputError, match="no perplexity"):
        metric_name(training)
