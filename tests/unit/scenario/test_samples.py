"""Measured profiles in files: found by path, and refused by line where they are broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from bundles import rows, write_bundle

from mobisim.errors import InputError
from mobisim.scenario.load import load
from mobisim.scenario.profiles import Measured
from mobisim.scenario.provenance import origins

SCENARIO = """\
# A question
name: own
model: opt-125m
wire: {codec: nf4}
num_batches: 3
batch_size: 4
sequence_length: 64
devices: [{profile: bench.yaml, link: link.yaml}]
server: {profile: a100-80gb}
"""
LINK = "kind: constant\nuplink: 5 Mbit/s\nlatency: 10 ms\noverhead_bytes: 0\n"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A scenario with the files of its profiles beside it."""
    write_bundle(tmp_path)
    (tmp_path / "link.yaml").write_text(LINK, encoding="utf-8")
    path = tmp_path / "own.yaml"
    path.write_text(SCENARIO, encoding="utf-8")
    return path


def changed(path: Path, change: Callable[[str], str]) -> str:
    """The error of loading, after a file was changed."""
    path.write_text(change(path.read_text("utf-8")), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load(str(path.parent / "own.yaml"))
    return str(caught.value)


def test_profiles_of_ones_own_are_named_by_path(own: Path) -> None:
    """Devices and links come from files beside the scenario, samples included."""
    found = load(str(own)).devices[0]
    assert isinstance(found.profile, Measured)
    assert found.profile.samples == tuple(rows())
    assert found.link.uplink.value == 5e6


def test_a_path_works_from_here_too(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An override has no file of its own: the path counts from the working directory."""
    monkeypatch.chdir(own.parent)
    found = load("wifi_5mbps", ["server.profile=bench.yaml"]).server.profile
    assert isinstance(found, Measured)


def test_a_missing_profile_file_is_named(own: Path) -> None:
    """The scenario's line and the path that leads nowhere."""
    error = changed(own, lambda text: text.replace("bench.yaml", "bank.yaml"))
    assert "own.yaml:8: devices[0].profile" in error
    assert "bank.yaml" in error


def test_the_samples_count_as_measured(own: Path) -> None:
    """A run's report names them with machine and date."""
    found = {origin.path: origin for origin in origins(load(str(own)))}
    origin = found["devices[0].profile.samples"]
    assert origin.sort == "measured"
    assert "a made-up machine" in str(origin.note)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("repeats", "repeat", 1), "bench.csv:1\n"),
        (lambda text: text.replace("norm:layer,1,16", "norm:layer,0,16", 1), "batch is wrong"),
        (lambda text: text.replace(",1.04096e-05", ",-1.4096e-05", 1), "a time above zero"),
        (lambda text: text.replace(",1.04096e-05", ",0", 1), "a time above zero"),
        (lambda text: text.replace(",1.04096e-05", ",nan", 1), "a time above zero"),
        (lambda text: text.replace(",1.04096e-05", ",9", 1), "percentiles out of order"),
        (lambda text: text.replace(",9\n", "\n", 1), "expected: 11\n"),
        (lambda text: text[:2000], "the last line is cut off"),
        (lambda text: text[: text.rindex("\n", 0, 2000) + 1], "the table of samples is not comp"),
    ],
)
def test_a_broken_table_is_refused_with_its_line(
    own: Path, change: Callable[[str], str], words: str
) -> None:
    """Other columns, cut lines or files, and values that no clock gives."""
    error = changed(own.parent / "bench.csv", change)
    assert words in error
    assert error.startswith("bench.csv:")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("version: 1", "version: 2"), "expected: version 1"),
        (lambda text: text.replace("value: fp32", "value: bf16"), "one that was timed: fp32"),
        (lambda text: text.replace("bench.csv", "elsewhere.csv"), "the table of samples is missi"),
        (lambda text: text.replace("bench.csv", "../bench.csv"), "no file beside this one"),
    ],
)
def test_a_broken_description_is_refused_with_its_line(
    own: Path, change: Callable[[str], str], words: str
) -> None:
    """Another version, a precision that nobody timed, a table that is not there."""
    error = changed(own.parent / "bench.yaml", change)
    assert words in error
    assert "bench.yaml" in error


CONTENTION = "contention: {slowdown: 1.08, p10: %s, p90: 1.2, repeats: 40, beside: 'a server'}\n"


def test_a_profile_may_tell_its_slowdown_beside_another(own: Path) -> None:
    """Median and percentiles of seconds beside the other program over seconds alone."""
    bench = own.parent / "bench.yaml"
    bench.write_text(bench.read_text("utf-8") + CONTENTION % 1.01, encoding="utf-8")
    found = load(str(own)).devices[0].profile
    assert isinstance(found, Measured)
    assert found.contention is not None
    assert found.contention.slowdown.value == 1.08


def test_a_slowdown_outside_its_percentiles_is_refused(own: Path) -> None:
    """The field is named."""
    words = changed(own.parent / "bench.yaml", lambda text: text + CONTENTION % 1.1)
    assert "bench.yaml:15: devices[0].profile.contention" in words
    assert "p10 <= slowdown <= p90" in words
