"""Whole pieces of work: a mini-batch's forward, its encoding, a server's step; how they vary.

The spread of a sum is not the sum of its operators' spreads, so that it is measured as such.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from mobisim.profiling.blocks import new_block
from mobisim.profiling.cases import (
    CODEC_BLOCK,
    TAPS,
    Bench,
    Case,
    Grid,
    Laps,
    Role,
    opt_like,
    timed,
)
from mobisim.profiling.measure import Taken
from mobisim.profiling.statistics import quantile
from mobisim.profiling.stopwatch import Timed
from mobisim.scenario.profiles import Spread, Spreads
from mobisim.training.codec import TapFormat, decode_rows, encode_rows
from mobisim.training.side_network import Ragged, SideNetwork, SideNetworkConfig

CODEC = "nf4"
LEAST = 30  # samples of each: percentiles need more of them than a median
KINDS: dict[Role, tuple[str, ...]] = {"device": ("forward", "encode"), "server": ("step",)}


def whole_cases(bench: Bench, grid: Grid, role: Role, precision: str = "fp32") -> list[Case]:
    """The pieces of a role at two widths, each of as many blocks or taps as TAPS says."""
    batch, length = grid.batches[1], grid.lengths[1]
    return [
        _case(bench, kind, (batch, length, width), precision)
        for width in (grid.widths[1:] or grid.widths)[:2]
        for kind in KINDS[role]
    ]


def _case(bench: Bench, kind: str, shape: tuple[int, int, int], precision: str) -> Case:
    batch, length, width = shape
    name = Timed(f"whole:{kind}", batch, length, width, TAPS, precision)

    def start() -> Callable[[], Laps]:
        work = _WORK[kind](bench, shape, precision)
        return lambda: timed(bench.watch, name, work)

    flop = TAPS * opt_like(width).flop(batch, length) if kind == "forward" else 0.0
    title = f"whole {kind} {batch}x{length}x{width} {precision}"
    return Case(title, flop, start, least=LEAST)


def _forward(bench: Bench, shape: tuple[int, int, int], precision: str) -> Callable[[], None]:
    """Embedding and several blocks."""
    batch, length, width = shape
    blocks = [new_block(opt_like(width), precision, bench.device) for _ in range(TAPS)]
    words, ids = bench.table(width, precision), torch.arange(length, device=bench.device)

    @torch.inference_mode()
    def work() -> None:
        h_BTD = words(ids).expand(batch, length, width)
        for block in blocks:
            h_BTD = block(h_BTD)

    return work


def _encode(bench: Bench, shape: tuple[int, int, int], precision: str) -> Callable[[], None]:
    """Several taps, packed."""
    batch, length, width = shape
    layout = TapFormat(CODEC, CODEC_BLOCK, width)
    taps = [bench.floats((batch * length, width), precision, tap).cpu() for tap in range(TAPS)]

    @torch.inference_mode()
    def work() -> None:
        for tap_ND in taps:
            encode_rows(tap_ND, layout)

    return work


def _step(bench: Bench, shape: tuple[int, int, int], precision: str) -> Callable[[], None]:
    """Several taps unpacked, the side network there and back, and AdamW's update."""
    batch, length, width = shape
    layout = TapFormat(CODEC, CODEC_BLOCK, width)
    values = [bench.floats((batch * length, width), precision, tap).cpu() for tap in range(TAPS)]
    packed = [encode_rows(tap_ND, layout) for tap_ND in values]
    net = SideNetwork(SideNetworkConfig(width, TAPS, CODEC_BLOCK)).to(bench.device)
    optimizer = torch.optim.AdamW(net.parameters())
    samples = Ragged.of(torch.full((batch,), length, device=bench.device))
    labels = torch.zeros(batch, dtype=torch.long, device=bench.device)

    def work() -> None:
        taps = [decode_rows(rows_NR, layout).to(bench.device) for rows_NR in packed]
        loss = functional.cross_entropy(net.head(net.hidden(taps), samples), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return work


_WORK = {"forward": _forward, "encode": _encode, "step": _step}


def spreads(taken: Taken) -> Spreads | None:
    """How the whole pieces among the samples vary about the median of their own shape."""
    found = {kind: _spread(taken, f"whole:{kind}") for kind in _WORK}
    return Spreads(**found) if any(found.values()) else None


def _spread(taken: Taken, operator: str) -> Spread | None:
    ratios: list[float] = []
    for repeats in taken.values():
        laps = [s for one in repeats for timed, s in one.items() if timed.operator == operator]
        if laps:
            middle = quantile(laps, 0.5)
            ratios += [seconds / middle for seconds in laps]
    if not ratios:
        return None
    p10, p90 = (round(quantile(ratios, share), 4) for share in (0.1, 0.9))
    return Spread(p10=min(p10, 1.0), p90=max(p90, 1.0), repeats=len(ratios))
