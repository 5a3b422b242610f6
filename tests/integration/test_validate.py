"""The simulated half of a validation, with a backbone that really learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pyarrow.parquet as pq
import pytest
from tiny import save_backbone, write_task

from mobisim.errors import InputError
from mobisim.lessons import Taught
from mobisim.scenario.load import loads
from mobisim.scenario.schema import Scenario
from mobisim.testbed.bed import Bed
from mobisim.validation import validate as validation
from mobisim.validation.simulation import Simulation
from mobisim.validation.validate import Effort

SCENARIO = """
name: tiny
model: {tiny}/config.json
wire: {{codec: nf4, block_size: 16}}
training: {{task: {tiny}, backbone: {tiny}, batch_size: 8, sequence_length: 12, epochs: 2,
           evaluate_every: 3, target: {{metric: loss, value: 0}}}}
devices:
  - profile: {{kind: fixed, forward_s: {forward_s} s, encode_s: 1 ms}}
    link: {{kind: constant, uplink: 2 Mbit/s, latency: 1 ms, overhead_bytes: 40}}
server: {{profile: {{kind: fixed, step_s: 5 ms}}}}
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A folder with a tiny backbone; it is judged on what it learns from."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    save_backbone(folder)
    write_task(folder)
    (folder / "dev.tsv").write_bytes((folder / "train.tsv").read_bytes())
    return folder


def scenario(tiny: Path, forward_s: float) -> Scenario:
    return loads(SCENARIO.format(tiny=tiny, forward_s=forward_s))


def test_the_target_is_chosen_before_and_met_late(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On every timeline by the same step, after the first half; what is learned is learned once."""
    steps: list[int] = []
    step = Taught.step

    def counting(lessons: Taught, device: int, batch: int, *learned: Any) -> None:
        steps.append(batch)
        step(lessons, device, batch, *learned)

    monkeypatch.setattr(Taught, "step", counting)
    simulation = Simulation(train=True)
    aimed = simulation.aimed(scenario(tiny, 1.0))
    assert aimed.training is not None
    assert aimed.training.target is not None
    met = []
    for forward_s in (0.1, 0.2):
        place = tmp_path / str(forward_s)
        timed = scenario(tiny, forward_s).model_copy(update={"training": aimed.training})
        found = simulation.run(timed, place)
        assert found.target == aimed.training.target.value
        ends = pq.read_table(place / "steps.parquet").column("end").to_pylist()
        assert found.time_to_target_s is not None
        met.append(ends.index(found.time_to_target_s) + 1)
        assert len(ends) / 2 < met[-1] <= len(ends)
    assert met[0] == met[1]
    assert len(steps) == len(ends)


def test_pairs_that_are_there_count_only_when_asked_for(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that an interrupted suite left is not run again; a validation of its own starts anew."""
    done: list[str] = []

    def run_bed(bed: Bed) -> None:
        assert bed.out is not None
        done.append(bed.out.name)
        Simulation(train=False).run(scenario(tiny, 0.1), bed.out)

    measured = MagicMock(as_numbers=dict, put_into=lambda real: real)
    measurement = MagicMock()
    measurement.return_value.__enter__.return_value.round.return_value = measured
    monkeypatch.setattr(validation, "CALM", 1.0)  # others may do what they like meanwhile
    monkeypatch.setattr(validation, "run_bed", run_bed)
    monkeypatch.setattr(validation, "Measurement", measurement)
    real = scenario(tiny, 0.2)
    for repeats, resume in ((2, False), (3, True), (3, True), (1, False)):
        effort = Effort(repeats=repeats, train=False, resume=resume)
        found = validation.validate(real, tmp_path / "validation", effort)
        assert len(found.real) == repeats
        assert found.line("forward").error == pytest.approx(1)
    assert done == ["real-1", "real-2", "real-3", "real-1"]


def test_only_results_are_replaced(tiny: Path, tmp_path: Path) -> None:
    """A validation done again replaces its runs, and nothing that somebody else put there."""
    place = tmp_path / "simulated-1"
    for forward_s in (0.1, 0.2):
        Simulation(train=False).run(scenario(tiny, forward_s), place)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="something that is no result"):
        Simulation(train=False).run(scenario(tiny, 0.1), theirs)
