"""Sweeps that are killed, on one machine and on a cluster: resumed, the same table."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from commands import TOY, start
from tasks import write_task

KILLS = 20
PATIENCE_S = 120.0
TIMED = ("--vary", "devices[*].link.uplink=1,2,5,10,20,50 Mbit/s", "--vary", "server.workers=1,2")


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A scenario of stated times, long enough for a sweep to be met under way."""
    path = tmp_path / "toy.yaml"
    path.write_text(TOY.replace("num_batches: 5", "num_batches: 1500"), "utf-8")
    return path


def tables(folder: Path) -> list[bytes]:
    """Both tables of a sweep."""
    return [(folder / f"table.{ending}").read_bytes() for ending in ("parquet", "csv")]


def sweep(scenario: Path | str, *words: str, out: Path) -> subprocess.Popen[str]:
    """Start a sweep in a process of its own."""
    return start("sweep", scenario, *words, "--out", out, cwd=out.parent)


def finished(process: subprocess.Popen[str]) -> str:
    """What a sweep that ends well says."""
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    return out


def killed(process: subprocess.Popen[str], after_s: float) -> bool:
    """Kill a sweep at some moment; whether it was not done yet."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(after_s)
    under_way = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE_S)
    return under_way


def modified(folder: Path) -> dict[str, int]:
    """When each point that is there was published."""
    found = folder / "points"
    points = [p for p in found.iterdir() if p.name[0] != "."] if found.is_dir() else []
    return {point.name: (point / "summary.json").stat().st_mtime_ns for point in points}


def lasts(scenario: Path | str, *words: str, out: Path) -> float:
    """Seconds of an undisturbed sweep."""
    begun = time.monotonic()
    finished(sweep(scenario, *words, out=out))
    return time.monotonic() - begun


def test_a_sweep_killed_at_random_moments_ends_with_the_same_table(
    toy: Path, tmp_path: Path
) -> None:
    """Twenty kills; no point is lost, none is done twice, and no process is left behind."""
    lasted = lasts(toy, *TIMED, out=tmp_path / "straight")
    expected = tables(tmp_path / "straight")
    choose = Random(7)
    kills = rounds = 0
    before: dict[str, int] = {}
    while kills < KILLS:
        out = tmp_path / f"killed-{rounds}"
        kills += killed(sweep(toy, *TIMED, out=out), choose.uniform(0, lasted))
        after = modified(out)
        assert {name: after.get(name) for name in before} == before
        before = after
        if (out / "table.csv").exists():
            assert tables(out) == expected
            rounds, before = rounds + 1, {}
    out = tmp_path / f"killed-{rounds}"
    assert "12 points" in finished(sweep(toy, *TIMED, out=out))
    assert tables(out) == expected
    after = modified(out)
    assert {name: after[name] for name in before} == before
    assert not [path for path in out.rglob("*.partial-*") if path.name.startswith(".table")]


def test_a_killed_training_goes_on(tmp_path: Path) -> None:
    """A trained sweep that is killed twice ends as one that is not."""
    task = tmp_path / "task"
    task.mkdir()
    write_task(task, train=64, dev=32)
    small = [f"training.task={task}", "training.epochs=1", "training.evaluate_every=2"]
    words = [word for override in small for word in ("--set", override)]
    words += ["--vary", "devices[*].link.uplink=1,5,20 Mbit/s", "--vary", "wire.codec=nf4,int2"]
    lasted = lasts("wifi_5mbps", *words, out=tmp_path / "straight")
    for share in (0.7, 0.9):
        killed(sweep("wifi_5mbps", *words, out=tmp_path / "killed"), share * lasted)
    said = finished(sweep("wifi_5mbps", *words, out=tmp_path / "killed"))
    assert "6 points, 2 trajectories trained" in said
    assert tables(tmp_path / "killed") == tables(tmp_path / "straight")


def test_ctrl_c_says_how_to_go_on(toy: Path, tmp_path: Path) -> None:
    """And ends the workers as well."""
    process = sweep(toy, *TIMED, "--vary", "num_batches=5000,5001", out=tmp_path / "s")
    while not modified(tmp_path / "s"):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (130, "mobisim: interrupted; the same command goes on\n")
    assert 0 < len(modified(tmp_path / "s")) < 24


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and two workers on loopback: its address, and the workers."""
    file = folder / "scheduler.json"
    scheduler = _dask("scheduler", "--port", "0", "--scheduler-file", str(file), cwd=folder)
    own = ("--nthreads", "1", "--no-nanny", "--scheduler-file", str(file))
    workers = [_dask("worker", *own, "--local-directory", str(n), cwd=folder) for n in range(2)]
    try:
        yield _address(file), workers
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.wait()


def _dask(what: str, *words: str, cwd: Path) -> subprocess.Popen[bytes]:
    """Start a part of a cluster."""
    command = [sys.executable, "-m", f"distributed.cli.dask_{what}", "--no-dashboard"]
    return subprocess.Popen(
        [*command, "--host", "127.0.0.1", *words],
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _address(file: Path) -> str:
    begun = time.monotonic()
    while time.monotonic() - begun < PATIENCE_S:
        with contextlib.suppress(OSError, ValueError):
            return str(json.loads(file.read_text("utf-8"))["address"])
        time.sleep(0.05)
    raise AssertionError("the scheduler does not start")


def test_a_cluster_that_loses_a_worker_gives_the_same_table(toy: Path, tmp_path: Path) -> None:
    """A scheduler and two workers; one of them is killed in the middle."""
    pytest.importorskip("distributed")
    words = (*TIMED, "--vary", "num_batches=5000,5001")
    finished(sweep(toy, *words, out=tmp_path / "straight"))
    out = tmp_path / "cluster"
    with cluster(tmp_path) as (address, workers):
        process = sweep(toy, *words, "--scheduler", address, out=out)
        while len(modified(out)) < 3:
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        workers[0].kill()
        assert len(modified(out)) < 24
        assert "24 points" in finished(process)
    assert tables(out) == tables(tmp_path / "straight")


def test_a_scheduler_that_goes_away_leaves_what_is_done(toy: Path, tmp_path: Path) -> None:
    """The sweep ends with a word on it, and goes on without the cluster."""
    pytest.importorskip("distributed")
    words = (*TIMED, "--vary", "num_batches=5000,5001")
    out = tmp_path / "s"
    with cluster(tmp_path) as (address, _):
        process = sweep(toy, *words, "--scheduler", address, out=out)
        while len(modified(out)) < 3:
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert "scheduler has gone" in err
    done = modified(out)
    finished(sweep(toy, *words, out=out))
    after = modified(out)
    assert {name: after[name] for name in done} == done
