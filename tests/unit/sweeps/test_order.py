"""Which points learn the same, and what must be trained for all of them."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from mobisim.prepare import Options, prepare
from mobisim.scenario.load import load
from mobisim.scenario.schema import Scenario, Target
from mobisim.stopping import Stop
from mobisim.sweeps.order import Order, Trajectory, order_of, trajectories
from mobisim.workload import draw

GOAL, HIGHER = (
    Stop(Target(metric="accuracy", value=value), None, "accuracy") for value in (0.9, 0.95)
)
SCENARIO = load("wifi_5mbps")


def order(*batches: int, stop: Stop | None = None, deciding: str = "") -> Order:
    """An order of these mini-batches without staleness."""
    rows = [(0, batch, version) for version, batch in enumerate(batches)]
    return Order(deciding, np.array(rows, dtype=np.int64).reshape(-1, 3), stop)


def grouped(**orders: Order) -> list[Trajectory]:
    """The trajectories of named orders."""
    return trajectories({name: (SCENARIO, order) for name, order in orders.items()})


def members(**orders: Order) -> set[frozenset[str]]:
    """Who learns with whom."""
    return {frozenset(trajectory.members) for trajectory in grouped(**orders)}


def test_a_longer_order_holds_those_that_it_begins_with() -> None:
    """Also one without any step."""
    together = members(a=order(0, 1), b=order(0, 1, 2), c=order(0, 2), d=order())
    assert together == {frozenset({"a", "b", "d"}), frozenset({"c"})}


def test_other_learning_is_another_trajectory() -> None:
    """However equal the orders are."""
    assert len(members(a=order(0, 1), b=order(0, 1, deciding="other"))) == 2


def test_training_goes_on_until_every_member_has_ended() -> None:
    """At its length, or at the first evaluation that meets its target."""
    (both,) = grouped(a=order(0, 1, 2, 3, stop=HIGHER), b=order(0, 1))
    assert both.ends == {2, 4}
    assert not both.suffices([0.99])
    assert both.suffices([math.nan, 0.96])
    assert not both.suffices([math.nan, 0.94])
    assert both.suffices([math.nan] * 4)


def test_the_digest_tells_how_far_training_goes() -> None:
    """One trained for a lower target may be too short for a higher one."""
    low, high = order(0, 1, 2, stop=GOAL), order(0, 1, 2, stop=HIGHER)
    digests = {
        grouped(a=low)[0].digest,
        grouped(a=high)[0].digest,
        grouped(a=low, b=high)[0].digest,
    }
    assert len(digests) == 3


_drawn = cache(draw)


def _order(*overrides: str) -> Order:
    small = ("training.num_samples=32", "training.epochs=1")
    scenario: Scenario = load("wifi_5mbps", [*small, *overrides])
    assert scenario.training is not None
    return order_of(prepare(scenario, Options(), _drawn(scenario.training, scenario.seed)))


def test_what_is_only_about_time_does_not_decide_learning() -> None:
    """Link, device, granularity, padding and target: the order says what learning sees of them."""
    base = _order()
    for override in (
        "devices[0].link=lte",
        "devices[0].profile=pixel-8",
        "devices[0].run_ahead=1",
        "granularity=layer",
        "training.padding=none",
        "training.target.value=0.7",
        "model=opt-125m",
        "deliver=none",
        "name=other",
    ):
        assert base.begins(_order(override)), override


def test_everything_else_does() -> None:
    """Codec, side network, seed, data and optimiser, and the metric that is evaluated."""
    base = _order()
    for override in (
        "wire.codec=int8",
        "wire.block_size=32",
        "side_network.bottleneck=32",
        "side_network.taps=[12, 24]",
        "seed=1",
        "training.num_samples=31",
        "training.optimizer.lr=0.01",
        "training.evaluate_every=1",
        "training.target.metric=f1",
        "devices[0].backbone=builtin:2",
    ):
        assert not base.begins(_order(override)), override


def test_taps_in_a_list_go_with_the_depth_of_the_timed_model() -> None:
    """They are mapped to the same relative depth of the trained one."""
    taps = "side_network.taps=[6, 12]"
    assert not _order(taps).begins(_order(taps, "model=opt-125m"))


def test_stale_reads_are_another_order() -> None:
    """Two slow workers overlap."""
    slow = ("server.profile={kind: fixed, step_s: 60}", "server.workers=2")
    assert _order(*slow).deciding == _order().deciding
    assert not _order(*slow).begins(_order())


def test_a_horizon_cuts_an_order() -> None:
    """Which then begins the whole one."""
    whole = _order()
    cut = _order("horizon=40 s")
    assert (len(cut.steps), len(whole.steps)) == (1, 2)
    assert cut.begins(whole)
    assert not whole.begins(cut)


def test_the_most_work_is_begun_first() -> None:
    """Else two workers end far apart: FwdLLM takes nine forwards where LoRA takes three."""
    orders = {
        name: (SCENARIO, _order(f"method={name}"))
        for name in ("mobillm", "lora", "fwdllm", "lst", "full")
    }
    found = [trajectory.members[0] for trajectory in trajectories(orders)]
    assert found == ["fwdllm", "full", "lora", "lst", "mobillm"]


def test_methods_that_learn_the_same_share_an_order() -> None:
    """Where LoRA is trained is a matter of time; through a cut it learns from rounded gradients."""
    assert _order("method=lora").begins(_order("method=server-only"))
    assert not _order("method=lora").begins(_order("method=split-lora"))
    assert not _order("method=mobillm").begins(_order("method=pae-mobillm"))
