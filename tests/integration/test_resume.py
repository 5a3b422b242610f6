"""Training that is cut short goes on from its checkpoint and ends with the very same bytes."""

from __future__ import annotations

import shlex
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from commands import start
from tasks import write_task

import mobisim
from mobisim.errors import InputError
from mobisim.lessons import Taught

TOTAL = 48  # steps: 8 epochs of 96 samples


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small share of the built-in task, so that evaluations take no time."""
    return write_task(tmp_path_factory.mktemp("task"), train=96, dev=32)


def overrides_of(task: Path) -> list[str]:
    """What makes the default scenario small."""
    return [f"training.task={task}", "training.epochs=8", "training.evaluate_every=6"]


def command_of(task: Path) -> list[str]:
    """The command whose run is killed."""
    sets = [word for override in overrides_of(task) for word in ("--set", override)]
    return ["run", "wifi_5mbps", "--checkpoint-every", "0", "--out", "r", *sets]


Run = Callable[..., mobisim.Result]


@pytest.fixture(scope="module")
def run(task: Path) -> Run:
    """Makes the run of that command in this process."""

    def runner(place: Path, *overrides: str, **options: Any) -> mobisim.Result:
        command = shlex.join(["mobisim", *command_of(task)])
        chosen: dict[str, Any] = {
            "out": place,
            "checkpoint_every_s": 0.0,
            "command": command,
        } | options
        scenario = mobisim.load("wifi_5mbps", [*overrides_of(task), *overrides])
        return mobisim.run(scenario, mobisim.Options(**chosen))

    return runner


def files(place: Path) -> dict[str, bytes]:
    """The contents of a result."""
    return {path.name: path.read_bytes() for path in place.iterdir()}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, run: Run) -> mobisim.Result:
    """The run that nothing interrupts."""
    return run(tmp_path_factory.mktemp("straight") / "r")


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, task: Path) -> Path:
    """The folder in which a run was killed in the middle of its training."""
    folder = tmp_path_factory.mktemp("killed")
    process = start(*command_of(task), cwd=folder)
    checkpoint = folder / "r.checkpoint"
    while not checkpoint.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    return folder


@pytest.fixture
def resumable(killed: Path, tmp_path: Path) -> Path:
    """A copy of what the killed run left, to resume from; the place of its result."""
    shutil.copytree(killed, tmp_path / "copy")
    return tmp_path / "copy" / "r"


def test_a_checkpoint_stands_beside_the_result(killed: Path) -> None:
    """It holds some of the steps, and the killed run published nothing."""
    left = {path.name.partition("-")[0] for path in killed.iterdir()}
    assert left <= {"r.checkpoint", ".r.partial"}
    state = torch.load(killed / "r.checkpoint", weights_only=True)
    assert 0 < len(state["history"]["loss"]) < TOTAL


def test_a_resumed_run_ends_with_the_same_bytes(
    resumable: Path, straight: mobisim.Result, run: Run
) -> None:
    """All of them: tables, summary, manifest, side network, pictures and trace."""
    resumed = run(resumable, resume=True)
    expected = files(straight.path)
    assert len(expected) == 8
    found = files(resumed.path)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


def test_a_resumed_run_does_not_repeat_what_was_learned(
    resumable: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """It goes on where the checkpoint was written, and clears up."""
    path = resumable.with_name("r.checkpoint")
    done = len(torch.load(path, weights_only=True)["history"]["loss"])
    saved: list[int] = []
    step = Taught.step

    def count(self: Taught, *learned: Any) -> None:
        step(self, *learned)
        saved.append(len(self.history.loss))

    monkeypatch.setattr(Taught, "step", count)
    run(resumable, resume=True, plots=False)
    assert saved == list(range(done + 1, TOTAL + 1))
    assert [path.name for path in resumable.parent.iterdir()] == ["r"]


def test_without_being_asked_a_run_begins_anew(
    resumable: Path, straight: mobisim.Result, run: Run
) -> None:
    """And ends the same; the old checkpoint goes."""
    path = resumable.with_name("r.checkpoint")
    path.write_text("broken", "utf-8")
    again = run(resumable, plots=False)
    assert again.summary == straight.summary
    assert not path.exists()


def test_a_broken_checkpoint_is_refused(resumable: Path, run: Run) -> None:
    """With what to do about it."""
    path = resumable.with_name("r.checkpoint")
    path.write_text("broken", "utf-8")
    with pytest.raises(InputError, match="remove it to begin again") as raised:
        run(resumable, resume=True)
    assert raised.value.where == str(path)


def test_a_checkpoint_of_another_run_is_refused(resumable: Path, run: Run) -> None:
    """Beside --out there may lie one of another scenario."""
    with pytest.raises(InputError, match="one of another run"):
        run(resumable, "training.optimizer.lr=0.01", resume=True)
    assert resumable.with_name("r.checkpoint").exists()


def test_short_training_leaves_no_checkpoint(
    straight: mobisim.Result, tmp_path: Path, run: Run
) -> None:
    """Within two minutes there is nothing worth keeping; what was kept goes at the end."""
    assert [path.name for path in straight.path.parent.iterdir()] == ["r"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch, "save", lambda *_: pytest.fail("saved"))
        run(tmp_path / "r", "training.epochs=1", plots=False, checkpoint_every_s=120.0)


def test_timing_alone_draws_the_same_spans(
    straight: mobisim.Result, tmp_path: Path, run: Run
) -> None:
    """Learning never steers the timeline."""
    timed = run(tmp_path / "r", train=False, plots=False)
    spans = [place / "spans.parquet" for place in (timed.path, straight.path)]
    assert spans[0].read_bytes() == spans[1].read_bytes()
    assert timed.summary.makespan_s == straight.summary.makespan_s


def test_stopping_at_the_target_gives_an_exact_prefix(
    straight: mobisim.Result, tmp_path: Path, run: Run
) -> None:
    """Up to the end of the step whose evaluation first meets the target, and nothing after it."""
    steps = pq.read_table(straight.path / "steps.parquet").to_pylist()
    value = steps[23]["metric"]
    first = next(s for s in steps if s["metric"] is not None and s["metric"] >= value)
    target = f"training.target={{metric: accuracy, value: {value}}}"
    whole = run(tmp_path / "whole", target, plots=False)
    cut = run(tmp_path / "cut", target, "training.stop_at_target=true", plots=False)
    assert whole.summary.time_to_target_s == cut.summary.time_to_target_s == first["end"]
    assert (whole.summary.ended_by, cut.summary.ended_by) == ("finished", "target")
    for name in ("spans.parquet", "steps.parquet"):
        rows = pq.read_table(cut.path / name).to_pylist()
        assert rows == pq.read_table(whole.path / name).to_pylist()[: len(rows)]
        assert rows[-1]["end"] == first["end"]
    assert cut.summary.num_steps == first["step"] < TOTAL
