"""Which learning rate each method gets: the best in the mean of its seeds, by validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from mobisim.compare.question import LEARNING_RATE, METHOD, Question
from mobisim.report.sweep_table import Row
from mobisim.scenario.schema import LOWER_IS_BETTER


@dataclass(frozen=True)
class Choice:
    """The learning rate of a method, or why there is none.

    `at_edge` says that a rate beyond the grid might be better still.
    """

    learning_rate: float | None = None
    at_edge: bool = False
    error: str | None = None


def choose(question: Question, rows: Sequence[Row]) -> dict[str, Choice]:
    """The choice for each method, from the rows of its grid; of equals the first in the grid."""
    return {
        method: _choice(question.learning_rates, [r for r in rows if r[METHOD] == method])
        for method in question.methods
    }


def _choice(grid: Sequence[float], rows: Sequence[Row]) -> Choice:
    scores = {rate: _score([r for r in rows if r[LEARNING_RATE] == rate]) for rate in grid}
    known = {rate: score for rate, score in scores.items() if score is not None}
    if not known:
        errors = [row["error"] for row in rows if row["error"]]
        does_not_fit = any(row.get("ended_by") == "memory" for row in rows)
        if does_not_fit:  # which is an answer: its own row tells it
            return Choice(grid[0])
        return Choice(error=errors[0] if errors else "learning diverged at every learning rate")
    best = max(known, key=lambda rate: known[rate])
    return Choice(best, at_edge=len(grid) > 1 and best in (min(grid), max(grid)))


def _score(rows: Sequence[Row]) -> float | None:
    """The mean over seeds, the more the better; None where one seed came to nothing."""
    values = [row.get("validation_metric") for row in rows]
    known = [value for value in values if value is not None]
    if not rows or len(known) < len(values):
        return None
    sign = -1 if rows[0]["metric_name"] in LOWER_IS_BETTER else 1
    return sign * fmean(known)
