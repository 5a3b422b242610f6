"""A bell: one thread rings it, another, asleep in a poller, wakes."""

from __future__ import annotations

import contextlib
import socket


class Bell:
    """Rung from any thread; `ear` is what a poller listens to."""

    def __init__(self) -> None:
        self._hand, self.ear = socket.socketpair()
        self._hand.setblocking(False)
        self.ear.setblocking(False)

    def ring(self) -> None:
        """Wake the sleeper; ringing twice wakes it once."""
        with contextlib.suppress(BlockingIOError):
            self._hand.send(b"!")

    def hush(self) -> None:
        """Forget the rings so far."""
        with contextlib.suppress(BlockingIOError):
            self.ear.recv(4096)

    def close(self) -> None:
        """Take the bell down."""
        self._hand.close()
        self.ear.close()
