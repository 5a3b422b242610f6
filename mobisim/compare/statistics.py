"""Student's t: means over seeds with their intervals, and paired differences between methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from scipy.special import stdtrit

from mobisim.report.comparison import Interval

LEVEL = 0.95


def interval(values: Sequence[float]) -> Interval:
    """The mean of independent values and its two-sided Student t interval; one value has none."""
    mean = fmean(values)
    if len(values) < 2:  # noqa: PLR2004 - a spread needs two
        return Interval(mean, None, None, len(values))
    quantile = float(stdtrit(len(values) - 1, (1 + LEVEL) / 2))
    half = quantile * stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half, len(values))


def paired(values: Sequence[float], reference: Sequence[float]) -> Interval:
    """The interval of values less the reference of the same seed."""
    return interval([a - b for a, b in zip(values, reference, strict=True)])
