"""Links limited by the kernel: network namespaces, veth pairs, token bucket filters.

All that is made bears a token, which stands in a locked file before anything is made. What a killed
run left behind is therefore told from what another run is using, and removed by the next start.
Nothing else on the machine is touched: both ends of each pair are born inside the namespaces.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PREFIX = "mobisim"
PORT = 5555
LUMP_S, LEAST_LUMP, MOST_LUMP = 0.002, 1_600, 60_000
QUEUE_BYTES = 64 * 2**20  # never dropped: the sender's socket holds less than this
TOOLS = ("ip", "tc")


class NotPermittedError(Exception):
    """This machine does not let us limit a link."""


@dataclass(frozen=True)
class Rates:
    """Bits per second of one device's link."""

    uplink: float
    downlink: float


@dataclass(frozen=True)
class KernelLinks:
    """Namespaces that are there: one for the server and one for each device."""

    token: str

    def inside(self, device: int | None) -> list[str]:
        """What to put before a command so that it runs in a device's namespace, or the server's."""
        return ["ip", "netns", "exec", self.namespace(device)]

    def namespace(self, device: int | None) -> str:
        """The namespace of a device, or the server's."""
        return f"{PREFIX}-{self.token}-" + ("server" if device is None else f"device-{device}")

    def server_address(self, device: int) -> str:
        """Where a device finds the server."""
        return f"10.{device >> 8 & 255}.{device & 255}.1:{PORT}"

    @property
    def listening(self) -> str:
        """Where the server listens: within its namespace only devices can reach it."""
        return f"0.0.0.0:{PORT}"

    def connect(self, device: int, rates: Rates) -> None:
        """Lay a device's link."""
        near, far = self.namespace(device), self.namespace(None)
        up, down = f"up{device}", f"down{device}"
        net = f"10.{device >> 8 & 255}.{device & 255}"
        ip("netns", "add", near)
        ip("link", "add", "name", up, "netns", near,
           "type", "veth", "peer", "name", down, "netns", far)  # fmt: skip
        for space, link, host, rate in (
            (near, up, 2, rates.uplink),
            (far, down, 1, rates.downlink),
        ):
            ip("-n", space, "addr", "add", f"{net}.{host}/24", "dev", link)
            ip("-n", space, "link", "set", link, "up")
            _limit(space, link, rate)

    def remove(self) -> None:
        """Remove every namespace of this token; the links go with them."""
        for name in _namespaces():
            if name.startswith(f"{PREFIX}-{self.token}-"):
                with contextlib.suppress(NotPermittedError):
                    ip("netns", "delete", name)


def _limit(space: str, link: str, bits_per_s: float) -> None:
    # What leaves at once: a timer for each packet would cost a quarter of a core at 70 Mbit/s, and
    # segments of 64 kB would leave in lumps of many milliseconds.
    lump = min(MOST_LUMP, max(LEAST_LUMP, int(bits_per_s * LUMP_S / 8)))
    ip("-n", space, "link", "set", link, "gso_max_size", str(lump))
    _call(
        "tc", "-n", space, "qdisc", "add", "dev", link, "root", "tbf",
        "rate", f"{round(bits_per_s)}bit", "burst", str(2 * lump), "limit", str(QUEUE_BYTES),
    )  # fmt: skip


def ip(*words: str) -> str:
    """What `ip` answers.

    Raises:
        NotPermittedError: it refuses.
    """
    return _call("ip", *words)


def _call(*words: str) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603 - fixed words
    except OSError as error:
        raise NotPermittedError(str(error)) from error
    if done.returncode:
        raise NotPermittedError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def _namespaces() -> list[str]:
    return [line.split()[0] for line in ip("netns", "list").splitlines() if line.strip()]


@contextlib.contextmanager
def kernel_links(rates: Sequence[Rates]) -> Iterator[KernelLinks]:
    """Links at these rates, one per device, as long as the context is open.

    Raises:
        NotPermittedError: no root, no tools, or the kernel refuses.
    """
    check_permitted()
    sweep()
    with _token() as token:
        links = KernelLinks(token)
        try:
            ip("netns", "add", links.namespace(None))
            for device, each in enumerate(rates):
                links.connect(device, each)
            yield links
        finally:
            links.remove()


def check_permitted() -> None:
    """Refuse early.

    Raises:
        NotPermittedError: no root, or no tools.
    """
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise NotPermittedError(f"not installed: {', '.join(missing)}")
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        raise NotPermittedError("only root may limit links")


def sweep() -> None:
    """Remove what killed runs left behind."""
    for path in _locks().glob("*.lock"):
        with path.open("a", encoding="ascii") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue  # its run is alive
            KernelLinks(path.stem).remove()
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _token() -> Iterator[str]:
    """A new token, locked in a file of its name as long as this process lives."""
    path = _locks() / f"{secrets.token_hex(4)}.lock"
    with path.open("a", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield path.stem
        finally:
            path.unlink(missing_ok=True)


def _locks() -> Path:
    folder = Path(tempfile.gettempdir()) / f"{PREFIX}-links-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.geteuid():
        raise NotPermittedError(f"{folder} belongs to somebody else")
    return folder
