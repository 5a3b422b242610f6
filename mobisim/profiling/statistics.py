"""Medians, percentiles, and how sure a median is, from order statistics alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

SIGMAS = 1.96  # of a 95 % interval
LEAST = 6  # samples below which no 95 % interval of a median exists


def quantile(samples: Sequence[float], share: float) -> float:
    """The quantile of samples, linear between neighbours."""
    return float(np.quantile(samples, share))


def median_interval(samples: Sequence[float]) -> tuple[float, float]:
    """A 95 % confidence interval of the median: two samples whose ranks the binomial law gives.

    Nothing is assumed of the distribution. Fewer than six samples have no such interval: infinite.
    """
    count = len(samples)
    if count < LEAST:
        return 0.0, math.inf
    ordered = sorted(samples)
    half = SIGMAS * math.sqrt(count) / 2
    low = max(0, math.floor(count / 2 - half))
    high = min(count - 1, math.ceil(count / 2 + half) - 1)
    return ordered[low], ordered[high]


def relative_width(samples: Sequence[float]) -> float:
    """The width of the median's interval as a share of the median."""
    low, high = median_interval(samples)
    return (high - low) / quantile(samples, 0.5) if math.isfinite(high) else math.inf
