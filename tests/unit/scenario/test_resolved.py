"""Options of methods: what a scenario leaves to its method, and what cannot be."""

from __future__ import annotations

from typing import get_args

import pytest

from mobisim.errors import InputError
from mobisim.scenario.load import load
from mobisim.scenario.methods import METHODS
from mobisim.scenario.resolved import check_options, options_of
from mobisim.scenario.schema import Method


def test_every_described_method_may_be_named() -> None:
    """And no other."""
    assert set(get_args(Method)) == set(METHODS)


def test_what_is_left_open_follows_the_method() -> None:
    """PAE caches all, sends the loss's tokens and learns residuals; MobiLLM does none of it."""
    plain, pae = (
        options_of(load("wifi_5mbps", [f"method={m}"])) for m in ("mobillm", "pae-mobillm")
    )
    assert (plain.caches, plain.tokens, plain.learns, plain.prediction) == (
        False, "all", "labels", None,
    )  # fmt: skip
    assert (pae.cache_bytes, pae.tokens, pae.learns, pae.prediction) == (
        None, "loss", "residuals", "head",
    )  # fmt: skip
    assert pae.cache_codec == "nf4"


def test_what_is_stated_wins() -> None:
    """Either method may have the other's ways."""
    found = options_of(load("wifi_5mbps", ["cache.capacity=10 MB", "cache.codec=fp16"]))
    assert (found.cache_bytes, found.cache_codec) == (10_000_000, "fp16")
    stated = ["method=pae-mobillm", "cache.capacity=0", "side_network.learns=labels"]
    other = options_of(load("wifi_5mbps", stated))
    assert not other.caches
    assert (other.learns, other.prediction) == ("labels", None)


def test_options_of_other_methods_do_nothing() -> None:
    """So that one scenario can be compared by its method alone."""
    stated = ["method=lora", "cache.capacity=all", "wire.tokens=loss"]
    found = options_of(load("wifi_5mbps", stated))
    assert not found.caches
    assert found.tokens == "all"


@pytest.mark.parametrize(
    ("stated", "where"),
    [
        (["side_network.learns=residuals"], "side_network.prediction"),
        (["method=pae-mobillm", "training.head=next_token"], "side_network.learns"),
    ],
)
def test_contradictions_are_refused(stated: list[str], where: str) -> None:
    """The message names the option."""
    with pytest.raises(InputError) as refused:
        check_options(load("wifi_5mbps", stated))
    assert refused.value.where == where


@pytest.mark.parametrize("keep", ["{score: norm}", "{score: norm, tokens: 0}", "{tokens: 0.5}"])
def test_a_filter_states_its_score_and_budget(keep: str) -> None:
    """One that leaves nothing out is none."""
    with pytest.raises(InputError, match="keep"):
        load("wifi_5mbps", [f"wire.keep={keep}"])
