"""Compute models: what they add up to, and what they depend on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mobisim.cost.compute import BatchCost, batch_cost, roofline_s
from mobisim.cost.system import System
from mobisim.cost.work import BatchShape, Work
from mobisim.errors import InputError
from mobisim.scenario.load import load
from mobisim.scenario.profiles import Roofline
from mobisim.scenario.schema import Scenario

SHAPE = BatchShape.uniform(16, 64)


def _scenario(*overrides: str) -> Scenario:
    return load("wifi_5mbps", overrides)


def _cost(*overrides: str, shape: BatchShape = SHAPE) -> BatchCost:
    scenario = _scenario(*overrides)
    return batch_cost(System(scenario), scenario.devices[0], shape)


def _roofline() -> Roofline:
    profile = _scenario().devices[0].profile
    assert isinstance(profile, Roofline)
    return profile


def test_roofline_is_bound_by_the_slower_of_compute_and_memory() -> None:
    """Doubling the FLOPs of compute-bound work doubles its time; its bytes then cost nothing."""
    machine = _roofline()
    balance = machine.flop_per_s.value / machine.memory_bandwidth.value
    compute_bound = Work(flop=1e12, num_bytes=0.5e12 / balance)
    assert roofline_s(machine, compute_bound) == 1e12 / machine.flop_per_s.value
    memory_bound = Work(flop=1e12, num_bytes=2e12 / balance)
    assert roofline_s(machine, memory_bound) == pytest.approx(
        2 * roofline_s(machine, compute_bound)
    )


def test_operators_cost_their_overhead_on_top() -> None:
    """Launching is not hidden behind compute."""
    machine = _roofline()
    assert roofline_s(machine, Work(num_ops=7)) == pytest.approx(7 * machine.op_overhead.value)


def test_layers_add_up_to_the_whole_forward() -> None:
    """Layer granularity splits the forward and the encoding, it does not change their sums."""
    whole, split = _cost(), _cost("granularity=layer")
    assert len(split.forward_s) == len(split.payload_bytes) == 24
    assert sum(split.forward_s) == pytest.approx(whole.forward_s[0])
    assert sum(split.encode_s) == pytest.approx(whole.encode_s[0])
    assert sum(split.decode_s) == pytest.approx(whole.decode_s[0])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_was_kept_is_unpacked_as_what_comes(precision: str) -> None:
    """The side network reads fp32, whatever the server's precision; packing anew is besides."""
    options = ["method=pae-mobillm", f"server.profile.precision.value={precision}"]
    kept = _cost(*options, shape=replace(SHAPE, kept=SHAPE))
    fresh, repacked = _cost(*options), _cost(*options, "cache.codec=int8")
    assert kept.cached_s == fresh.decode_s[0] == _cost(options[0]).decode_s[0] > 0
    assert repacked.decode_s[0] > fresh.decode_s[0]


def test_layer_messages_repeat_only_their_header() -> None:
    """Twenty-four messages carry the bytes of one and twenty-three more headers."""
    whole, split = _cost(), _cost("granularity=layer")
    assert sum(split.payload_bytes) == whole.payload_bytes[0] + 23 * 32


def test_nothing_after_the_last_tap_is_computed() -> None:
    """A device whose last tap is block 12 of 24 runs half of the blocks."""
    half, whole = _cost("side_network.taps=[6, 12]"), _cost()
    assert half.forward_s[0] == pytest.approx(whole.forward_s[0] / 2, rel=0.01)


def test_fewer_taps_cost_fewer_bytes_in_proportion() -> None:
    """Payload follows the number of taps, labels and header apart."""
    two, whole = _cost("side_network.taps=[6, 12]"), _cost()
    overhead = 32 + 16 * (2 + 4)
    assert (two.payload_bytes[0] - overhead) * 12 == whole.payload_bytes[0] - overhead


def test_a_tap_beyond_the_model_is_refused() -> None:
    """OPT-350M has 24 blocks."""
    with pytest.raises(InputError, match="no layer 25"):
        _cost("side_network.taps=[25]")


def test_a_fixed_server_splits_its_step_without_loss() -> None:
    """Layer granularity spreads the stated forward share over the taps and keeps the sum."""
    server = "server.profile={kind: fixed, step_s: 0.6, forward_share: 0.25}"
    split = _cost(server, "granularity=layer")
    assert sum(split.side_forward_s) == pytest.approx(0.15)
    assert split.step_s == pytest.approx(0.45)
    assert _cost(server).step_s == pytest.approx(0.6)


def test_longer_sequences_cost_more_than_their_tokens() -> None:
    """At equal tokens, longer samples attend more pairs."""
    short, long = _cost(shape=BatchShape.uniform(32, 32)), _cost(shape=BatchShape.uniform(1, 1024))
    assert long.forward_s[0] > short.forward_s[0]


@pytest.mark.parametrize(("codec", "megabytes"), [("nf4", 14.16), ("fp32", 100.66), ("int2", 7.87)])
def test_payload_of_the_default_scenario(codec: str, megabytes: float) -> None:
    """OPT-350M at 16 x 64 tokens: 14 MB with four bits and fp32 block scales."""
    payload = _cost(f"wire.codec={codec}").payload_bytes[0]
    assert payload / 1e6 == pytest.approx(megabytes, abs=0.01)
