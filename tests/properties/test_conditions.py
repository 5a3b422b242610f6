"""Heat, low batteries and a shared machine: both engines agree, and nothing is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

import numpy as np
import pytest
import witness
from checks import checked
from worlds import (
    assert_alike,
    columns_of,
    failing,
    in_conditions,
    random_world,
    spans_of,
    without_horizon,
)  # fmt: skip

from mobisim.span import DEVICE, KINDS, PAUSE
from mobisim.world import Group, World

SWEEP = range(400)


def _world(seed: int) -> World:
    choose = Random(seed)
    return in_conditions(choose, random_world(choose, shared=False))


def _failing(seed: int) -> World:
    """The same where things fail, but for what shares a machine."""
    world = _world(seed)
    return world if world.contention is not None else failing(Random(seed), world)


@pytest.mark.parametrize("world_of", [_world, _failing])
def test_engines_agree_to_the_last_digits(world_of: Callable[[int], World]) -> None:
    """Newton here and bisection there, retiming here and foreseeing there: the same spans."""
    for seed in SWEEP:
        world = world_of(seed)
        assert_alike(spans_of(world), witness.simulate(world), f"seed {seed}")


def test_the_sweep_meets_what_it_is_for() -> None:
    """Pauses of both rules and of absences, warm devices and shared machines all occur in it."""
    seen: Counter[str] = Counter()
    for seed in SWEEP:
        world = _world(seed)
        seen["shared"] += world.contention is not None
        seen["warm"] += any(group.heat is not None for group in world.groups)
        for span in spans_of(world):
            if span.kind == PAUSE:
                group = world.groups[world.group_of[span.device]]
                seen[_why(group)] += 1
    assert all(seen[name] >= 10 for name in ("shared", "warm", "pause", "slow", "absent")), seen


def _why(group: Group) -> str:
    """What pauses its devices; an absence where that alone can."""
    if group.battery is None:
        assert group.absences is not None
        return "absent"
    return "pause" if group.battery.duty is None else "slow"


def test_invariants_and_blame_hold() -> None:
    """The numbered invariants hold, and the chain of causes fills the makespan."""
    for seed in SWEEP:
        checked(without_horizon(_world(seed)))


def test_a_device_at_rest_is_not_at_work() -> None:
    """Pauses overlap no forward and no encode of their device."""
    for seed in SWEEP:
        world = _world(seed)
        columns = columns_of(world)
        on_device = columns[world.actors.roles[columns.actor] == DEVICE]
        order = np.lexsort((on_device.start, on_device.actor))
        starts, ends = on_device.start[order], on_device.end[order]
        same = np.diff(on_device.actor[order]) == 0
        assert (starts[1:] >= ends[:-1])[same].all(), f"seed {seed}: {KINDS}"
