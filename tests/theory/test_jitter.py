"""Measured jitter: drawn factors have the quantiles that were measured, and medians stay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from bundles import write_bundle
from worlds import columns_of, device, stated, world_of

from mobisim.errors import InputError
from mobisim.prepare import Options, prepare
from mobisim.scenario.load import load
from mobisim.scenario.profiles import Spread
from mobisim.span import KIND_CODE
from mobisim.streams import TENTH, factor_stream
from mobisim.world import World

SPREAD = Spread(p10=0.8, p90=1.5, repeats=100)
DRAWS = 40_000


def test_the_tenth_is_the_normal_laws() -> None:
    """Nine tenths of a normal law lie below this many deviations."""
    assert pytest.approx(NormalDist().inv_cdf(0.9), abs=1e-15) == TENTH


def test_factors_have_the_measured_quantiles() -> None:
    """Tenth percentile, median and ninetieth, and log-normal tails on both sides."""
    draw = factor_stream(7, "device-0/forward", SPREAD)
    assert draw is not None
    found = np.quantile([draw() for _ in range(DRAWS)], [0.01, 0.1, 0.5, 0.9, 0.99])
    tail = NormalDist().inv_cdf(0.99) / TENTH
    expected = [0.8**tail, 0.8, 1.0, 1.5, 1.5**tail]
    assert found == pytest.approx(expected, rel=0.02)


def test_forwards_on_the_timeline_spread_as_measured() -> None:
    """Each mini-batch's forward is its median times a factor of its own."""
    world = world_of(stated(DRAWS // 2, device(2.0) | {"run_ahead": DRAWS}, step_s=0.1))
    (group,) = world.groups
    world = replace(world, groups=(replace(group, forward_distribution=SPREAD),))
    columns = columns_of(world)
    forward = columns.kind == KIND_CODE["forward"]
    seconds = (columns.end - columns.start)[forward]
    assert np.quantile(seconds, [0.1, 0.5, 0.9]) == pytest.approx([1.6, 2.0, 3.0], rel=0.02)


SPREADS = (
    "spread: {forward: {p10: 0.9, p90: 1.3, repeats: 30}, %s"
    "step: {p10: 0.9, p90: 1.2, repeats: 30}}\n"
)
ENCODE = "encode: {p10: 0.9, p90: 1.1, repeats: 30},"


def world(tmp_path: Path, spreads: str, *overrides: str) -> World:
    """OPT-125M on a measured machine that tells these spreads."""
    path = write_bundle(tmp_path)
    path.write_text(path.read_text("utf-8") + spreads, encoding="utf-8")
    shape = ("training=null", "num_batches=3", "batch_size=4", "sequence_length=64")
    profiles = (f"devices[0].profile={path}", f"server.profile={path}")
    asked = load("wifi_5mbps", ("model=opt-125m", *shape, *profiles, *overrides))
    return prepare(asked, Options()).world


def test_a_scenario_asks_for_jitter(tmp_path: Path) -> None:
    """Without the key nothing varies; with it, forward, encode and step do as was measured."""
    calm = world(tmp_path, SPREADS % ENCODE)
    assert calm.groups[0].forward_distribution == calm.step_distribution == "constant"
    found = world(tmp_path, SPREADS % ENCODE, "jitter=measured")
    (group,) = found.groups
    assert group.forward_distribution == Spread(p10=0.9, p90=1.3, repeats=30)
    assert group.encode_distribution == Spread(p10=0.9, p90=1.1, repeats=30)
    assert found.step_distribution == Spread(p10=0.9, p90=1.2, repeats=30)
    assert group.batches == calm.groups[0].batches


def test_jitter_that_nobody_measured_is_refused(tmp_path: Path) -> None:
    """The message names profile and kind of work, and what to do."""
    with pytest.raises(InputError) as caught:
        world(tmp_path, SPREADS % "", "jitter=measured")
    words = str(caught.value)
    assert "jitter" in words
    assert "devices[0].profile has no measured spread of encode" in words
    assert "mobisim profile" in words
    with pytest.raises(InputError, match="no measured spread of forward and encode"):
        load("wifi_5mbps", ("jitter=measured",))
