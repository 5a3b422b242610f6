"""One clock for all processes of a machine, and the offset between the clocks of two."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

now = time.monotonic  # CLOCK_MONOTONIC: the same for all processes since the machine started


def clock_name() -> bytes:
    """Sixteen bytes that are equal where two processes read the very same clock."""
    if _BOOT_ID.is_file():
        return uuid.UUID(_BOOT_ID.read_text(encoding="ascii").strip()).bytes
    return uuid.uuid4().bytes  # no way to tell: then no two clocks are taken for one


@dataclass
class Offset:
    """What to add to one's own clock to get the peer's, from round trips.

    The shortest round trip bounds the error by half its length: D. Mills, RFC 5905, section 8.
    """

    seconds: float = 0.0
    error: float = float("inf")

    def learn(self, sent_at: float, theirs: float, received_at: float) -> None:
        """A question left at `sent_at`, was answered at `theirs`, came back at `received_at`."""
        error = (received_at - sent_at) / 2
        if error < self.error:
            self.seconds, self.error = theirs - (sent_at + received_at) / 2, error
