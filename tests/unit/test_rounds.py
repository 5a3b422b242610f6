"""Rounds before they run: how many there are, who is selected, and how much each has to do."""

from __future__ import annotations

import numpy as np
import pytest

from mobisim.compare.ledger import ledger
from mobisim.cost.system import System
from mobisim.cost.traffic import crossing_bytes, round_traffic
from mobisim.errors import InputError
from mobisim.prepare import Options, prepare
from mobisim.report.metrics import MetricsFold
from mobisim.rounds import epochs_needed, rounds_work
from mobisim.scenario.federation import Rounds
from mobisim.scenario.load import load
from mobisim.scenario.methods import Crossing
from mobisim.sim.engine import simulate
from mobisim.workload import plan
from mobisim.world import RoundsWork, build

FLEET = np.array([4, 0, 2, 6])


def _work(**fields: object) -> RoundsWork:
    return rounds_work(Rounds.model_validate(fields), FLEET, 3, seed=5)


def test_all_with_data_take_part_in_as_many_rounds_as_epochs() -> None:
    """Unless anything else is stated; whoever has none is left out."""
    work = _work()
    assert work.selected.tolist() == [[0, 2, 3]] * 3
    assert work.local.tolist() == [4, 0, 2, 6]
    assert work.awaited == 3


def test_fewer_participants_need_more_rounds() -> None:
    """So that the data is gone through as often in the mean; local work counts the same way."""
    assert len(_work(participants=1).selected) == 9
    assert len(_work(participants=1, local_epochs=3).selected) == 3
    steps = _work(local_steps=2)
    assert steps.local.tolist() == [2, 0, 2, 2]
    assert len(steps.selected) == 6
    assert len(_work(count=7).selected) == 7


def test_selections_are_drawn_by_the_seed() -> None:
    """Each round anew, ascending, without repetition, and equally often in the long run."""
    work = _work(count=3000, participants=1, over_selection=1.5)
    assert work.awaited == 1
    assert work.selected.shape == (3000, 2)
    assert (work.selected[:, 0] < work.selected[:, 1]).all()
    times = np.bincount(work.selected.ravel(), minlength=4)
    assert times[1] == 0
    assert times[[0, 2, 3]] == pytest.approx(2000, abs=5 * np.sqrt(3000 * 2 / 9))
    again = _work(count=3000, participants=1, over_selection=1.5)
    assert np.array_equal(work.selected, again.selected)


def test_epochs_are_those_that_rounds_go_through() -> None:
    """Of a device that is never selected one, as of all that work through less."""
    work = RoundsWork(np.array([[0, 3], [0, 3], [2, 3]], np.int32), np.array([4, 0, 5, 6]), 2)
    assert epochs_needed(work, FLEET).tolist() == [2, 1, 3, 3]


def test_dealt_samples_last_for_all_rounds() -> None:
    """Each participant of five rounds goes through its own samples twice each time."""
    overrides = (
        "method=fedavg-lora", "training.num_samples=120", "devices[0].count=4",
        "federation={partition: {kind: iid}, rounds: {count: 5, local_epochs: 2}}",
    )  # fmt: skip
    planned = plan(load("wifi_5mbps", overrides))
    starts, rounds = planned.workload.starts, planned.workload.rounds
    assert rounds is not None
    assert starts is not None
    assert np.diff(starts).tolist() == [5 * 2 * 2] * 4
    assert rounds.local.tolist() == [4] * 4
    mine = planned.samples[starts[1] : starts[1] + 2]
    again = planned.samples[starts[1] + 2 : starts[1] + 4]
    assert set(np.concatenate(mine)) == set(np.concatenate(again))


def test_a_lower_rank_sends_and_computes_less() -> None:
    """A quarter of the rank is a quarter of the pairs' bytes; the head is as large for all."""
    fleet = "devices=[{profile: jetson-xavier-nx, link: wifi-5mbps},"
    fleet += "{profile: jetson-xavier-nx, link: wifi-5mbps, rank: 2}]"
    scenario = load("layer_streaming", ["num_batches=4", "method=hetlora", fleet])
    full, low = build(System(scenario), plan(scenario).workload).groups
    assert full.exchange is not None
    assert low.exchange is not None
    pairs = 24 * 2 * 2 * 1024 * 8 * 4  # layers, projections, matrices, width, rank, bytes
    without = round_traffic(System(scenario), plan(scenario).workload.largest).up - pairs
    view = System(scenario).on(scenario.devices[1])
    assert round_traffic(view, plan(scenario).workload.largest).up == without + pairs // 4
    assert low.exchange.up_s < full.exchange.up_s
    assert low.exchange.merge_s < full.exchange.merge_s
    assert low.batches[0].step_s < full.batches[0].step_s
    wrong = load("layer_streaming", ["num_batches=4", "method=hetlora", "devices[0].rank=9"])
    with pytest.raises(InputError, match="higher rank"):
        prepare(wrong, Options(train=False))


@pytest.mark.parametrize(
    ("method", "mini_batches"), [("fedavg-lora", 0), ("fed-fwdllm", 0), ("splitfed-lora", 24)]
)
def test_the_ledger_tells_what_went_up_for_rounds(method: str, mini_batches: int) -> None:
    """Two rounds of three devices: six updates, and the mini-batches of cut models."""
    asked = ["num_batches=4", f"method={method}", "devices[0].count=3", "federation.rounds.count=2"]
    prepared = prepare(load("layer_streaming", asked), Options(train=False))
    shape = prepared.planned.workload.largest
    assert shape is not None
    fold = MetricsFold(prepared.world)
    for block in simulate(prepared.world):
        fold.add(block)
    found = ledger(prepared, fold.totals().uplink_payload_bytes)
    lengths = 2 * shape.num_samples
    assert found["framing"] == 6 * 32 + mini_batches * (32 + lengths)
    what: Crossing = "scalars" if method == "fed-fwdllm" else "model"
    assert found[what] == 6 * crossing_bytes(prepared.system, what, shape)
    assert found.get("labels", 0) == mini_batches * 4 * shape.num_samples


@pytest.mark.parametrize(
    ("rounds", "where"),
    [
        ("{participants: 5}", "federation.rounds.participants"),
        ("{local_steps: 2, local_epochs: 1}", "federation.rounds.local_steps"),
        ("{count: 1000000000}", "federation.rounds.count"),
        ("{count: 500000}", "federation.rounds"),
    ],
)
def test_what_cannot_be_is_refused(rounds: str, where: str) -> None:
    """With the field."""
    of_four = ["method=fedavg-lora", "devices[0].count=4", f"federation={{rounds: {rounds}}}"]
    with pytest.raises(InputError) as caught:
        prepare(load("wifi_5mbps", of_four), Options(train=False))
    assert where in str(caught.value)
