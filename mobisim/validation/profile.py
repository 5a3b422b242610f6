"""A profile of this machine, here and now, for one scenario: both roles, alone and side by side."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import torch

from mobisim.profiling.bundle import machine_name
from mobisim.profiling.statistics import quantile
from mobisim.scenario.profiles import BUNDLE_VERSION, Contention, Measured
from mobisim.scenario.quantities import Sourced
from mobisim.scenario.samples import Sample
from mobisim.scenario.schema import Scenario
from mobisim.testbed.bed import Cores
from mobisim.validation.pieces import Piece, read_pieces

ROUNDS, ROUND_S = 3, 2.0  # rounds of each role alone and of both, and seconds of each
Role = Literal["device", "server"]
Pieces = dict[Piece, list[float]]


@dataclass(frozen=True)
class Profiles:
    """What a simulated run of the scenario needs."""

    device: Measured
    server: Measured

    def put_into(self, scenario: Scenario) -> Scenario:
        """The scenario on this machine, both roles sharing it."""
        (group,) = scenario.devices
        return scenario.model_copy(
            update={
                "devices": (group.model_copy(update={"profile": self.device}),),
                "server": scenario.server.model_copy(
                    update={"profile": self.server, "colocated": True}
                ),
            }
        )


def measure(scenario: Scenario, round_s: float = ROUND_S) -> Profiles:
    """Time the pieces of a scenario on this machine; half a minute."""
    cores = Cores.share(1)
    with tempfile.TemporaryDirectory(prefix="mobisim-validate-") as folder:
        path = Path(folder) / "scenario.json"
        path.write_text(scenario.model_dump_json(), encoding="utf-8")
        with (
            _child("device", path, cores.devices[0]) as device,
            _child("server", path, cores.server) as server,
        ):
            return _in_rounds(device, server, round_s)


def _in_rounds(device: Child, server: Child, round_s: float) -> Profiles:
    alone: tuple[Pieces, Pieces] = ({}, {})
    beside: tuple[Pieces, Pieces] = ({}, {})
    for _ in range(ROUNDS):
        for child, found in zip((device, server), alone, strict=True):
            child.begin(round_s)
            child.end(found)
        device.begin(round_s)
        server.begin(round_s)
        device.end(beside[0])
        server.end(beside[1])
    return Profiles(
        _profile("device", alone[0], beside[0]), _profile("server", alone[1], beside[1])
    )


@dataclass
class Child:
    """A process that times one role's pieces."""

    process: subprocess.Popen[str]

    def begin(self, seconds: float) -> None:
        """Let it time for so long."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()

    def end(self, found: Pieces) -> None:
        """Wait for it, and add what it found."""
        for piece, seconds in read_pieces(self.line()):
            found.setdefault(piece, []).extend(seconds)

    def line(self) -> str:
        """The next line that it says.

        Raises:
            RuntimeError: it has ended.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("a process that times this machine has ended")
        return line


@contextlib.contextmanager
def _child(role: Role, scenario: Path, core: int | None) -> Iterator[Child]:
    words = [sys.executable, "-m", "mobisim.validation.pieces", role, str(scenario)]
    words += [] if core is None else ["--core", str(core)]
    with subprocess.Popen(  # noqa: S603 - our own command line
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        child = Child(process)
        try:
            child.line()
            yield child
        finally:
            process.kill()


def where_and_when() -> str:
    """This machine and today, in words."""
    return f"{machine_name(torch.device('cpu'))}, {datetime.now(UTC).date()}"


def _profile(role: Role, alone: Pieces, beside: Pieces) -> Measured:
    return Measured(
        kind="measured",
        name=f"this-machine-{role}",
        version=BUNDLE_VERSION,
        role=role,
        precision=Sourced(value="fp32", source="measured"),
        threads=1,
        machine=machine_name(torch.device("cpu")),
        software={"torch": torch.__version__},
        date=str(datetime.now(UTC).date()),
        method="pieces of the scenario's own model, each role alone, medians",
        grid="the scenario's own shapes",
        ranges={},
        contention=_contention(role, alone, beside),
        num_samples=len(alone),
        samples=tuple(_sample(piece, seconds) for piece, seconds in sorted(alone.items())),
    )


def _sample(piece: Piece, seconds: Sequence[float]) -> Sample:
    what, batch, length = piece
    low, median, high = (quantile(seconds, share) for share in (0.1, 0.5, 0.9))
    return Sample(what, batch, length, 1, 1, "fp32", 1, median, low, high, len(seconds))


def _contention(role: Role, alone: Pieces, beside: Pieces) -> Contention:
    """How much longer everything takes beside the other role: by the largest shape."""
    largest = max(piece[1] * piece[2] for piece in alone)
    mine = [piece for piece in alone if piece[1] * piece[2] == largest]
    usual = sum(quantile(alone[piece], 0.5) for piece in mine)
    ratios = [sum(quantile(beside[piece], q) for piece in mine) / usual for q in (0.1, 0.5, 0.9)]
    return Contention(
        slowdown=Sourced(value=ratios[1], source="measured"),
        p10=ratios[0],
        p90=ratios[2],
        repeats=min(len(beside[piece]) for piece in mine),
        beside=f"the {'server' if role == 'device' else 'device'}'s pieces",
    )
