"""Does it fit: a scenario that does not is answered, not refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import TOY, mobisim

Answer = Callable[..., dict[str, Any]]

TRANSFORMER = [
    "deliver=none", "model=opt-125m", "batch_size=4", "sequence_length=32"
]  # fmt: skip


@pytest.fixture
def answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Answer:
    """The summary of a run that ends well, with overrides."""
    monkeypatch.chdir(tmp_path)
    Path("toy.yaml").write_text(TOY, "utf-8")

    def runner(scenario: str, *overrides: str, options: tuple[str, ...] = ()) -> dict[str, Any]:
        sets = [word for override in overrides for word in ("--set", override)]
        ran = mobisim(capsys, "run", scenario, "--no-plots", "--json", *options, *sets)
        assert (ran.code, ran.err) == (0, "")
        summary: dict[str, Any] = json.loads(ran.out)
        return summary

    return runner


@pytest.mark.parametrize("side", ["device", "server"])
def test_what_does_not_fit_ends_normally_and_says_by_how_much(side: str, answer: Answer) -> None:
    """Exit code 0: the question is answered."""
    owner = {"device": "devices[0]", "server": "server"}[side]
    summary = answer("wifi_5mbps", f"{owner}.profile.memory=900 MiB")
    assert summary["ended_by"] == "memory"
    assert summary[f"{side}_fits"] is False
    assert summary[f"{side}_short_bytes"] == summary[f"{side}_peak_bytes"] - 900 * 2**20
    assert sum(summary[f"{side}_memory_bytes"].values()) == summary[f"{side}_peak_bytes"]
    assert summary["makespan_s"] is None
    assert (summary["num_steps"], summary["uplink_bytes"]) == (0, 0)


def test_nothing_is_trained_that_does_not_fit(answer: Answer) -> None:
    """Not even torch is imported for it; the result is whole all the same."""
    before = "torch" in sys.modules
    summary = answer("wifi_5mbps", "devices[0].profile.memory=900 MiB", options=("--out", "r"))
    assert ("torch" in sys.modules) == before
    assert (summary["initial_metric"], summary["final_metric"]) == (None, None)
    assert {path.name for path in Path("r").iterdir()} == {
        "manifest.json", "summary.json", "spans.parquet", "steps.parquet"
    }  # fmt: skip


def test_ignoring_memory_goes_on(answer: Answer) -> None:
    """And still says that it does not fit."""
    options = ("--no-train", "--ignore-memory")
    summary = answer("wifi_5mbps", "devices[0].profile.memory=900 MiB", options=options)
    assert summary["device_fits"] is False
    assert (summary["ended_by"], summary["num_steps"]) == ("finished", 375)
    assert summary["makespan_s"] > 0


def test_queued_payloads_can_be_what_does_not_fit(answer: Answer) -> None:
    """A device far ahead of its link needs room for what waits; the timeline decides how much."""
    few = answer(
        "wifi_5mbps", "devices[0].profile.memory=3 GiB", options=("--no-train",)
    )  # fmt: skip
    many = answer(
        "wifi_5mbps", "devices[0].profile.memory=3 GiB", "devices[0].run_ahead=300",
        options=("--no-train",),
    )  # fmt: skip
    assert (few["device_fits"], few["ended_by"]) == (True, "finished")
    assert (many["device_fits"], many["ended_by"]) == (False, "memory")
    assert many["device_short_bytes"] > 0
    assert many["device_memory_bytes"]["queue"] > few["device_memory_bytes"]["queue"]


def test_the_verdict_before_the_timeline_is_the_one_after_it(answer: Answer) -> None:
    """The same queue, counted ahead and on the way."""
    overrides = ("devices[0].profile.memory=3 GiB", "devices[0].run_ahead=300")
    before = answer("wifi_5mbps", *overrides, options=("--no-train",))
    after = answer("wifi_5mbps", *overrides, options=("--no-train", "--ignore-memory"))
    assert before["device_memory_bytes"] == after["device_memory_bytes"]
    assert before["server_memory_bytes"] == after["server_memory_bytes"]


def test_without_a_stated_capacity_nobody_knows(answer: Answer) -> None:
    """The peak is known, whether it fits is not."""
    summary = answer("toy.yaml", *TRANSFORMER)
    assert summary["device_peak_bytes"] > 0
    for side in ("device", "server"):
        assert summary[f"{side}_capacity_bytes"] is None
        assert summary[f"{side}_fits"] is None
        assert summary[f"{side}_short_bytes"] is None


def test_a_stated_capacity_of_stated_times_counts(answer: Answer) -> None:
    """Memory does not depend on where the times come from."""
    summary = answer("toy.yaml", *TRANSFORMER, "devices[0].profile.memory=1 MB")
    assert (summary["device_fits"], summary["ended_by"]) == (False, "memory")


def test_without_a_shape_there_are_no_memory_figures(answer: Answer) -> None:
    """Not even where a capacity is stated."""
    summary = answer("toy.yaml", "devices[0].profile.memory=1 MB")
    for side in ("device", "server"):
        assert summary[f"{side}_peak_bytes"] is None
        assert summary[f"{side}_memory_bytes"] is None
        assert summary[f"{side}_fits"] is None
    assert summary["makespan_s"] > 0


def test_the_group_with_least_room_is_told_of(answer: Answer) -> None:
    """A fleet fits where its smallest device does."""
    group = "{{profile: {}, link: wifi-5}}"
    fleet = ", ".join(group.format(name) for name in ("macbook-air-m2", "pixel-8"))
    summary = answer("toy.yaml", *TRANSFORMER, f"devices=[{fleet}]")
    pixel = answer("toy.yaml", *TRANSFORMER, f"devices=[{group.format('pixel-8')}]")
    assert summary["device_capacity_bytes"] == pixel["device_capacity_bytes"]


def test_the_terminal_says_what_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the first line of its answer."""
    ran = mobisim(
        capsys, "run", "wifi_5mbps", "--set", "devices[0].profile.memory=900 MiB",
        "--out", tmp_path / "r",
    )  # fmt: skip
    assert ran.code == 0
    assert "It does not fit: the device is" in ran.out
