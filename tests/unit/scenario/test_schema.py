from __future__ import annotations

import pytest
from commands import TOY

from mobisim.errors import InputError
from mobisim.scenario.load import loads
from mobisim.scenario.schema import Scenario, Target

TRAINING = "training={batch_size: 4, sequence_length: 8, epochs: 1}"
FREE = ["model=opt-125m", "num_batches=null", "wire={codec: nf4}"]


def toy(*overrides: str) -> Scenario:
    """The toy scenario with overrides."""
    return loads(TOY, "toy.yaml", overrides)


INCOMPLETE = {
    "no number of batches": (["num_batches=null"], "num_batches", "this key is missing"),
    "a batch size without a length": (["batch_size=4"], "sequence_length", "may be absent, both"),
    "a length without a batch size": (["sequence_length=4"], "batch_size", "may be absent, both"),
    "no shape for a codec": (["wire={codec: nf4}"], "batch_size", "this key is missing"),
    "no shape for a roofline": (["server.profile=a100-80gb"], "batch_size", "this key is missing"),
    "no model for a codec": (
        ["wire={codec: nf4}", "batch_size=4", "sequence_length=8"], "model", "this key is missing"
    ),
    "no model to train": (["num_batches=null", TRAINING], "model", "this key is missing"),
    "a download of unknown size": (["deliver=trained"], "deliver", "size of what trains"),
    "layers of nothing": (["granularity=layer"], "granularity", "side_network.taps as a list"),
    "batches and training": ([*FREE, TRAINING, "num_batches=3"], "num_batches", "training states"),
    "a size and training": ([*FREE, TRAINING, "batch_size=3"], "batch_size", "training states"),
    "a stop without target": (
        [*FREE, TRAINING, "training.stop_at_target=true"], "training.stop_at_target", "a target"
    ),
    "neither codec nor payload": (["wire={}"], "wire", "a codec, or payload_bytes"),
}  # fmt: skip


@pytest.mark.parametrize(("overrides", "field", "says"), INCOMPLETE.values(), ids=INCOMPLETE)
def test_what_does_not_go_together_is_refused(overrides: list[str], field: str, says: str) -> None:
    """The message names the field that is missing or too much."""
    with pytest.raises(InputError) as raised:
        toy(*overrides)
    assert str(raised.value.where).endswith(f": {field}")
    assert says in str(raised.value)


def test_stated_times_need_neither_model_nor_shape() -> None:
    """For teaching, and for tests against theory."""
    scenario = toy()
    assert scenario.all_fixed
    assert (scenario.model, scenario.batch_size, scenario.sequence_length) == (None, None, None)


def test_layers_of_no_model_can_be_listed() -> None:
    """Then each tap is a part of the stated times."""
    scenario = toy("granularity=layer", "side_network.taps=[1, 2]")
    assert scenario.side_network.taps == (1, 2)


def test_any_positive_run_ahead_is_legal() -> None:
    """Also one beyond the number of mini-batches."""
    assert toy("devices[0].run_ahead=1000000000").devices[0].run_ahead == 10**9


def test_devices_of_all_groups_are_counted() -> None:
    """Each group has a count."""
    group = "{profile: {kind: fixed, forward_s: 1, encode_s: 0}, link: wifi-5, count: 3}"
    assert toy(f"devices=[{group}, {group}]").num_devices == 6


def test_a_downlink_defaults_to_the_uplink() -> None:
    """And a packet to Ethernet's."""
    link = toy().devices[0].link
    assert (link.down.value, link.mtu_bytes.value) == (5e6, 1500)


@pytest.mark.parametrize(
    ("message", "wire"), [(0, 0), (1, 41), (1500, 1540), (1501, 1581), (4500, 4620)]
)
def test_overhead_is_paid_per_packet(message: int, wire: int) -> None:
    """A rest travels as a packet too, and nothing as none."""
    link = toy("devices[0].link.overhead_bytes=40").devices[0].link
    assert link.wire_bytes(message) == wire


@pytest.mark.parametrize(
    ("metric", "met"), [("accuracy", [False, True, True]), ("perplexity", [True, True, False])]
)
def test_a_target_is_met_from_its_own_side(metric: str, met: list[bool]) -> None:
    """Accuracy from below, perplexity from above."""
    target = Target.model_validate({"metric": metric, "value": 0.5})
    assert [target.met_by(value) for value in (0.4, 0.5, 0.6)] == met


def test_a_scenario_is_frozen() -> None:
    """Nothing is constructed half."""
    with pytest.raises(ValueError, match="frozen"):
        toy().seed = 3  # type: ignore[misc]  # the point of the test
