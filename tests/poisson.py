"""Poisson sources, and means held against what queueing theory expects."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

CONFIDENCE = 0.99
AMPLE = {"run_ahead": 10**6}


def exponential(mean: float) -> dict[str, Any]:
    """A random duration."""
    return {"mean": f"{mean!r} s", "distribution": "exponential"}


def check_mean(found: list[float], expected: float) -> None:
    """The expected mean lies in the confidence interval of the replications, and that is narrow."""
    mean, error = np.mean(found), stats.sem(found)
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, len(found) - 1) * error
    assert abs(mean - expected) <= reach, (mean, expected, reach)
    assert reach < 0.12 * expected
