"""The command line as a whole: what it prints, what it imports, how it is interrupted."""

from __future__ import annotations

import contextlib
import io
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from commands import TOY, mobisim, start

from mobisim import interrupts, progress
from mobisim.cli import KINDS
from mobisim.report.results import publishing
from mobisim.scenario import catalog
from mobisim.scenario.method_options import Codec

HEAVY = ("torch", "transformers", "pandas", "matplotlib", "dask", "tokenizers")


def imported_by(*arguments: str, cwd: Path) -> set[str]:
    """The heavy libraries that a command imports."""
    script = (
        "import sys\n"
        "from mobisim.cli import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "finally:\n"
        "    print(*sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=cwd, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(HEAVY) & set(done.stderr.split())


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["run", "toy.yaml", "--no-plots"], ["show", "devices"]],
    ids=["help", "a timing-only run", "a list"],
)
def test_what_needs_no_heavy_library_imports_none(arguments: list[str], tmp_path: Path) -> None:
    """They take seconds, and a timing-only run starts in a blink."""
    (tmp_path / "toy.yaml").write_text(TOY, "utf-8")
    assert imported_by(*arguments, cwd=tmp_path) == set()


def test_the_timing_of_a_training_never_imports_torch(tmp_path: Path) -> None:
    """It reads the task, for the lengths of its samples, and learns nothing."""
    found = imported_by("run", "wifi_5mbps", "--no-train", "--no-plots", cwd=tmp_path)
    assert found <= {"tokenizers"}


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Both end well."""
    assert mobisim(capsys, "--version").out.startswith("mobisim, version ")
    ran = mobisim(capsys, "--help")
    assert ran.code == 0
    assert "mobisim run wifi_5mbps" in ran.out


def test_a_packaged_scenario_runs_from_an_empty_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its name alone, profiles included."""
    monkeypatch.chdir(tmp_path)
    ran = mobisim(capsys, "run", "wifi_5mbps", "--no-train", "--no-plots")
    assert ran.code == 0
    assert len(list(tmp_path.glob("results/wifi_5mbps/*/summary.json"))) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_listed_within_80_columns(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With every name that there is."""
    ran = mobisim(capsys, "show", kind)
    known = {
        "scenarios": catalog.scenario_names(), "codecs": get_args(Codec), "methods": ["mobillm"]
    }.get(kind) or catalog.names(kind)  # fmt: skip
    first = {line.split(" ")[0] for line in ran.out.splitlines()}
    assert (ran.code, ran.err) == (0, "")
    assert set(known) <= first
    assert max(map(len, ran.out.splitlines())) <= 80


PAGES = {
    "devices": ("jetson-xavier-nx", ["900 Gflop/s  assumed, 300 Gflop/s to 3.1 Tflop/s", "@misc{"]),
    "servers": ("a100-80gb", ["2.039 TB/s  gpu-specs", "peak; programs reach less", "@misc{"]),
    "links": ("wifi-5", ["250 Mbit/s  assumed, 150 Mbit/s to 350 Mbit/s", "4 mW/(Mbit/s)"]),
    "models": ("opt-350m", ["331,196,416 as published", "hf-opt", "left to right"]),
    "scenarios": ("wifi_5mbps", ["does the radio or the device set", "bottleneck: 64"]),
    "codecs": ("nf4", ["4.5, with the scales of blocks of 64", "qlora"]),
    "methods": ("mobillm", ["server-assisted side-tuning", "arXiv 2502.20421"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_one_of_each_kind_is_shown_with_its_sources(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every value, its unit, where it comes from and what is noted of it."""
    name, holds = PAGES[kind]
    ran = mobisim(capsys, "show", kind, name)
    plain = " ".join(ran.out.split()).replace("  ", " ")
    assert (ran.code, ran.err) == (0, "")
    assert [text for text in holds if " ".join(text.split()) not in plain] == []
    assert max(map(len, ran.out.splitlines())) <= 80


@pytest.mark.parametrize("kind", ["devices", "servers", "links", "models"])
def test_every_profile_can_be_shown(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever it states or leaves out."""
    for name in catalog.names(kind):
        assert mobisim(capsys, "show", kind, name).code == 0


def test_a_calibration_shows_each_published_rate(capsys: pytest.CaptureFixture[str]) -> None:
    """The fitted rate, its residual, and published against predicted, within 80 columns."""
    ran = mobisim(capsys, "calibrate", "oneplus-12")
    assert ran.code == 0
    out = ran.out
    assert "fits 2 published prefill rates, 0.7 % off at most" in " ".join(out.split())
    assert "60.3" in out
    assert "executorch-llama" in out
    assert max(map(len, out.splitlines())) <= 80


def test_a_calibration_needs_published_rates(capsys: pytest.CaptureFixture[str]) -> None:
    """An estimate and a measured profile are told so."""
    for name, words in (
        ("jetson-xavier-nx", "no published prefill rates"),
        ("testbench-2core-1t", "no roofline"),
    ):
        ran = mobisim(capsys, "calibrate", name)
        assert ran.code == 2
        assert words in ran.err


def test_codecs_count_their_scales(capsys: pytest.CaptureFixture[str]) -> None:
    """Half a bit per value in blocks of 64."""
    rows = [line.split()[:2] for line in mobisim(capsys, "show", "codecs").out.splitlines()]
    bits = dict(row for row in rows if len(row) == 2)
    assert (bits["fp32"], bits["int8"], bits["int3"], bits["nf4"]) == ("32", "8.5", "3.5", "4.5")


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


def test_progress_is_silent_where_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a pipe or a log file."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "PATIENCE_S", 0.0)
    with progress.showing_progress() as report:
        report("training", 1, 2)
    assert stream.getvalue() == ""


@pytest.mark.parametrize(("patience_s", "shown"), [(0.0, True), (60.0, False)])
def test_progress_is_shown_of_what_takes_longer(
    patience_s: float, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """On a terminal, after two seconds."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "PATIENCE_S", patience_s)
    monkeypatch.setenv("TERM", "xterm")
    with progress.showing_progress() as report:
        report("training", 1, 2)
        report("training", 2, 2)
    assert ("training" in stream.getvalue()) == shown


def wait_for(is_so: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until something is so; fails where the process ends before."""
    deadline = time.monotonic() + 60
    while not is_so():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


LONG = ["--set", "num_batches=100000000", "--no-plots"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["toy.yaml", *LONG],
        ["wifi_5mbps", "--set", "training.num_samples=256", "--set", "training.epochs=500"],
    ],
    ids=["simulating", "training"],
)
def test_an_interrupt_ends_at_once_and_leaves_nothing(arguments: list[str], tmp_path: Path) -> None:
    """Exit code 130 and one line, while simulating and while training."""
    (tmp_path / "toy.yaml").write_text(TOY, "utf-8")
    process = start("run", *arguments, "--out", "out/r", cwd=tmp_path)
    wait_for(lambda: any((tmp_path / "out").glob(".r.partial-*/spans.parquet")), process)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (out, err) == ("", "mobisim: interrupted; nothing was published\n")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_interrupt_that_a_library_swallows_ends_the_work_all_the_same(tmp_path: Path) -> None:
    """It counts at the next report of progress, and at the latest before a result is published."""
    before = signal.getsignal(signal.SIGINT)
    with interrupts.remembering():
        with progress.showing_progress() as report:
            report("training", 1, 2)
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                report("training", 2, 2)
        with pytest.raises(KeyboardInterrupt), publishing(tmp_path / "result"):
            pass
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is before
    interrupts.check()  # forgotten with the command that it was for


class Dropped:
    """Calls something as it goes, where exceptions are dropped."""

    def __init__(self, last: Callable[[], object]) -> None:
        self.last = last

    def __del__(self) -> None:
        """Nobody catches what comes of it."""
        self.last()


def test_an_interrupt_that_a_destructor_drops_is_not_told_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It counts later; whatever else is dropped there is told of, as ever."""
    told: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: told.append(dropped.exc_type))
    with interrupts.remembering():
        Dropped(lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
        Dropped(lambda: 1 // 0)
    assert told == [ZeroDivisionError]


def test_a_reader_that_goes_away_is_no_failure_to_talk_of(tmp_path: Path) -> None:
    """As with `mobisim show devices | head -1`."""
    process = start("schema", "scenario", cwd=tmp_path)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(30) in (0, 1)
    process.stderr.close()
