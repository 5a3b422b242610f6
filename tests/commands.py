"""The command line for tests: called in this process, or started in one of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from mobisim.cli import main

# Times are stated and no model is named, so that a run takes milliseconds.
TOY = """\
# How long do five mini-batches take?
name: toy
num_batches: 5
deliver: none
wire: {payload_bytes: 1000000}
devices:
  - profile: {kind: fixed, forward_s: 0.4, encode_s: 0.0}
    link: {kind: constant, uplink: 5 Mbit/s, latency: 10 ms, overhead_bytes: 0}
    count: 1
    run_ahead: 4
server: {profile: {kind: fixed, step_s: 0.2}, workers: 1}
"""


class Ran(NamedTuple):
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str


def mobisim(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Ran:
    """Run a command in this process."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in arguments])
    written = capsys.readouterr()
    code = ended.value.code
    return Ran(code if isinstance(code, int) else 1, written.out, written.err)


def start(*arguments: str | Path, cwd: Path) -> subprocess.Popen[str]:
    """Start a command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "mobisim", *map(str, arguments)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
