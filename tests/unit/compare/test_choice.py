"""Which learning rate a method gets."""

from __future__ import annotations

from typing import Any

import pytest

import mobisim
from mobisim.compare.choice import Choice, choose
from mobisim.compare.question import LEARNING_RATE, METHOD, Question, ask
from mobisim.errors import InputError
from mobisim.scenario import catalog

GRID = (1e-2, 1e-3, 1e-4)


def question(**more: Any) -> Question:
    return ask(
        catalog.scenario("wifi_5mbps"),
        mobisim.Options(),
        methods=["mobillm"],
        learning_rates=GRID,
        **more,
    )


def rows(scores: dict[float, list[float | None]], metric: str = "accuracy") -> list[dict[str, Any]]:
    return [
        {
            METHOD: "mobillm", LEARNING_RATE: rate, "validation_metric": score, "error": None,
            "metric_name": metric, "ended_by": "finished",
        }
        for rate, found in scores.items()
        for score in found
    ]  # fmt: skip


def chosen(scores: dict[float, list[float | None]], metric: str = "accuracy") -> Choice:
    return choose(question(), rows(scores, metric))["mobillm"]


def test_the_best_mean_over_seeds_wins() -> None:
    """One lucky seed is not enough."""
    found = chosen({1e-2: [0.99, 0.5], 1e-3: [0.9, 0.9], 1e-4: [0.8, 0.8]})
    assert (found.learning_rate, found.at_edge) == (1e-3, False)


def test_less_loss_is_better() -> None:
    """The least, where the metric is to be small; at the edge of the grid that is said."""
    found = chosen({1e-2: [0.9], 1e-3: [0.7], 1e-4: [0.5]}, "loss")
    assert (found.learning_rate, found.at_edge) == (1e-4, True)


def test_of_equals_the_first_is_taken() -> None:
    """The choice follows from the command alone."""
    assert chosen({1e-2: [0.5], 1e-3: [0.9], 1e-4: [0.9]}).learning_rate == 1e-3


def test_a_rate_that_diverges_with_one_seed_is_out() -> None:
    """However good it is with the others."""
    assert chosen({1e-2: [1.0, None], 1e-3: [0.6, 0.6], 1e-4: [0.5, 0.5]}).learning_rate == 1e-3
    found = chosen({1e-2: [None], 1e-3: [None], 1e-4: [None]})
    assert found.learning_rate is None
    assert found.error == "learning diverged at every learning rate"


def test_comparisons_are_made_fair() -> None:
    """No end before the last sample, no stop at the target, and a validation split."""
    scenario = question(overrides=["training.stop_at_target=true", "training.patience=2"]).scenario
    assert scenario.training is not None
    assert scenario.horizon is None
    assert scenario.training.stop_at_target is False
    assert scenario.training.patience is None
    assert scenario.training.validation == 0.1


def test_a_validation_share_may_be_stated() -> None:
    """The scenario's own counts."""
    scenario = question(overrides=["training.validation=0.25"]).scenario
    assert scenario.training is not None
    assert scenario.training.validation == 0.25


@pytest.mark.parametrize(
    ("methods", "words"), [(["lorra"], "did you mean 'lora'"), (["lora", "lora"], "named twice")]
)
def test_methods_are_checked(methods: list[str], words: str) -> None:
    """A slip of the pen is told before any work."""
    with pytest.raises(InputError, match=words):
        ask(catalog.scenario("wifi_5mbps"), mobisim.Options(), methods=methods)
