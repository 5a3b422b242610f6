"""Intervals of means and of paired differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mobisim.compare.statistics import interval, paired


def test_interval_of_two_values_by_the_table() -> None:
    """One degree of freedom: t is 12.706, so that half the width is 12.706 · s ÷ √2."""
    found = interval([0.0, 1.0])
    assert found.mean == 0.5
    assert found.high == pytest.approx(0.5 + 12.7062 * math.sqrt(0.5) / math.sqrt(2), rel=1e-5)
    assert found.low == pytest.approx(1 - (found.high or 0), rel=1e-12)


def test_paired_interval_is_that_of_the_paired_t_test() -> None:
    """A second witness: scipy's test of related samples."""
    random = np.random.default_rng(0)
    ours, theirs = random.normal(0.9, 0.02, (2, 6))
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    found = paired(ours.tolist(), theirs.tolist())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_pairing_takes_out_what_seeds_share() -> None:
    """Two methods that differ by the same on every seed differ by that for certain."""
    shared = [0.5, 0.7, 0.9]
    found = paired([value + 0.25 for value in shared], shared)
    assert found.low == pytest.approx(0.25)
    assert found.high == pytest.approx(0.25)


def test_one_seed_has_no_interval() -> None:
    """A spread cannot be told from one value."""
    found = interval([0.9])
    assert (found.mean, found.low, found.high, found.count) == (0.9, None, None, 1)
