"""How long a move of a knob takes to be answered: a budget, on whatever machine this is."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from statistics import median

import pytest

from mobisim.errors import InputError
from mobisim.pages.explorer import Explorer

BUDGET_S = 0.1
PER_KNOB = 6
SHIPPED = (
    "5g", "fed_mixed", "layer_streaming", "lte", "lte_trace", "minilm_sst2", "shared_server",
    "textbook_pipeline", "warm_phone", "wifi_20mbps", "wifi_5mbps", "wifi_shared",
)  # fmt: skip


@pytest.mark.parametrize("name", SHIPPED)
def test_a_move_is_answered_at_once(name: str) -> None:
    """Each knob is dragged over its stops: the median of the answers stays below the budget."""
    explorer, seconds = Explorer(name), []
    for knob in explorer.knobs:
        for stop in knob.stops[:: max(1, len(knob.stops) // PER_KNOB)]:
            began = time.perf_counter()
            with suppress(InputError):  # an answer as well
                explorer.answer({knob.key: stop}, whole=False)
            seconds.append(time.perf_counter() - began)
    told = f"{name}: median {1e3 * median(seconds):.0f} ms, {1e3 * max(seconds):.0f} at most\n"
    sys.stdout.write(told)
    assert median(seconds) < BUDGET_S
