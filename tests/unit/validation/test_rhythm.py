"""The rhythm in which pieces are timed is that of the simulated scenario."""

from __future__ import annotations

import itertools
import time

import pytest

from mobisim.scenario.load import loads
from mobisim.validation.rhythm import FREE, Beat, Rhythm
from mobisim.validation.simulation import simulated

SCENARIO = """
name: steady
model: opt-125m
num_batches: 20
batch_size: 4
sequence_length: 16
granularity: {granularity}
deliver: none
wire: {{payload_bytes: 120000}}
devices:
  - profile: {{kind: fixed, forward_s: 1.08 s, encode_s: 0.12 s}}
    link: {{kind: constant, uplink: 1 Mbit/s, latency: 10 ms, overhead_bytes: 0}}
    run_ahead: {run_ahead}
server: {{profile: {{kind: fixed, step_s: {step_s} s}}}}
"""


def rhythm(granularity: str = "batch", step_s: float = 0.9, run_ahead: int = 1) -> Rhythm:
    text = SCENARIO.format(granularity=granularity, step_s=step_s, run_ahead=run_ahead)
    return Rhythm.of(simulated(loads(text, "steady")))


def test_who_waits_for_credit_has_pauses() -> None:
    """Forward, encoding, transfer and latency one after the other: 2.17 s."""
    found = rhythm()
    assert found.period_s == pytest.approx(2.17)
    assert found.offsets_s["device"] == (0.0,)
    assert found.offsets_s["uplink"] == pytest.approx((1.2,))
    # Taken up as the next forward begins: a whole period later, which is the same in the rhythm.
    assert round(found.offsets_s["server"][0] / 2.17, 9) in {0.0, 1.0}
    assert not found.restless


def test_who_sets_the_pace_never_rests() -> None:
    """With run-ahead enough, the device works on; link and server wait for it."""
    found = rhythm(run_ahead=4)
    assert found.period_s == pytest.approx(1.2)
    assert found.restless == {"device"}
    assert found.beat("device", 5.0) == FREE
    assert found.beat("uplink", 5.0).period_s == pytest.approx(1.2)


def test_parts_have_beats_of_their_own() -> None:
    """A tenth of a second from one tap to the next, all along the way."""
    found = rhythm("layer", step_s=0.06, run_ahead=4)
    steps = [b - a for a, b in itertools.pairwise(found.offsets_s["server"])]
    assert len(found.offsets_s["uplink"]) == 12
    assert steps == pytest.approx([0.1] * 11)


def test_beats_wait_and_leave_out_what_has_passed() -> None:
    """The third is due two periods after the first; who is late by more than one skips them."""
    origin = time.monotonic()
    beat = Beat(origin, 0.1, (0.02, 0.05))
    beat.wait(2)
    assert time.monotonic() - origin == pytest.approx(0.22, abs=0.08)
    assert beat.due(2, 1) == pytest.approx(origin + 0.25)
    assert beat.after(0) >= 2
    assert beat.after(9) == 10
    assert FREE.after(3) == 4
    assert Beat.of(beat.numbers) == beat
