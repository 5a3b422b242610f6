"""The whole testbed on one machine: starts server and devices, watches them, clears up."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from mobisim.errors import InputError, MobisimError
from mobisim.prepare import Options
from mobisim.scenario.load import load
from mobisim.testbed.endpoint import Keys
from mobisim.testbed.kernel_link import KernelLinks, NotPermittedError, Rates, kernel_links
from mobisim.testbed.plan import Plan

POLL_S = 0.05
ANY_PORT = "127.0.0.1:0"
START_S = 120.0
RESTARTS = 3
CHECKPOINT_S = 30.0


class HalfFailedError(MobisimError):
    """A process of the testbed ended with an error, which it has told itself."""


@dataclass(frozen=True)
class Bed:
    """What to run, and how."""

    scenario: str
    overrides: tuple[str, ...] = ()
    train: bool = True
    out: Path | None = None
    limit: str = "auto"
    plots: bool = True
    checkpoint_every_s: float = CHECKPOINT_S

    @property
    def words(self) -> list[str]:
        """What both halves are told of the scenario."""
        overrides = [word for value in self.overrides for word in ("--set", value)]
        return [self.scenario, *overrides, *["--no-train"] * (not self.train)]


@dataclass(frozen=True)
class Cores:
    """Who runs where: the server on a core of its own where there are enough."""

    server: int | None
    devices: tuple[int | None, ...]

    @classmethod
    def share(cls, num_devices: int) -> Cores:
        """The cores that this process may use, shared."""
        if not hasattr(os, "sched_getaffinity"):
            return cls(None, (None,) * num_devices)
        *rest, last = sorted(os.sched_getaffinity(0))
        rest = rest or [last]
        return cls(last, tuple(rest[i % len(rest)] for i in range(num_devices)))


def run_bed(bed: Bed) -> Path:
    """Run a scenario for real; the place of its published result.

    Raises:
        InputError: no testbed can run it.
        HalfFailedError: a process failed for good.
    """
    plan = Plan.of(load(bed.scenario, bed.overrides), Options(train=bed.train))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mobisim-testbed-")))
        stack.enter_context(_ending_on_terminate())
        links, why = lay_links(stack, bed.limit, plan)
        return stack.enter_context(_Processes(bed, plan, folder, links, why)).run()


def _rates(plan: Plan, device: int) -> Rates:
    group = plan.group(device)
    return Rates(group.uplink_bits_per_s, group.downlink_bits_per_s)


def lay_links(
    stack: contextlib.ExitStack, limit: str, plan: Plan
) -> tuple[KernelLinks | None, str]:
    """The kernel's links, or None and in words why the sender limits them.

    Raises:
        InputError: the kernel should, and cannot.
    """
    if limit == "sender":
        return None, "asked for"
    if not plan.is_steady:
        return _refused(limit, "the kernel keeps constant rates only")
    rates = [_rates(plan, device) for device in range(plan.num_devices)]
    try:
        return stack.enter_context(kernel_links(rates)), ""
    except NotPermittedError as error:
        return _refused(limit, str(error))


def _refused(limit: str, why: str) -> tuple[None, str]:
    if limit == "kernel":
        raise InputError("no link of the kernel's", where="--link", got=why)
    return None, why


@contextlib.contextmanager
def _ending_on_terminate() -> Iterator[None]:
    """A polite kill is treated as Ctrl-C, so that what was made is removed."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass
class _Child:
    """A process of the testbed and how often it was started again."""

    words: list[str]
    process: subprocess.Popen[str]
    restarts: int = 0


@dataclass
class _Processes:
    """The server and its devices."""

    bed: Bed
    plan: Plan
    folder: Path
    links: KernelLinks | None
    why: str
    children: list[_Child] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.keys = Keys.make(self.folder / "keys")
        self.cores = Cores.share(self.plan.num_devices)
        self.address_file = self.folder / "address"
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children:
            with contextlib.suppress(ProcessLookupError):
                child.process.kill()
            child.process.wait()
            for pipe in (child.process.stdin, child.process.stdout):
                if pipe is not None:
                    pipe.close()

    def run(self) -> Path:
        """Start all, see them through to the end."""
        listening = self.links.listening if self.links else ANY_PORT
        server = self._start(self._server_words(listening))
        # At once: devices look for the server when they have prepared themselves.
        devices = [self._start(self._device_words(i)) for i in range(len(self.cores.devices))]
        address = self._address(server)
        while server.process.poll() is None or self._again(server, address):
            for device in devices:
                if device.process.poll():
                    self._again(device, address)
            time.sleep(POLL_S)
        assert server.process.stdout is not None
        return Path(server.process.stdout.read().strip().splitlines()[-1])

    def _server_words(self, listening: str) -> list[str]:
        bed = self.bed
        words = [
            *(self.links.inside(None) if self.links else ()),
            *_mobisim("serve"), *bed.words, "--listen", listening,
            "--about", json.dumps(self.about()), "--checkpoint-every", str(bed.checkpoint_every_s),
        ]  # fmt: skip
        words += ["--out", str(bed.out)] if bed.out else []
        words += [] if bed.plots else ["--no-plots"]
        return [*words, *self._common(self.cores.server)]

    def _device_words(self, index: int) -> list[str]:
        inside = self.links.inside(index) if self.links else []
        there = self.links.server_address(index) if self.links else ANY_PORT
        words = [*inside, *_mobisim("device"), *self.bed.words]
        words += ["--connect", there, "--index", str(index)]
        return [*words, *self._common(self.cores.devices[index])]

    def _common(self, core: int | None) -> list[str]:
        words = ["--keys", str(self.keys.folder), "--leash"]
        words += ["--address-file", str(self.address_file)]
        words += ["--kernel-link"] if self.links else []
        return words if core is None else [*words, "--core", str(core)]

    def about(self) -> dict[str, object]:
        """What the manifest says of how it was run."""
        return {
            "link": "kernel: tc tbf on a veth pair" if self.links else "sender: token bucket",
            "link_reason": self.why,
            "transport": "ZeroMQ over TCP with CURVE keys",
            "server_core": self.cores.server,
            "device_cores": list(self.cores.devices),
        }

    def _start(self, words: list[str]) -> _Child:
        child = _Child(words, _popen(words))
        self.children.append(child)
        return child

    def _address(self, server: _Child) -> str:
        deadline = time.monotonic() + START_S
        while not self.address_file.exists():
            if server.process.poll() is not None or time.monotonic() > deadline:
                raise HalfFailedError("the server did not start")
            time.sleep(POLL_S)
        return self.address_file.read_text(encoding="utf-8")

    def _again(self, child: _Child, address: str) -> bool:
        """Start a child again that was killed; False where it is done.

        Raises:
            HalfFailedError: it ended with an error, or was killed too often.
        """
        code = child.process.returncode
        if code == 0:
            return False
        # An error that it has told itself will come again; a kill may not.
        if code in (1, MobisimError.exit_code) or child.restarts == RESTARTS:
            raise HalfFailedError("a process of the testbed failed; nothing was published")
        words = child.words
        if "--listen" in words and child.restarts == 0:
            words = child.words = [address if w == ANY_PORT else w for w in words]
            words.append("--resume")
        child.restarts += 1
        child.process = _popen(words)
        return True


def _mobisim(command: str) -> list[str]:
    return [sys.executable, "-m", "mobisim", command]


def _popen(words: list[str]) -> subprocess.Popen[str]:
    # A session of its own, so that Ctrl-C reaches us alone; its standard input is the leash.
    return subprocess.Popen(  # noqa: S603 - our own command line
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
