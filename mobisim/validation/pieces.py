"""Pieces of a scenario's work, timed alone: the child process that times them, and its commands.

A device's pieces are embedding, one block, and the encoding of one tap; a server's the decoding of
one tap, one adapter's forward and the step. They are run by the code that the testbed runs, on real
mini-batches, in the rhythm that the parent asks for.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import logging
import random
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mobisim.prepare import Options
from mobisim.scenario.schema import Scenario
from mobisim.span import DECODE, SIDE_FORWARD, STEP
from mobisim.testbed.clock import now
from mobisim.testbed.device import Backend
from mobisim.testbed.endpoint import Address, Keys
from mobisim.testbed.plan import Plan
from mobisim.testbed.process import settle
from mobisim.testbed.worker import Bench
from mobisim.validation.rhythm import Beat, Numbers
from mobisim.validation.wire import Receiving, Sending, Wire

BATCHES_PER_SHAPE = 4
Piece = tuple[str, int, int]  # what, samples of the mini-batch, tokens of each as sent
Pieces = dict[Piece, list[float]]
Told = Callable[[str, float], None]
Wait = Callable[[int], None]  # until a part is due


def as_line(pieces: Pieces) -> str:
    """Pieces as one line of text."""
    return json.dumps([[*piece, seconds] for piece, seconds in pieces.items()])


def from_line(line: str) -> Pieces:
    """The pieces that a line tells."""
    return {(what, batch, length): s for what, batch, length, s in json.loads(line)}


class Timing:
    """Seconds of pieces, gathered by their shape."""

    def __init__(self, plan: Plan, run: Callable[[int, Told, Wait], None]) -> None:
        self.plan, self._run = plan, run
        self._some = plan.some_batches(BATCHES_PER_SHAPE)
        self._next = self._by_turns()

    def _by_turns(self) -> Iterator[int]:
        order = random.Random(0)  # noqa: S311 - an order, no secret
        while True:
            order.shuffle(self._some)
            yield from self._some

    def take(self, seconds: float, beat: Beat) -> Pieces:
        """Time all shapes over and over, in random order, for so long; each once at least."""
        found: Pieces = {}
        until, done, number = now() + seconds, 0, 0
        while now() < until or done < len(self._some):
            self._time(next(self._next), found, partial(beat.wait, number))
            number = beat.after(number)
            done += 1
        return found

    def _time(self, batch: int, found: Pieces, wait: Wait) -> None:
        shape = self.plan.shape(batch)
        at = shape.num_samples, shape.num_tokens // shape.num_samples

        def told(what: str, lasted: float) -> None:
            found.setdefault((what, *at), []).append(lasted)

        self._run(batch, told, wait)


def device_timing(plan: Plan) -> Timing:
    """The device's pieces."""
    backend = Backend(plan, plan.trainer())
    backend.warm_up()
    return Timing(plan, partial(_time_device, backend))


def _time_device(backend: Backend, batch: int, told: Told, wait: Wait) -> None:
    """One mini-batch, with a lap at each tap: embedding and blocks, then what is sent of them."""
    trainer, by_layer = backend.trainer, backend.plan.prepared.system.by_layer
    ids = [trainer.data.train.tokens[i] for i in trainer.batches[batch]]
    laps: list[float] = []
    encoding: list[float] = []
    taps: list[Tensor] = []
    wait(0)
    since = now()

    def take(tap_ND: Tensor) -> None:
        nonlocal since
        laps.append(now() - since)
        taps.append(tap_ND)
        if by_layer:
            encoding.append(_lasting(lambda: backend.pack(batch, len(taps), taps[-1:])))
        since = now()

    trainer.backbone.stream(ids, trainer.tap_layers, take, trainer.padded_length(batch))
    if not by_layer:
        whole = _lasting(lambda: backend.pack(batch, 1, taps))
        encoding += [whole / len(taps)] * len(taps)
    first, *rest = laps
    layers = trainer.tap_layers
    # With one tap there are no laps to tell blocks by: the embedding counts as one block more.
    block = sum(rest) / (layers[-1] - layers[0]) if rest else first / (layers[0] + 1)
    told("piece:block", block)
    told("piece:embedding", first - layers[0] * block)
    told("piece:encode", sum(encoding) / len(encoding))


def _lasting(work: Callable[[], object]) -> float:
    begun = now()
    work()
    return now() - begun


def server_timing(plan: Plan) -> Timing:
    """The server's pieces."""
    bench = Bench(plan, plan.trainer())
    bench.warm_up()
    messages = {batch: bench.rehearse(batch) for batch in plan.some_batches(BATCHES_PER_SHAPE)}
    return Timing(plan, partial(_time_server, bench, messages))


def _time_server(
    bench: Bench, messages: dict[int, list[bytes]], batch: int, told: Told, wait: Wait
) -> None:
    seconds = {DECODE: 0.0, SIDE_FORWARD: 0.0, STEP: 0.0}

    def add(kind: int, _part: int, start: float, end: float) -> None:
        seconds[kind] += end - start

    def part_of(part: int) -> bytes:
        wait(part)
        return messages[batch][part]

    bench.run(batch, part_of, add)
    taps = len(bench.trainer.tap_layers)
    told("piece:decode", seconds[DECODE] / taps)
    if bench.by_layer:
        told("piece:side_forward", seconds[SIDE_FORWARD] / taps)
    told("piece:step", seconds[STEP])


class Child:
    """The process: answers each line of words with a line."""

    def __init__(self, role: str, plan: Plan) -> None:
        self.role, self.plan = role, plan
        self.timing = TIMINGS[role](plan)
        self.wire: Wire | None = None

    def answer(self, what: str, *words: Any) -> str:
        """Time pieces for some seconds in some rhythm; open or time this end of the wire."""
        orders: dict[str, Callable[..., str]] = {
            "time": self._time, "open": self._open, "delay": self._delay,
        }  # fmt: skip
        return orders[what](*words)

    def _time(self, seconds: float, beat: Numbers, wire_beat: Numbers) -> str:
        with contextlib.ExitStack() as stack:
            if isinstance(self.wire, Sending):
                stack.enter_context(self.wire.carrying(Beat.of(wire_beat)))
            return as_line(self.timing.take(seconds, Beat.of(beat)))

    def _open(self, address: str, folder: str, paced: bool) -> str:
        keys, at = Keys(Path(folder)), Address.parse(address, "address")
        if self.role == "device":
            self.wire = Sending(self.plan, keys, at, paced=paced)
            return address
        self.wire = receiving = Receiving(self.plan, keys, at)
        return str(receiving.address)

    def _delay(self, seconds: float) -> str:
        assert isinstance(self.wire, Sending)
        return str(self.wire.delay_s(seconds))


TIMINGS = {"device": device_timing, "server": server_timing}


def main() -> None:
    """Answer line by line until nobody asks any more."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=sorted(TIMINGS))
    parser.add_argument("scenario", type=Path)
    parser.add_argument("--core", type=int)
    words = parser.parse_args()
    logging.disable(logging.WARNING)
    settle(words.core)
    torch.set_num_threads(1)
    scenario = Scenario.model_validate_json(words.scenario.read_text(encoding="utf-8"))
    child = Child(words.role, Plan.of(scenario, Options()))
    gc.collect()
    gc.freeze()
    _tell("ready")
    for line in sys.stdin:
        _tell(child.answer(*json.loads(line)))


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
