"""Use as a library: the examples of the docstrings run, and frames say what the results say."""

from __future__ import annotations

import doctest
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from commands import TOY

import mobisim
from mobisim.scenario.load import loads


@pytest.mark.parametrize(
    "module", ["scenario.load", "simulation", "runner", "library"], ids=lambda name: name
)
def test_examples_run(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example of what a program calls gives what it says."""
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(import_module(f"mobisim.{module}"))
    assert found.attempted > 0
    assert found.failed == 0


def test_a_simulation_is_the_run_without_its_files(tmp_path: Path) -> None:
    """Summary and spans are those that a run publishes."""
    scenario = loads(TOY, "toy.yaml")
    simulated = mobisim.simulate(scenario)
    ran = mobisim.run(scenario, mobisim.Options(train=False, plots=False, out=tmp_path / "toy"))
    assert simulated.summary == ran.summary
    assert simulated.spans.equals(ran.spans)
    assert (
        ran.spans.num_bytes.sum()
        == pq.read_table(ran.path / "spans.parquet").to_pandas()["num_bytes"].sum()
    )
    assert ran.steps.end.iloc[-1] == ran.spans.end.max()


def test_what_does_not_fit_is_an_answer() -> None:
    """No spans and no makespan, but by how much it does not fit."""
    found = mobisim.simulate(mobisim.load("lte", ["devices[0].profile.memory=1 GiB"]))
    assert found.summary.makespan_s is None
    assert found.summary.device_short_bytes
    assert found.spans.empty


def test_a_sweep_takes_a_loaded_scenario(tmp_path: Path) -> None:
    """A scenario in memory sweeps as its file does, to the same points."""
    rates = {"devices[0].link.uplink": ["1 Mbit/s", "9 Mbit/s"]}
    (tmp_path / "toy.yaml").write_text(TOY, "utf-8")
    options = mobisim.Options(out=tmp_path / "memory")
    memory = mobisim.sweep(loads(TOY, "toy.yaml"), rates, options)
    file = mobisim.sweep(tmp_path / "toy.yaml", rates, mobisim.Options(out=tmp_path / "file"))
    assert memory.table.equals(file.table)
    assert memory.table.makespan_s.is_monotonic_decreasing
    # A figure that no point has is still a number to reckon with; a name that none has is none.
    assert (memory.table.time_to_target_s / 60).isna().all()
    assert memory.table.error.dtype == "str"


def test_sweep_and_its_room_are_two_things() -> None:
    """Importing the room leaves the function where it is, and importing mobisim loads neither."""
    code = (
        "import sys, mobisim; assert not {'pandas', 'torch', 'matplotlib'} & set(sys.modules);"
        "import mobisim.sweeps.run; assert callable(mobisim.sweep);"
        "mobisim.simulate(mobisim.load('textbook_pipeline'));"
        "assert not {'pandas', 'torch', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
