"""A profile of this machine, here and now, for one scenario: both roles, in its rhythm."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Literal, Self

import torch

from mobisim.prepare import Options
from mobisim.profiling.bundle import machine_name
from mobisim.profiling.statistics import quantile
from mobisim.scenario.profiles import BUNDLE_VERSION, Link, Measured
from mobisim.scenario.quantities import Sourced
from mobisim.scenario.samples import Sample
from mobisim.scenario.schema import Scenario
from mobisim.testbed.bed import Cores, lay_links
from mobisim.testbed.clock import now
from mobisim.testbed.endpoint import Keys
from mobisim.testbed.kernel_link import KernelLinks
from mobisim.testbed.plan import Plan
from mobisim.validation.pieces import Piece, Pieces, from_line
from mobisim.validation.rhythm import WORK, Rhythm
from mobisim.validation.simulation import simulated

ROUND_S, LEAST_BEATS = 6.0, 8  # of a round; and so many mini-batches at least
STARTING_S = 0.1  # until all know of a round
SETTLING = 2  # rounds in a rhythm before the first that counts
FIRST = 2 + SETTLING  # so many rounds pass before it: the delay's, and one that gives a rhythm
SLACK, SPARE_S = 2, 10.0  # a busy machine times its pieces later than the link carries
LEAST_S = 1e-9  # a difference of two times may come out as nothing
LOOPBACK = "127.0.0.1:0"
Role = Literal["device", "server"]
ROLES: tuple[Role, Role] = ("device", "server")


@dataclass(frozen=True)
class Profiles:
    """What a simulated run of the scenario needs."""

    device: Measured
    server: Measured
    delay_s: float  # from a message's last byte on the link until its device knows of its take-up

    def put_into(self, scenario: Scenario) -> Scenario:
        """The scenario on this machine."""
        (group,) = scenario.devices
        update = {"profile": self.device, "link": _delayed(group.link, self.delay_s)}
        return scenario.model_copy(
            update={
                "devices": (group.model_copy(update=update),),
                "server": scenario.server.model_copy(update={"profile": self.server}),
            }
        )

    def as_numbers(self) -> dict[str, object]:
        """What was measured, for JSON."""
        roles: dict[str, object] = {
            profile.role: [sample._asdict() for sample in profile.samples]
            for profile in (self.device, self.server)
        }
        return {"delay_s": self.delay_s, **roles}


def _delayed(link: Link, seconds: float) -> Link:
    """The link with so much more latency; as it is where that is random, or TCP's own."""
    latency = link.latency.value
    if link.tcp is not None or latency.distribution != "constant":
        return link
    later = latency.model_copy(update={"mean": latency.mean + seconds})
    return link.model_copy(update={"latency": link.latency.model_copy(update={"value": later})})


class Measurement:
    """Times the pieces of a scenario on this machine, round by round, in the scenario's rhythm.

    The rhythm is that of the scenario simulated with the pieces of all rounds so far; the first
    ones, timed as fast as they come, serve for the second round's rhythm alone. Between rounds its
    processes sleep, so that rounds and real runs can take turns. The link has something to carry
    for `rounds` at most.
    """

    def __init__(
        self, scenario: Scenario, rounds: int, limit: str = "auto", round_s: float = ROUND_S
    ) -> None:
        self._scenario, self._endless = scenario, _lasting(scenario, FIRST + rounds, round_s)
        self._limit, self._round_s = limit, round_s
        self._rhythm = Rhythm(0.0, {}, frozenset(WORK))  # as fast as they come, at first
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            folder = tempfile.TemporaryDirectory(prefix="mobisim-validate-")
            self._folder = Path(stack.enter_context(folder))
            path = self._folder / "scenario.json"
            path.write_text(self._endless.model_dump_json(), encoding="utf-8")
            plan = Plan.of(self._endless, Options())
            self._links, _ = lay_links(stack, self._limit, plan)
            self._roles = [stack.enter_context(_child(role, path, self._links)) for role in ROLES]
            self._connect(Keys.make(self._folder / "keys").folder)
            self._find_rhythm()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def round(self) -> Profiles:
        """A profile of this machine now, from this round alone.

        With nothing of earlier rounds in it, what a round and the real run after it are apart by
        tells nothing of the next ones: such pairs can be counted as independent.
        """
        self._time(self._rhythm)
        # Each side's pace hangs on how often the other works: a rhythm of one round alone would
        # swing from too fast to too slow and back.
        self._rhythm = self._rhythm_of([child.pool() for child in self._roles])
        return self._profiles([child.pieces for child in self._roles])

    def _profiles(self, pieces: Sequence[Pieces]) -> Profiles:
        device, server = map(_profile, ROLES, pieces)
        return Profiles(device, server, self._delay_s)

    def _rhythm_of(self, pieces: Sequence[Pieces]) -> Rhythm:
        return Rhythm.of(simulated(self._profiles(pieces).put_into(self._scenario)))

    def _find_rhythm(self) -> None:
        device, _ = self._roles
        device.ask("delay", self._round_s / 2)
        self._delay_s = max(float(device.line()), 0.0)
        self._time(self._rhythm)
        self._rhythm = self._rhythm_of([child.pieces for child in self._roles])
        for _ in range(SETTLING):
            self.round()

    def _time(self, rhythm: Rhythm) -> None:
        seconds = max(self._round_s, LEAST_BEATS * rhythm.period_s)
        origin_s = now() + STARTING_S
        wire_beat = rhythm.beat("uplink", origin_s).numbers
        for child in self._roles:
            child.ask("time", seconds, rhythm.beat(child.role, origin_s).numbers, wire_beat)
        for child in self._roles:
            child.keep()

    def _connect(self, keys: Path) -> None:
        (device, server), links = self._roles, self._links
        paced = links is None
        server.ask("open", links.listening if links else LOOPBACK, str(keys), paced)
        address = server.line()
        device.ask("open", links.server_address(0) if links else address, str(keys), paced)
        device.line()


