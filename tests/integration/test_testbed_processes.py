"""The testbed as users start it: processes of their own, killed without warning."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from commands import mobisim as command
from commands import start
from tiny import save_backbone, write_task

from mobisim.testbed.kernel_link import NotPermittedError, ip, kernel_links

SCENARIO = """
name: tiny
model: {tiny}/config.json
wire: {{codec: nf4, block_size: 16}}
training: {{task: {tiny}, backbone: {tiny}, batch_size: 4, sequence_length: 12, epochs: 1,
           padding: longest, evaluate_every: 6}}
devices:
  - profile: {{kind: fixed, forward_s: 5 ms, encode_s: 1 ms}}
    link: {{kind: constant, uplink: 200 kbit/s, latency: 1 ms, overhead_bytes: 40}}
server: {{profile: {{kind: fixed, step_s: 5 ms}}}}
"""
NUM_BATCHES = 11


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a tiny backbone, a tiny task and a scenario of a few seconds."""
    tiny = tmp_path / "tiny"
    tiny.mkdir()
    save_backbone(tiny)
    write_task(tiny)
    (tmp_path / "tiny.yaml").write_text(SCENARIO.format(tiny=tiny))
    return tmp_path


def losses(place: Path) -> Any:
    return pq.read_table(place / "steps.parquet").column("loss").to_pylist()


def wait_for(holds: Callable[[], object], parent: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert parent.poll() is None, parent.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def children(parent: int, word: str) -> list[int]:
    """The processes that a process started with this word."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            ppid = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue  # it has just ended
        if ppid == parent and word.encode() in words:
            found.append(int(entry.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found in /proc")
def test_killed_without_warning_it_goes_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """First the device, then the server is killed: every mini-batch is stepped once all the same.

    The losses are those of the simulated run, to the last bit.
    """
    words = ["testbed", "tiny.yaml", "--link", "sender", "--out", "real", "--no-plots"]
    parent = start(*words, "--checkpoint-every", "0", cwd=folder)
    checkpoint = folder / "real.checkpoint"
    for victim in ("device", "serve"):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        wait_for(
            lambda: checkpoint.exists() and checkpoint.stat().st_mtime_ns > before,  # noqa: B023
            parent,
        )
        (pid,) = children(parent.pid, victim)
        os.kill(pid, signal.SIGKILL)
    out, err = parent.communicate(timeout=180)
    assert parent.returncode == 0, err
    assert "Traceback" not in out + err
    plain = folder / "simulated"
    assert command(capsys, "run", folder / "tiny.yaml", "--out", plain, "--no-plots").code == 0
    assert losses(folder / "real") == losses(plain)
    assert len(losses(folder / "real")) == NUM_BATCHES
    assert not checkpoint.exists()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found in /proc")
def test_an_interrupt_leaves_nothing_behind(folder: Path) -> None:
    """Server and device end with the command, and nothing is published."""
    words = ["testbed", "tiny.yaml", "--link", "sender", "--out", "real", "--no-plots"]
    parent = start(*words, cwd=folder)
    wait_for(lambda: children(parent.pid, "device"), parent)
    pids = [*children(parent.pid, "device"), *children(parent.pid, "serve")]
    parent.send_signal(signal.SIGINT)
    _, err = parent.communicate(timeout=60)
    assert parent.returncode == 130
    assert "interrupted; nothing was published" in err
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not (folder / "real").exists()


def test_the_kernel_keeps_nothing(folder: Path) -> None:
    """Namespaces go with an interrupt, and those of a command that was killed with the next one."""
    try:
        with kernel_links([]):
            before = namespaces()
    except NotPermittedError:
        pytest.skip("this machine does not let us limit links")
    words = ["testbed", "tiny.yaml", "--link", "kernel", "--out", "real", "--no-plots"]
    killed = start(*words, cwd=folder)
    wait_for(lambda: children(killed.pid, "device"), killed)
    killed.kill()
    killed.communicate(timeout=60)
    left = namespaces() - before
    assert left
    parent = start(*words, cwd=folder)
    wait_for(lambda: children(parent.pid, "device"), parent)
    made = namespaces() - before
    assert made
    assert not made & left
    parent.send_signal(signal.SIGINT)
    parent.communicate(timeout=60)
    assert not made & namespaces()


def namespaces() -> set[str]:
    return {line.split()[0] for line in ip("netns", "list").splitlines()}
