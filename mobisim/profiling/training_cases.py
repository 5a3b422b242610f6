"""Cases of training on the device: blocks there and back, tables of embeddings, optimisers.

Axes: B samples, T positions, N tokens, D width.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from mobisim.profiling.allocator import release_memory, used_memory
from mobisim.profiling.backward import TrainingBlock, TrainingPass
from mobisim.profiling.blocks import BlockSizes
from mobisim.profiling.cases import (
    LEAD_FLOP,
    Bench,
    Case,
    Grid,
    Laps,
    like,
    llama_like,
    opt_like,
    optimizer_cases,
    timed,
    title,
)
from mobisim.profiling.stopwatch import Stopwatch, Timed

TABLE_WIDTH = 1024  # of embeddings; wider tables take much memory
PIECE = 1 << 20
MEMORY = tuple(PIECE * count for count in (8, 32, 56, 72, 104, 168, 296, 552))
RANKS = {False: 8, True: 64}  # of the low-rank pairs, by whether a block is modern
NARROW = (
    BlockSizes(64, 8, 8, 8, 256, modern=False),
    BlockSizes(64, 8, 8, 2, 384, modern=True),
)


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
    for model in grid.models:
        shapes = grid.model_shapes(model)
        found += [training_case(bench, like(model), *shape, precision) for shape in shapes]
    widths = min(grid.widths), max(width for width in grid.widths if width <= TABLE_WIDTH)
    tables = itertools.product(_tokens(grid), widths, grid.vocabularies)
    found += [table_case(bench, *sizes, precision) for sizes in tables]
    return found + [memory_case(bench, num_bytes) for num_bytes in MEMORY] * on_processor(bench)


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

    name = f"training {title(sizes, batch, length)} {precision}"
    return Case(name, flop * (1 if alone else 2), start)


@functools.cache
def _blocks(bench: Bench, sizes: BlockSizes, precision: str) -> tuple[TrainingBlock, TrainingBlock]:
    rank = RANKS[sizes.modern]
    block, other = (TrainingBlock(sizes, precision, bench.device, rank) for _ in range(2))
    return block, other


def training_laps(
    bench: Bench, block: TrainingBlock, other: TrainingBlock | None, h_BTD: Tensor
) -> Laps:
    """One step of a block, in memory that was used before."""
    with used_memory(_bytes_of(block.sizes, h_BTD.shape[0] * h_BTD.shape[1])):
        return _training_laps(bench.watch, block, other, h_BTD)


def _bytes_of(sizes: BlockSizes, tokens: int) -> int:
    """More than two blocks keep, and their gradients."""
    kept = tokens * (16 * sizes.width + 6 * sizes.ff_width)
    return 4 * 2 * round(kept + 1.2 * sizes.matrix_weights)


def _training_laps(
    watch: Stopwatch, block: TrainingBlock, other: TrainingBlock | None, h_BTD: Tensor
) -> Laps:
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
    backward = torch.ops.aten.embedding_dense_backward
    return timed(bench.watch, name, lambda: backward(gradient_ND, ids_N, name.width_out, -1, False))


def on_processor(bench: Bench) -> bool:
    """Whether torch's memory is the system's."""
    return bench.device.type == "cpu"


def memory_case(bench: Bench, num_bytes: int) -> Case:
    """Taking memory as the C library gives it, and writing it; then writing it again."""

    def start() -> Callable[[], Laps]:
        return lambda: memory_laps(bench.watch, num_bytes)

    return Case(f"memory {num_bytes}", 0.0, start)


def memory_laps(watch: Stopwatch, num_bytes: int) -> Laps:
    """Both, piece by piece as a step's tensors come."""
    watch.begin()
    held = [torch.ones(PIECE // 4) for _ in range(num_bytes // PIECE)]
    watch.lap(Timed("memory:anew", 1, 1, num_bytes, 1, "fp32"))
    for one in held:
        one.fill_(2.0)
    watch.lap(Timed("memory:again", 1, 1, num_bytes, 1, "fp32"))
    return watch.laps()