def _lasting(scenario: Scenario, rounds: int, round_s: float) -> Scenario:
    """The scenario with so many epochs that its link is busy for so many rounds at least."""
    plan = Plan.of(scenario, Options())
    training = scenario.training
    assert training is not None
    group = plan.group(0)
    busy = sum(
        part.transfer_s
        for batch in range(plan.num_batches)
        for part in group.batches[plan.shape_number(batch)].parts
    )
    of_a_round = max(round_s / busy, LEAST_BEATS / plan.num_batches)  # in such runs
    epochs = training.epochs * math.ceil(SLACK * rounds * of_a_round + SPARE_S / busy)
    return scenario.model_copy(update={"training": training.model_copy(update={"epochs": epochs})})


@dataclass
class Child:
    """A process that times one role's pieces, and what it found: in the last round, and in all."""

    role: Role
    process: subprocess.Popen[str]
    pieces: Pieces = field(default_factory=dict)
    pooled: Pieces = field(default_factory=dict)

    def pool(self) -> Pieces:
        """Those of the last round too, with those of earlier ones."""
        for piece, seconds in self.pieces.items():
            self.pooled.setdefault(piece, []).extend(seconds)
        return self.pooled

    def ask(self, *words: object) -> None:
        """Let it do something."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()

    def keep(self) -> None:
        """Wait for it, and keep the pieces that it timed."""
        self.pieces = from_line(self.line())

    def line(self) -> str:
        """The next line that it says.

        Raises:
            RuntimeError: it has ended.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("a process that times this machine has ended")
        return line.strip()


@contextlib.contextmanager
def _child(role: Role, scenario: Path, links: KernelLinks | None) -> Iterator[Child]:
    is_server, cores = role == "server", Cores.share(1)
    core = cores.server if is_server else cores.devices[0]
    words = links.inside(None if is_server else 0) if links else []
    words += [sys.executable, "-m", "mobisim.validation.pieces", role, str(scenario)]
    words += [] if core is None else ["--core", str(core)]
    with subprocess.Popen(  # noqa: S603 - our own command line
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        child = Child(role, process)
        try:
            child.line()
            yield child
        finally:
            process.kill()


def where_and_when() -> str:
    """This machine and today, in words."""
    return f"{machine_name(torch.device('cpu'))}, {datetime.now(UTC).date()}"


def _profile(role: Role, pieces: Pieces) -> Measured:
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
        method="pieces of the scenario's own model, in its rhythm, means in place of medians",
        grid="the scenario's own shapes",
        ranges={},
        num_samples=len(pieces),
        samples=tuple(_sample(piece, pieces[piece]) for piece in sorted(pieces)),
    )


def _sample(piece: Piece, seconds: Sequence[float]) -> Sample:
    what, batch, length = piece
    # A run adds up its pieces, the long ones, too: the mean tells how long they last together.
    mean, low, high = (max(one, LEAST_S) for one in (fmean(seconds), *_tenths(seconds)))
    return Sample(what, batch, length, 1, 1, "fp32", 1, mean, low, high, len(seconds))


def _tenths(seconds: Sequence[float]) -> tuple[float, float]:
    return quantile(seconds, 0.1), quantile(seconds, 0.9)
