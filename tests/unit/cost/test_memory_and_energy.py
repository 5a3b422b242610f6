"""Memory and energy: parts, and what they follow."""

from __future__ import annotations

import pytest

from mobisim.cost.energy import device_energy
from mobisim.cost.memory import DeviceMemory, device_memory, server_memory
from mobisim.cost.system import System
from mobisim.cost.work import BatchShape
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


def test_energy_is_idle_plus_compute_plus_radio() -> None:
    """Each power counts for its own time."""
    group = load(
        "wifi_5mbps",
        [
            "devices[0].profile.idle_power=2 W",
            "devices[0].profile.load_power=12 W",
            "devices[0].link.radio={power_per_rate: 100 mW/(Mbit/s), base_power: 500 mW}",
        ],
    ).devices[0]
    energy = device_energy(group, makespan_s=100.0, busy_s=10.0, sending_s=20.0)
    assert energy is not None
    assert energy.idle == pytest.approx(200.0)
    assert energy.compute == pytest.approx(100.0)
    assert energy.radio == pytest.approx(20.0)  # 0.5 W + 5 Mbit/s x 0.1 W


def test_energy_is_unknown_without_powers() -> None:
    """A profile that states no power gives no energy."""
    fixed = "devices[0].profile={kind: fixed, forward_s: 1, encode_s: 0}"
    assert device_energy(load("wifi_5mbps", [fixed]).devices[0], 1.0, 1.0, 1.0) is None
