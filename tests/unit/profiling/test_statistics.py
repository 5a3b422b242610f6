"""Order statistics: the interval of a median, without assumptions."""

from __future__ import annotations

import math
import random

from mobisim.profiling.statistics import median_interval, quantile, relative_width


def test_few_samples_say_nothing_of_their_median() -> None:
    """Below six samples no pair of them encloses the median with 95 %."""
    assert median_interval([1.0] * 5) == (0.0, math.inf)
    assert relative_width([1.0] * 5) == math.inf


def test_equal_samples_leave_no_doubt() -> None:
    """The interval of six equal samples is a point."""
    assert median_interval([2.0] * 6) == (2.0, 2.0)
    assert relative_width([2.0] * 6) == 0.0


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    """Of skewed samples: in about 95 of 100 trials, and seldom much more."""
    draw = random.Random(0)
    held = 0
    for _ in range(1000):
        low, high = median_interval([draw.expovariate(1.0) for _ in range(25)])
        held += low <= math.log(2) <= high
    assert 930 <= held <= 985


def test_more_samples_make_it_narrower() -> None:
    """The width shrinks with the root of their number."""
    draw = random.Random(1)
    samples = [draw.lognormvariate(0.0, 0.2) for _ in range(4000)]
    assert relative_width(samples[:40]) > 4 * relative_width(samples)


def test_quantiles_lie_between_neighbours() -> None:
    """Linear between the two nearest samples."""
    assert quantile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.5
    assert quantile([0.0, 10.0], 0.1) == 1.0
