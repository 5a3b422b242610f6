"""Cases of training on the device: blocks there and back, tables of embeddings, optimisers.

Axes: B samples, T positions, N tokens, D width.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from mobisim.profiling.backward import TrainingBlock, TrainingPass
from mobisim.profiling.blocks import BlockSizes
from mobisim.profiling.cases import (
    LEAD_FLOP,
    Bench,
    Case,
    Grid,
    Laps,
    llama_like,
    opt_like,
    optimizer_cases,
)
from mobisim.profiling.stopwatch import Timed

TABLE_WIDTH = 1024  # of embeddings; wider tables take much memory
RANKS = {False: 8, True: 64}  # of the low-rank pairs, by whether a block is modern
NARROW = (BlockSizes(64, 8, 8, 256, modern=False), BlockSizes(64, 8, 2, 384, modern=True))


def training_cases(bench: Bench, grid: Grid, precision: str) -> list[Case]:
    """All that training on a device by any method calls.

    Narrow blocks are for the ladders of LST. Blocks of Llama's make come at fewer shapes.
    """
    found = optimizer_cases(bench, grid)
    few = [*zip(grid.batches[:-1], grid.lengths, strict=False), grid.training[-1]]
    for batch, length in grid.training:
        wide = [opt_like(width) for width in grid.widths]
        modern = [llama_like(width) for width in grid.widths] * ((batch, length) in few)
        for sizes in (*NARROW, *wide, *modern):
            found.append(training_case(bench, sizes, batch, length, precision))
    widths = min(grid.widths), max(width for width in grid.widths if width <= TABLE_WIDTH)
    tables = itertools.product(_tokens(grid), widths, grid.vocabularies)
    return found + [table_case(bench, *sizes, precision) for sizes in tables]


def _tokens(grid: Grid) -> tuple[int, int]:
    tokens = [batch * length for batch, length in grid.training]
    return min(tokens), max(tokens)


def training_case(bench: Bench, sizes: BlockSizes, batch: int, length: int, precision: str) -> Case:
    """A block there and back; a short one with another before and after it, as in a model."""
    flop = 3 * sizes.flop(batch, length)
    alone = flop > 3 * LEAD_FLOP

    def start() -> Callable[[], Laps]:
        block, other = _blocks(bench, sizes, precision)
        h_BTD = bench.floats((batch, length, sizes.width), precision)
        return lambda: training_laps(bench, block, None if alone else other, h_BTD)

    make = "llama" if sizes.modern else "opt"
    name = f"training {make} {batch}x{length}x{sizes.width} {precision}"
    return Case(name, flop * (1 if alone else 2), start)


@functools.cache
def _blocks(bench: Bench, sizes: BlockSizes, precision: str) -> tuple[TrainingBlock, TrainingBlock]:
    rank = RANKS[sizes.modern]
    block, other = (TrainingBlock(sizes, precision, bench.device, rank) for _ in range(2))
    return block, other


def training_laps(
    bench: Bench, block: TrainingBlock, other: TrainingBlock | None, h_BTD: Tensor
) -> Laps:
    """One step of a block; memory is taken anew in each, as where a step needs much of it."""
    release_memory()
    watch = bench.watch
    if other is not None:
        h_BTD = _forward(other, h_BTD)
    run = TrainingPass(block, watch.lap)
    watch.begin()
    out_BTD = run.forward(h_BTD)
    laps = watch.laps()
    gradient_BTD, held = _there_and_back(other, out_BTD)
    watch.begin()
    run.backward(gradient_BTD)
    run.others()
    del held
    return laps | watch.laps()


@torch.no_grad()
def _forward(block: TrainingBlock, h_BTD: Tensor) -> Tensor:
    return block(h_BTD)  # type: ignore[no-any-return]


def _there_and_back(
    block: TrainingBlock | None, h_BTD: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The gradient that comes back from another block, and those of its weights."""
    ones = torch.full_like(h_BTD, 1e-3)
    if block is None:
        return ones, ()
    leaf = h_BTD.detach().requires_grad_()
    weights = list(block.parameters())
    found = torch.autograd.grad(block(leaf), [leaf, *weights], ones, allow_unused=True)
    return found[0], found[1:]


def table_case(bench: Bench, tokens: int, width: int, rows: int, precision: str) -> Case:
    """The gradient of a table of embeddings: as large as the table, mostly zeros."""

    def start() -> Callable[[], Laps]:
        gradient_ND = bench.floats((tokens, width), precision)
        ids_N = torch.randint(rows, (tokens,), generator=bench.random).to(bench.device)
        name = Timed("table:backward", 1, tokens, width, rows, precision)
        return lambda: table_laps(bench, name, gradient_ND, ids_N)

    return Case(f"table {tokens}x{width}x{rows} {precision}", 0.0, start)


def table_laps(bench: Bench, name: Timed, gradient_ND: Tensor, ids_N: Tensor) -> Laps:
    """One gradient."""
    release_memory()
    bench.watch.begin()
    torch.ops.aten.embedding_dense_backward(gradient_ND, ids_N, name.width_out, -1, False)
    bench.watch.lap(name)
    return bench.watch.laps()


def release_memory() -> None:
    """Give freed memory back to the system, where the C library can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
