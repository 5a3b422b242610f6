"""How a thread sleeps until a socket of ZeroMQ's, another thread or the clock wakes it."""

from __future__ import annotations

import contextlib
import select
import socket

import zmq


class Bell:
    """Rung from any thread; `ear` hears it."""

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


class Sleep:
    """Sleeps to the microsecond, which ZeroMQ's poller, counting milliseconds, does not.

    A socket of ZeroMQ's tells through a file descriptor that something may be new with it; what,
    it must be asked before each sleep.
    """

    def __init__(self, bell: Bell, *wires: zmq.Socket[bytes]) -> None:
        self._bell, self._wires = bell, wires
        self._ears = [bell.ear.fileno(), *(int(wire.getsockopt(zmq.FD)) for wire in wires)]

    def until_woken(self, seconds: float) -> None:
        """Sleep until there is something to receive, the bell rings, or the time is over."""
        if not any(readable(wire) for wire in self._wires):
            heard, _, _ = select.select(self._ears, [], [], max(seconds, 0.0))
            if self._ears[0] in heard:
                self._bell.hush()


def readable(wire: zmq.Socket[bytes]) -> bool:
    """Whether a socket has something to receive."""
    return bool(int(wire.getsockopt(zmq.EVENTS)) & zmq.POLLIN)


def writable(wire: zmq.Socket[bytes]) -> bool:
    """Whether a socket takes a frame."""
    return bool(int(wire.getsockopt(zmq.EVENTS)) & zmq.POLLOUT)
