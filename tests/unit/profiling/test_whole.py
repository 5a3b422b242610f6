"""Spreads of whole pieces of work, from single samples; contention from pairs."""

from __future__ import annotations

import pytest
import torch

from mobisim.errors import InputError
from mobisim.profiling import contention as beside
from mobisim.profiling.cases import Bench, Grid, Laps
from mobisim.profiling.contention import check_contention, contention
from mobisim.profiling.stopwatch import Timed
from mobisim.profiling.whole import LEAST, spreads, whole_cases
from mobisim.scenario.profiles import Spread

TINY = Grid((1, 2, 4), (8, 16), (64, 128), (8, 32), (1, 4**4), (64, 512))
CPU = torch.device("cpu")


def laps(kind: str, seconds: float) -> Laps:
    """One sample of a whole piece."""
    return {Timed(f"whole:{kind}", 4, 64, 512, 4, "fp32"): seconds}


def test_spreads_are_taken_about_each_shapes_own_median() -> None:
    """Two shapes of different length that vary alike vary as each of them."""
    varied = [0.8, 0.9, 1.0, 1.1, 1.4]
    taken = {
        "short": [laps("forward", 0.01 * one) for one in varied],
        "long": [laps("forward", 3.0 * one) for one in varied],
        "block": [{Timed("add", 4, 64, 512, 1, "fp32"): one} for one in varied],
    }
    found = spreads(taken)
    assert found is not None
    assert found.encode is found.step is None
    assert found.forward == Spread(p10=0.8, p90=1.4, repeats=10)


def test_nothing_is_said_without_whole_pieces() -> None:
    """A profile without them has no spread, rather than one of zero."""
    assert spreads({"block": [{Timed("add", 4, 64, 512, 1, "fp32"): 1.0}]}) is None


@pytest.mark.parametrize(("role", "kinds"), [("device", 2), ("server", 1)])
def test_whole_pieces_run_and_are_repeated_often(role: str, kinds: int) -> None:
    """Each gives one lap of its own operator; percentiles need many of them."""
    bench = Bench(CPU)
    cases = whole_cases(bench, TINY, "device" if role == "device" else "server")
    assert len(cases) == kinds
    for case in cases:
        ((timed, seconds),) = case.start()().items()
        assert timed.operator.startswith("whole:")
        assert seconds > 0
        assert case.least == LEAST


def test_contention_compares_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of the other role comes up, works and rests beside the pieces that are timed."""
    monkeypatch.setattr(beside, "PAIRS", 4)
    if len(beside.usable_cores()) < 2:
        pytest.skip("one core")
    found = contention(Bench(CPU), TINY, "server", 1, lambda *_: None)
    assert 0 < found.p10 <= found.slowdown.value <= found.p90
    assert found.repeats == 4
    assert found.slowdown.source == "measured"
    assert "a device's forwards" in found.beside


@pytest.mark.parametrize(
    ("device", "clock", "words"), [("cuda", "wall", "cuda"), ("cpu", "processor", "processor time")]
)
def test_contention_that_cannot_be_seen_is_refused(device: str, clock: str, words: str) -> None:
    """Beside an accelerator, or by a clock that leaves others out."""
    with pytest.raises(InputError, match=words):
        check_contention(torch.device(device), clock)


def test_one_core_cannot_be_shared_fairly(monkeypatch: pytest.MonkeyPatch) -> None:
    """There a piece beside would take turns, which is no contention."""
    monkeypatch.setattr(beside, "usable_cores", lambda: [0])
    with pytest.raises(InputError, match="one core"):
        check_contention(CPU, "wall")
