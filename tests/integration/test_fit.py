"""`mobisim fit`: the table, the numbers, the picture, and what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import TOY, Ran, mobisim

from mobisim.scenario.methods import METHODS

Fit = Callable[..., Ran]
NO_MEMORY = "devices[0].profile={kind: fixed, forward_s: 1, encode_s: 1}"


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Fit:
    """Runs `mobisim fit` in an empty directory, 80 columns wide."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return lambda *arguments: mobisim(capsys, "fit", *arguments)


def test_the_table_names_each_method_in_eighty_plain_columns(fit: Fit) -> None:
    """Peak and verdict stand in one line per method, without escape codes or a picture."""
    ran = fit("wifi_5mbps", "--set", "model=opt-1.3b", "--no-plots")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in ran.out
    for name in METHODS:
        line = next(line for line in lines if line.startswith(f"{name} "))
        assert re.search(r" [\d.]+ (free|short)$", line.rstrip())
    assert not Path("fit.png").exists()


def test_the_numbers_add_up(fit: Fit) -> None:
    """Each method's parts make its peak, and the peak decides whether it fits."""
    found = json.loads(fit("layer_streaming", "--json").out)
    for method in found["methods"].values():
        assert sum(method["parts_bytes"].values()) == method["peak_bytes"]
        over = method["peak_bytes"] - found["capacity_bytes"]
        assert (method["fits"], method["short_by_bytes"]) == (over <= 0, max(0, over))
    assert not Path("fit.png").exists()


def test_the_map_falls_with_the_length_and_agrees_with_the_table(fit: Fit) -> None:
    """Longer samples leave room for fewer; the scenario's own shape lies within what fits."""
    found = json.loads(fit("layer_streaming", "--set", "model=opt-1.3b", "--json").out)
    area = found["map"]
    place = area["sequence_lengths"].index(found["sequence_length"])
    for name, method in found["methods"].items():
        largest = area["largest_batch_size"][found["precision"]][name]
        assert largest == sorted(largest, reverse=True)
        assert (largest[place] >= found["batch_size"]) == method["fits"]


def test_the_picture_is_drawn_where_asked_and_always_the_same(fit: Fit) -> None:
    """Two runs write the same bytes."""
    for out in ("a.png", "b.png"):
        assert fit("layer_streaming", "--out", out).code == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    assert not Path("fit.png").exists()


def test_a_method_that_finds_nothing_to_train_is_named(fit: Fit) -> None:
    """BitFit has no biases to train in Llama."""
    ran = fit("layer_streaming", "--set", "model=llama-3.2-1b", "--no-plots")
    assert "bitfit: nothing of this model itself trains" in ran.out


def test_checkpointing_keeps_less_and_computes_more(fit: Fit) -> None:
    """For what trains through the backbone; MobiLLM and LST have nothing to gain."""
    plain, spared = (
        json.loads(fit("layer_streaming", "--json", *extra).out)["methods"]
        for extra in ((), ("--checkpointing",))
    )
    for name in METHODS:
        before, after = plain[name], spared[name]
        if METHODS[name].backward_through_backbone and METHODS[name].site != "server":
            assert after["parts_bytes"]["stored"] < before["parts_bytes"]["stored"] / 2
            assert after["device_work"]["backward_flop"] > before["device_work"]["backward_flop"]
        else:
            assert after == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("textbook_pipeline",), "memory needs a model and the shape"),
        (("layer_streaming", "--group", "1"), "no such group"),
        (("layer_streaming", "--set", "sequence_length=4096"), "not so many positions"),
        (("layer_streaming", "--set", NO_MEMORY), "the device's memory is not stated"),
    ],
)
def test_what_cannot_be_answered_is_refused(
    fit: Fit, arguments: tuple[str, ...], says: str
) -> None:
    """One message, exit code 2, no picture."""
    ran = fit(*arguments)
    assert ran.code == 2
    assert says in ran.err
    assert not Path("fit.png").exists()


def test_a_scenario_of_stated_times_has_no_memory(fit: Fit, tmp_path: Path) -> None:
    """Nor a shape."""
    (tmp_path / "toy.yaml").write_text(TOY, "utf-8")
    assert fit("toy.yaml").code == 2
