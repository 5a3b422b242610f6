"""Rooflines fitted to published prefill rates."""

from __future__ import annotations

from typing import Any

import pytest

from mobisim.cost.calibration import calibrate, prefill_s
from mobisim.errors import InputError
from mobisim.scenario import catalog
from mobisim.scenario.load import validate_profile
from mobisim.scenario.profiles import DeviceProfile, Roofline

PLAIN: dict[str, Any] = {
    "kind": "roofline",
    "name": "plain",
    "precision": "fp16",
    "flop_per_s": "1 Tflop/s",
    "memory_bandwidth": "1e6 GB/s",
    "op_overhead": 0,
    "memory": "8 GiB",
    "runtime_memory": 0,
    "covers": {"num_tokens": [1, 4096]},
}
ONE = {"num_parameters": 1e9, "num_tokens": 100, "engine": "e", "source": "s"}


def _roofline(*prefill: dict[str, Any], **more: Any) -> Roofline:
    return Roofline.model_validate(PLAIN | {"prefill": list(prefill)} | more)


def _shipped() -> list[Roofline]:
    kind: Any = DeviceProfile
    profiles = (
        validate_profile(kind, catalog.profile("devices", n)) for n in catalog.names("devices")
    )
    return [p for p in profiles if isinstance(p, Roofline) and p.prefill]


def test_one_point_is_met_exactly() -> None:
    """2 FLOPs per token and weight where only the weights are known: 2e9 x 50 = 100 Gflop/s."""
    fit = calibrate(_roofline(ONE | {"tokens_per_s": 50}))
    assert fit.flop_per_s == pytest.approx(1e11, rel=1e-9)
    assert fit.points[0].error == pytest.approx(0, abs=1e-9)
    assert fit.residual is None


def test_two_points_share_the_error() -> None:
    """The geometric mean is off by as much, upwards and downwards: here by the factor 2."""
    fit = calibrate(_roofline(ONE | {"tokens_per_s": 25}, ONE | {"tokens_per_s": 100}))
    assert fit.flop_per_s == pytest.approx(1e11, rel=1e-9)
    assert [1 + point.error for point in fit.points] == pytest.approx([2, 0.5])
    assert fit.residual == pytest.approx(1.0)


def test_a_known_model_counts_attention_weights_and_launches() -> None:
    """So the fitted rate lies a little above 2 FLOPs per weight, and its overheads are time."""
    point = {"model": "llama-3.2-1b", "num_tokens": 64, "tokens_per_s": 60.3}
    more: dict[str, Any] = {"op_overhead": "5 us", "memory_bandwidth": "77 GB/s"}
    machine = _roofline({"engine": "e", "source": "s"} | point, **more)
    rate = calibrate(machine).flop_per_s
    assert 1.0 < rate / (2 * 0.973e9 * 60.3) < 1.05
    slower = machine.model_copy(update={"flop_per_s": machine.flop_per_s})
    assert prefill_s(slower, machine.prefill[0]) < 64 / 60.3  # at 1 Tflop/s


@pytest.mark.parametrize("machine", _shipped(), ids=lambda machine: machine.name)
def test_shipped_rates_are_those_fits(machine: Roofline) -> None:
    """What a profile states is what its published rates give, to the digits it is written with."""
    fit = calibrate(machine)
    assert machine.flop_per_s.value == pytest.approx(fit.flop_per_s, rel=1e-3)
    assert fit.residual is None or fit.residual < 0.25


def test_every_rate_that_is_no_assumption_shows_its_points() -> None:
    """A device's rate is measured, fitted, or assumed with a range; nothing else."""
    kind: Any = DeviceProfile
    for name in catalog.names("devices"):
        machine = validate_profile(kind, catalog.profile("devices", name))
        if isinstance(machine, Roofline):
            assert bool(machine.prefill) == (machine.flop_per_s.source != "assumed"), name


def test_a_rate_beyond_the_memory_is_refused() -> None:
    """Weights that cannot be read in the published time are not explained by any compute rate."""
    with pytest.raises(InputError, match="no compute rate") as raised:
        calibrate(_roofline(ONE | {"tokens_per_s": 1e4}, memory_bandwidth="1 GB/s"))
    assert "memory_bandwidth" in str(raised.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "a model, or num_parameters"),
        ({"model": "opt-125m", "num_parameters": 1e9}, "a model, or num_parameters"),
        ({"num_parameters": 1e9, "tokens_per_s": 0}, "greater than 0"),
        ({"num_parameters": -1}, "greater than 0"),
    ],
)
def test_bad_points_are_refused(change: dict[str, Any], words: str) -> None:
    """Neither or both kinds of model, and rates that are none."""
    point = {"num_tokens": 100, "tokens_per_s": 50, "engine": "e", "source": "s"} | change
    with pytest.raises(ValueError, match=words):
        _roofline(point)


def test_an_unknown_model_names_the_nearest() -> None:
    """As everywhere."""
    point = {"model": "opt-125", "num_tokens": 9, "tokens_per_s": 9, "engine": "e", "source": "s"}
    with pytest.raises(InputError, match="opt-125m"):
        calibrate(_roofline(point))
