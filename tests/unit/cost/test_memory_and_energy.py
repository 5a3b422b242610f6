"""Memory and energy: parts, and what they follow."""

from __future__ import annotations

from dataclasses import astuple

import pytest

from mobisim.cost.energy import battery_of, power_of
from mobisim.cost.memory import DeviceMemory, device_memory, server_memory
from mobisim.cost.system import System
from mobisim.cost.work import BatchShape
from mobisim.errors import InputError
from mobisim.scenario.load import load

SHAPE = BatchShape.uniform(16, 64)
OPT_350M = 331_196_416


def _device(*overrides: str, shape: BatchShape | None = SHAPE) -> DeviceMemory | None:
    scenario = load("wifi_5mbps", overrides)
    return device_memory(System(scenario), scenario.devices[0], shape, 100, 300)


def _known(*overrides: str, shape: BatchShape = SHAPE) -> DeviceMemory:
    memory = _device(*overrides, shape=shape)
    assert memory is not None
    return memory


@pytest.mark.parametrize(("precision", "num_bytes"), [("fp32", 4), ("fp16", 2), ("int8", 1)])
def test_weights_follow_the_profiles_precision(precision: str, num_bytes: int) -> None:
    """Every parameter of the headless backbone, at the precision of the profile."""
    assert _known(f"devices[0].profile.precision={precision}").weights == num_bytes * OPT_350M


def test_layer_granularity_holds_one_tap_at_a_time() -> None:
    """Twenty-four taps are held with batch granularity, one with layer granularity."""
    assert _known().taps == 24 * _known("granularity=layer").taps


def test_peak_is_the_sum_of_its_parts() -> None:
    """Queue and message under construction are part of it."""
    memory = _known()
    assert memory.queue == 300
    assert memory.encode == 100
    rest = memory.weights + memory.transient + memory.taps + memory.runtime
    assert memory.peak == rest + 400


def test_memory_is_unknown_without_a_shape() -> None:
    """No shape, no figure: never a guess."""
    assert _device(shape=None) is None


def test_activations_grow_with_tokens_and_weights_do_not() -> None:
    """Twice the samples: twice the taps, the same weights."""
    double = _known(shape=BatchShape.uniform(32, 64))
    assert double.taps == 2 * _known().taps
    assert double.weights == _known().weights


def test_each_worker_keeps_a_step_of_its_own() -> None:
    """Stored activations count per worker, parameters once."""
    one = server_memory(System(load("wifi_5mbps")), SHAPE, 0)
    two = server_memory(System(load("wifi_5mbps", ["server.workers=2"])), SHAPE, 0)
    assert one is not None
    assert two is not None
    assert two.stored == 2 * one.stored
    assert two.state == one.state


def test_power_is_that_of_device_and_radio() -> None:
    """Power states come from the profile, the radio's from the link."""
    stated = [
        "devices[0].profile.idle_power=2 W",
        "devices[0].profile.load_power=12 W",
        "devices[0].profile.battery=18 Wh",
        "devices[0].link.radio={power_per_rate: 100 mW/(Mbit/s), base_power: 500 mW}",
    ]
    power = power_of(load("wifi_5mbps", stated).devices[0])
    assert power is not None
    assert (power.idle_w, power.load_w, power.battery_j) == (2.0, 12.0, 64_800.0)
    # A second at 5 Mbit/s: 0.5 W and 5 x 0.1 W.
    assert power.transfer_j(1.0, 625_000) == pytest.approx(1.0)


def test_power_is_unknown_where_not_stated() -> None:
    """A profile that states no power gives no energy."""
    fixed = "devices[0].profile={kind: fixed, forward_s: 1, encode_s: 0}"
    assert power_of(load("wifi_5mbps", [fixed]).devices[0]) is None


PAUSES = "{charge: 0.5, charger: 10 W, when_low: {below: 0.2, rule: pause, resume: 0.3}}"


def test_a_battery_counts_where_a_low_one_matters() -> None:
    """Shares become joules; a battery without a rule changes nothing."""
    capacity = "devices[0].profile.battery=1 Wh"
    ruled = battery_of(load("wifi_5mbps", [capacity, f"devices[0].battery={PAUSES}"]).devices[0])
    assert ruled is not None
    expected = (3600.0, 1800.0, 10.0, 720.0, 1080.0)
    assert astuple(ruled)[:5] == pytest.approx(expected)
    assert battery_of(load("wifi_5mbps", [capacity, "devices[0].battery={}"]).devices[0]) is None


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([f"devices[0].battery={PAUSES}"], "must state battery"),
        (["devices[0].battery={when_low: {below: 0.2, rule: pause}}"], "rule: pause needs it"),
        (["devices[0].battery={when_low: {below: 0.2, rule: slow}}"], "rule: slow needs it"),
        (
            ["devices[0].battery={when_low: {below: 0.2, rule: slow, duty: 0.5, resume: 0.3}}"],
            "goes with the other rule",
        ),
        (
            ["devices[0].battery={when_low: {below: 0.5, rule: pause, resume: 0.4}}"],
            "above `below`",
        ),
        (
            [
                "devices[0].profile.battery=1 Wh",
                f"devices[0].battery={PAUSES}",
                "devices[0].battery.charger=1 W",
            ],
            "would never go on",
        ),
        (["devices[0].profile.idle_power=20 W"], "at least idle_power"),
        (["server.profile.battery=1 Wh"], "devices only"),
        (["server.profile.heat={sustained_clock: 0.5, time_constant: 1 min}"], "devices only"),
        (
            ["devices[0].profile.heat={sustained_clock: 0, time_constant: 1 min}"],
            "a number above 0",
        ),
        (["devices[0].profile.heat={sustained_clock: 0.5, time_constant: 60}"], "unit is missing"),
        (["server.colocated=true"], "mobisim profile --contention"),
        (["server.colocated=true", "devices[0].count=2"], "one device and one worker"),
    ],
)
def test_what_makes_no_sense_is_refused(overrides: list[str], words: str) -> None:
    """Each with its place and what to do."""
    with pytest.raises(InputError) as raised:
        load("wifi_5mbps", overrides)
    assert words in str(raised.value)
