"""`mobisim profile` for real: seconds of measuring, then a scenario that runs on it."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest
from commands import mobisim

from mobisim import load
from mobisim.errors import InputError
from mobisim.prepare import Options, prepare
from mobisim.profiling import profile as profiling
from mobisim.profiling.cases import Grid
from mobisim.profiling.profile import Plan, profile
from mobisim.scenario.profiles import Measured

TINY = Grid((1, 2, 4), (8, 16), (64, 128), (8, 32), (1, 4**4, 4**8), (64, 512))
MODEL = """{"model_type": "opt", "hidden_size": 96, "num_attention_heads": 3, "ffn_dim": 384,
"num_hidden_layers": 2, "vocab_size": 1000, "max_position_embeddings": 64}"""


def plan(folder: Path, **changes: object) -> Plan:
    """A measurement of two seconds."""
    settings: dict[str, object] = {
        "name": "tiny",
        "folder": folder,
        "grid": TINY,
        "budget_s": 2.0,
        "precisions": ("fp32",),
    }
    return Plan(**(settings | changes))  # type: ignore[arg-type]  # by name


def notices(_words: str) -> None:
    """What a busy machine makes it say."""


@pytest.mark.parametrize("granularity", ["batch", "layer"])
def test_a_measured_machine_runs_a_scenario(tmp_path: Path, granularity: str) -> None:
    """Device and server measured here predict a model of a width that was not measured."""
    device = profile(plan(tmp_path), notices)
    server = profile(plan(tmp_path, name="server", role="server"), notices)
    (tmp_path / "config.json").write_text(MODEL, encoding="utf-8")
    shape = ("training=null", "num_batches=3", "batch_size=2", "sequence_length=12")
    profiles = (f"devices[0].profile={device}", f"server.profile={server}")
    model = (f"model={tmp_path}/config.json", "side_network.bottleneck=16")
    scenario = load("wifi_5mbps", (*shape, *profiles, *model, f"granularity={granularity}"))
    (batch,) = prepare(scenario, Options()).world.groups[0].batches
    assert 0 < sum(part.forward_s for part in batch.parts) < 1
    assert 0 < batch.step_s < 1
    packed = load(
        "wifi_5mbps",
        (*shape, *profiles, *model, f"granularity={granularity}", "backbone_weights=nf4"),
    )
    (unpacking,) = prepare(packed, Options()).world.groups[0].batches
    assert sum(p.forward_s for p in unpacking.parts) > sum(p.forward_s for p in batch.parts)
    found = scenario.devices[0].profile
    assert isinstance(found, Measured)
    assert found.ranges["num_tokens"] == (8, 64)


def test_a_rerun_goes_on_with_the_samples_so_far(tmp_path: Path) -> None:
    """Samples are added to those on disk; a line cut off by a crash does no harm."""
    raw = tmp_path / "tiny.samples.csv"
    profile(plan(tmp_path, role="server", budget_s=0.5), notices)
    before = raw.read_text("utf-8")
    raw.write_text(before[: before.rindex(",") + 3], encoding="utf-8")
    profile(plan(tmp_path, role="server", budget_s=0.5), notices)
    after = raw.read_text("utf-8")
    assert after.startswith(before[: before.rindex("\n", 0, -1)])
    assert len(after) > len(before)


def test_a_machine_that_sleeps_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command stops and says so; the same command goes on with the samples before the sleep."""
    real, looks = time.clock_gettime, itertools.count()
    asleep = lambda clock: real(clock) + (3600.0 if next(looks) > 12 else 0.0)  # noqa: E731
    arguments = ("profile", "--quick", "--budget", "1 s", "--role", "server", "--out", tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(time, "clock_gettime", asleep)
        ran = mobisim(capsys, *arguments)
    assert ran.code == 2
    assert "the machine slept" in ran.err
    assert "the same command goes on" in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["my-device.samples.csv"]
    before = (tmp_path / "my-device.samples.csv").read_text("utf-8")
    assert len(before.splitlines()) > 1
    assert mobisim(capsys, *arguments).code == 0
    assert (tmp_path / "my-device.samples.csv").read_text("utf-8").startswith(before)


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "{header}\nblock,1,add,1,1,1,1,fp32,1,-3.0\n"])
def test_samples_of_something_else_are_left_alone(tmp_path: Path, text: str) -> None:
    """A file of another make, or with times that no clock gives, stops with file and line."""
    from mobisim.profiling.bundle import RAW_HEADER  # noqa: PLC0415 - imports torch

    raw = tmp_path / "tiny.samples.csv"
    raw.write_text(text.format(header=RAW_HEADER), encoding="utf-8")
    with pytest.raises(InputError, match=r"tiny\.samples\.csv:[12]"):
        profile(plan(tmp_path), notices)


def test_the_command_says_how_to_use_the_profile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A few seconds yield files, and a line for the scenario."""
    arguments = ("--quick", "--budget", "1 s", "--role", "server", "--name", "mine")
    ran = mobisim(capsys, "profile", *arguments, "--out", tmp_path)
    assert ran.code == 0
    assert f"server: {{profile: {tmp_path}/mine.yaml}}" in ran.out
    assert {path.name for path in tmp_path.iterdir()} == {
        "mine.csv",
        "mine.samples.csv",
        "mine.yaml",
    }


def test_processor_time_is_for_one_thread(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """That of several threads counts their waiting for each other."""
    arguments = ("--clock", "processor", "--threads", "2")
    ran = mobisim(capsys, "profile", *arguments, "--out", tmp_path)
    assert ran.code == 2
    assert "on one thread only" in ran.err


def test_a_profile_says_which_clock_it_read(tmp_path: Path) -> None:
    """Samples of processor time have a file of their own, and the profile tells."""
    path = profile(plan(tmp_path, role="server", clock="processor", budget_s=0.5), notices)
    assert "processor time" in path.read_text("utf-8")
    assert (tmp_path / "tiny.processor.samples.csv").exists()


def test_a_budget_is_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bare number is refused, as everywhere."""
    ran = mobisim(capsys, "profile", "--budget", "3", "--out", tmp_path)
    assert ran.code == 2
    assert "the unit is missing" in ran.err


def test_little_memory_leaves_the_widest_blocks_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A phone's memory would not hold them with their gradients; it is said, and not measured."""
    monkeypatch.setattr(profiling, "memory_bytes", lambda _: 8 << 30)
    monkeypatch.setattr(profiling, "NARROWER", 64)
    said: list[str] = []
    path = profile(plan(tmp_path, role="server", budget_s=0.5), said.append)
    assert "left out in 8.0 GiB of memory: blocks wider than 64" in said
    assert "width [64]" in path.read_text("utf-8")
