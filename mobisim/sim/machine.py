"""One machine for device and server, which slow each other down."""

from __future__ import annotations

from functools import partial
from typing import Any

from mobisim.sim.kernel import Alarm, Callback, Clock
from mobisim.world import Contention

DEVICE_SIDE, SERVER_SIDE = 0, 1


class Piece:
    """A piece of work under way: what is left of it at full pace, as of `since`."""

    def __init__(self, left: float, since: float, rank: int, then: Callback) -> None:
        self.left, self.since, self.rank, self.then = left, since, rank, then
        self.slowdown = 0.0  # set as it begins
        self.alarm: Alarm | None = None


class Machine:
    """What the one device and the one worker compute on."""

    def __init__(self, clock: Clock, contention: Contention) -> None:
        self.clock = clock
        self.beside = contention.device_slowdown, contention.server_slowdown
        self.pieces: list[Piece | None] = [None, None]

    def begin(self, side: int, seconds: float, rank: int, then: Callback) -> None:
        """Begin a piece of work that lasts `seconds` at full pace; call `then` at its end."""
        now = self.clock.now
        self.pieces[side] = piece = Piece(seconds, now, rank, then)
        self._retime(1 - side)
        self._set(side, piece)

    def _slowdown(self, side: int) -> float:
        return self.beside[side] if self.pieces[1 - side] is not None else 1.0

    def _set(self, side: int, piece: Piece) -> None:
        piece.slowdown = self._slowdown(side)
        at = piece.since + piece.left * piece.slowdown
        piece.alarm = Alarm(self.clock, at, piece.rank, partial(self._ends, side, piece))

    def _ends(self, side: int, piece: Piece, event: Any) -> None:
        self.pieces[side] = None
        self._retime(1 - side)
        piece.then(event)

    def _retime(self, side: int) -> None:
        """Go on with the slowdown that holds from now on."""
        piece, now = self.pieces[side], self.clock.now
        if piece is None:
            return
        assert piece.alarm is not None
        piece.alarm.cancel()
        piece.left -= (now - piece.since) / piece.slowdown
        piece.since = now
        self._set(side, piece)
