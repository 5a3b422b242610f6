"""Cases: what is timed, each at one shape, and the grids of shapes.

Axes: B samples, T positions, N tokens, D width.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from mobisim.cost.architecture import Architecture
from mobisim.profiling.allocator import settle
from mobisim.profiling.blocks import DTYPES, Block, BlockSizes, new_block
from mobisim.profiling.stopwatch import CLOCKS, Stopwatch, Timed
from mobisim.scenario.methods import BackboneWeights
from mobisim.training.codec import TapFormat, decode_rows, encode_rows
from mobisim.training.side_network import Ragged, SideNetwork, SideNetworkConfig

Role = Literal["device", "server"]
Laps = dict[Timed, float]
TAPS = 4  # of the side network that is timed: enough to leave its head behind
VOCABULARY = 32_000
SMALL_TENSORS, LARGE_TENSOR = 16, 1 << 20  # how many small ones are updated together
LONGEST = 1024
LEAD_FLOP = 3e9  # of a block so long that a cold start no longer shows
CODEC_BLOCK = 64
SCALED_CODECS = ("nf4", "int8", "int4", "fp4", "int3", "int2")
CAST_CODECS = ("fp32", "fp16", "bf16")
PACKED_CODECS = get_args(BackboneWeights)


@dataclass(frozen=True)
class BlockShape:
    """A block and what goes through it."""

    sizes: BlockSizes
    batch: int
    length: int
    precision: str


@dataclass(frozen=True)
class Case:
    """A piece of work at one shape; `start` builds it and gives the function that times it once."""

    name: str
    flop: float
    start: Callable[[], Callable[[], Laps]]
    block: BlockShape | None = None
    least: int = 0  # samples that it needs, however sure their median is


@dataclass(frozen=True)
class Grid:
    """The shapes that are measured: every batch with every length, at every width."""

    batches: tuple[int, ...]
    lengths: tuple[int, ...]
    widths: tuple[int, ...]
    bottlenecks: tuple[int, ...] = (16, 128)
    parameters: tuple[int, ...] = (1, 4**3, 4**6, 4**8, 4**9, 4**10, 4**11, 4**12, 4**13)
    vocabularies: tuple[int, ...] = (128, 4096, 65536)
    models: tuple[Architecture, ...] = ()

    def model_shapes(self, model: Architecture) -> list[tuple[int, int]]:
        """Batch and length of what is measured of a model, the longest up to LONGEST tokens."""
        corners = list(zip(self.batches, self.lengths, strict=False))
        longest = min(LONGEST, model.max_positions)
        lengths = sorted({2 * max(self.lengths), longest})
        return corners + [(1, length) for length in lengths if length <= longest]

    @property
    def training(self) -> tuple[tuple[int, int], ...]:
        """Batch and length of the shapes that are trained at: all but the costliest."""
        return tuple(itertools.product(self.batches, self.lengths))[:-1]

    def shapes(self) -> Iterator[tuple[int, int, int]]:
        """Batch, length and width of each."""
        for width in self.widths:
            for length in self.lengths:
                yield from ((batch, length, width) for batch in self.batches)


FULL = Grid((1, 4, 16), (16, 64, 256), (256, 512, 1024, 2048))
QUICK = Grid((1, 4, 16), (16, 64, 256), (256, 512, 1024), parameters=FULL.parameters[:-1])


class Bench:
    """The tensors and modules that cases share, made when first needed."""

    def __init__(self, device: torch.device, clock: str = "wall") -> None:
        self.device = device
        self.watch = Stopwatch(device, CLOCKS[clock])
        self.host_watch = Stopwatch(torch.device("cpu"), CLOCKS[clock])
        self.random = torch.Generator().manual_seed(0)
        settle()  # whatever ran before

    @functools.cache  # noqa: B019 - a bench lives as long as its measurement
    def blocks(self, sizes: BlockSizes, precision: str) -> tuple[Block, Block]:
        """Two blocks in a row: the first leads in, so that the second is met as within a model."""
        lead, block = (new_block(sizes, precision, self.device) for _ in range(2))
        return lead, block

    @functools.cache  # noqa: B019
    def table(self, width: int, precision: str) -> nn.Embedding:
        """A vocabulary's embeddings."""
        return nn.Embedding(VOCABULARY, width, dtype=DTYPES[precision], device=self.device)

    @functools.cache  # noqa: B019
    def floats(self, shape: tuple[int, ...], precision: str = "fp32", number: int = 0) -> Tensor:
        """Random normal values, the same ones for the same `number`."""
        random = torch.Generator().manual_seed(number)
        return torch.randn(shape, generator=random).to(self.device, DTYPES[precision])


def opt_like(width: int) -> BlockSizes:
    """A block of OPT's proportions."""
    head_dim = 64 if width % 64 == 0 else 32
    heads = width // head_dim
    return BlockSizes(width, heads, head_dim, heads, 4 * width, modern=False)


def llama_like(width: int) -> BlockSizes:
    """A block of Llama's make with few key heads and a wide inner layer, and other heads."""
    sizes = (32,) if width < 1024 else (128, 64, 32)  # noqa: PLR2004 - small and large heads
    head_dim = next(size for size in sizes if width % size == 0)
    heads = width // head_dim
    groups = max(few for few in range(1, math.ceil(heads / 8) + 1) if heads % few == 0)
    return BlockSizes(width, heads, head_dim, groups, 6 * width, modern=True)


def like(model: Architecture) -> BlockSizes:
    """A block of a model's own sizes, of the make that is closer to it."""
    return BlockSizes(
        model.width,
        model.num_heads,
        model.head_dim,
        model.num_kv_heads,
        model.ff_width,
        modern=model.gated_mlp,
    )


def device_cases(
    bench: Bench,
    grid: Grid,
    precisions: tuple[str, ...],
    codecs: tuple[str, ...] = SCALED_CODECS + CAST_CODECS,
) -> list[Case]:
    """Blocks of both makes, embedding, codecs, and unpacking of weights."""
    found = []
    for precision in precisions:
        for batch, length, width in grid.shapes():
            found.append(block_case(bench, opt_like(width), batch, length, precision))
            found.append(embedding_case(bench, batch, length, width, precision))
        for width in grid.widths:
            corners = zip(grid.batches, grid.lengths, strict=False)
            for batch, length in corners:
                found.append(block_case(bench, llama_like(width), batch, length, precision))
        for model in grid.models:
            found += model_cases(bench, grid, model, precision)
        for codec in codecs:
            found += codec_cases(bench, codec, grid, precision)
        for codec in filter(PACKED_CODECS.__contains__, codecs):
            found += weight_cases(bench, codec, grid, precision)
    return found


def model_cases(bench: Bench, grid: Grid, model: Architecture, precision: str) -> list[Case]:
    """A model's own block and embedding, at the grid's corners and at longer samples."""
    shapes = grid.model_shapes(model)
    blocks = [block_case(bench, like(model), *shape, precision) for shape in shapes]
    return blocks + [embedding_case(bench, *shape, model.width, precision) for shape in shapes]


def server_cases(bench: Bench, grid: Grid) -> list[Case]:
    """Codecs, adapters forward and backward, and the optimisers' updates."""
    found = [
        case
        for codec in (*SCALED_CODECS, *CAST_CODECS)
        for case in codec_cases(bench, codec, grid, "fp32")
    ]
    for width in grid.widths:
        for tokens in _spread(grid):
            found += [adapter_case(bench, tokens, width, rank) for rank in grid.bottlenecks]
    found += [head_case(bench, *sizes) for sizes in _heads(grid)]
    return found + optimizer_cases(bench, grid)


def _heads(grid: Grid) -> Iterator[tuple[int, int, int]]:
    """Tokens, width and vocabulary of next-token heads: corners, and the models' own."""
    tokens = _spread(grid)
    few = tokens[0], tokens[len(tokens) // 2]
    yield from itertools.product(few, grid.widths[::2], grid.vocabularies[1:])
    for model in grid.models:
        yield from ((number, model.width, model.vocab_size) for number in tokens)


def optimizer_cases(bench: Bench, grid: Grid) -> list[Case]:
    """Every optimiser's update of tensors of every size."""
    updates = itertools.product(("adamw", "sgd"), grid.parameters)
    return [optimizer_case(bench, name, number) for name, number in updates]


def _spread(grid: Grid, factor: float = 8) -> tuple[int, ...]:
    """Numbers of tokens over the whole range of a grid, about a factor apart."""
    low = min(grid.batches) * min(grid.lengths)
    high = max(grid.batches) * max(grid.lengths)
    steps = max(2, round(math.log(high / low, factor)) + 1)
    return tuple(round(low * (high / low) ** (i / (steps - 1))) for i in range(steps))


def block_case(
    bench: Bench, sizes: BlockSizes, batch: int, length: int, precision: str, *, whole: bool = False
) -> Case:
    """A block's forward, kernel by kernel, or with `whole` as one lap."""
    flop = sizes.flop(batch, length)
    leads = flop < LEAD_FLOP

    def start() -> Callable[[], Laps]:
        blocks = bench.blocks(sizes, precision)
        lead, block = blocks if leads else (None, blocks[1])
        h_BTD = bench.floats((batch, length, sizes.width), precision)
        return lambda: _block_laps(bench.watch, lead, block, h_BTD, whole=whole)

    name = f"block {title(sizes, batch, length)} {precision}{' whole' if whole else ''}"
    shape = BlockShape(sizes, batch, length, precision)
    return Case(name, (1 + leads) * flop, start, shape)


def title(sizes: BlockSizes, batch: int, length: int) -> str:
    """What a block at a shape is called; the grid's own go by their width alone."""
    make, of_grid = ("llama", llama_like) if sizes.modern else ("opt", opt_like)
    shape = f"{make} {batch}x{length}x{sizes.width}"
    if sizes == of_grid(sizes.width):
        return shape
    return f"{shape} {sizes.num_heads}/{sizes.num_kv_heads}x{sizes.head_dim}, {sizes.ff_width}"


@torch.inference_mode()
def _block_laps(
    watch: Stopwatch, lead: Block | None, block: Block, h_BTD: Tensor, *, whole: bool
) -> Laps:
    h_BTD = h_BTD if lead is None else lead(h_BTD)
    watch.begin()
    if not whole:
        block(h_BTD, watch.lap)
        return watch.laps()
    block(h_BTD)
    batch, length, width = h_BTD.shape
    watch.lap(Timed("block", batch, length, width, 1, block.precision))
    return watch.laps()


def embedding_case(bench: Bench, batch: int, length: int, width: int, precision: str) -> Case:
    """Token and position embeddings, looked up and added."""

    def start() -> Callable[[], Laps]:
        words = bench.table(width, precision)
        shape = (batch, length)
        ids = torch.randint(VOCABULARY, shape, generator=bench.random).to(bench.device)
        places = torch.arange(length, device=bench.device)
        name = Timed("embedding", batch, length, width, 1, precision)
        return lambda: _once(bench.watch, name, lambda: words(ids) + words(places))

    return Case(f"embedding {batch}x{length}x{width} {precision}", 0.0, start)


@torch.inference_mode()
def _once(watch: Stopwatch, name: Timed, work: Callable[[], object]) -> Laps:
    return timed(watch, name, work)


def timed(watch: Stopwatch, name: Timed, work: Callable[[], object]) -> Laps:
    """One lap over a piece of work."""
    watch.begin()
    work()
    watch.lap(name)
    return watch.laps()


def codec_cases(bench: Bench, codec: str, grid: Grid, precision: str) -> list[Case]:
    """One codec both ways, as a cut needs it on either side, over tokens and widths."""
    return [
        codec_case(bench, direction, codec, (1, tokens, width), precision)
        for direction in ("encode", "decode")
        for tokens in _spread(grid, 16)
        for width in (min(grid.widths), max(grid.widths))
    ]


def weight_cases(bench: Bench, codec: str, grid: Grid, precision: str) -> list[Case]:
    """Unpacking of a block's smallest and largest weights, a row for each output."""
    return [
        codec_case(bench, "decode", codec, (fan_out, 1, fan_in), precision)
        for width in (min(grid.widths), max(grid.widths))
        for fan_in, fan_out in ((width, width), (width, 4 * width), (4 * width, width))
    ]


def codec_case(
    bench: Bench, direction: str, codec: str, shape: tuple[int, int, int], precision: str
) -> Case:
    """Encoding or decoding of one tap, batch x length x width, by the trainer's own kernels."""
    batch, length, width = shape
    layout = TapFormat(codec, CODEC_BLOCK, width)

    def start() -> Callable[[], Laps]:
        # On the processor, where the trainer's codecs run.
        values_ND = bench.floats((batch * length, width), precision).cpu()
        name = Timed(f"{direction}:{codec}", batch, length, width, CODEC_BLOCK, precision)
        if direction == "encode":
            return lambda: _once(bench.host_watch, name, lambda: encode_rows(values_ND, layout))
        rows_NR = encode_rows(values_ND, layout)
        return lambda: _once(bench.host_watch, name, lambda: decode_rows(rows_NR, layout))

    return Case(f"{direction} {codec} {batch}x{length}x{width} {precision}", 0.0, start)


def adapter_case(bench: Bench, tokens: int, width: int, bottleneck: int) -> Case:
    """Forward and backward of a side network of a few taps, told for each tap."""

    def start() -> Callable[[], Laps]:
        net = SideNetwork(SideNetworkConfig(width, TAPS, bottleneck)).to(bench.device)
        taps = [bench.floats((tokens, width), "fp32", tap) for tap in range(TAPS)]
        samples = Ragged.of(torch.tensor([tokens], device=bench.device))
        return lambda: _adapter_laps(bench.watch, net, taps, samples)

    flop = 12.0 * TAPS * tokens * width * bottleneck
    return Case(f"adapter {tokens}x{width}x{bottleneck}", flop, start)


def _adapter_laps(watch: Stopwatch, net: SideNetwork, taps: list[Tensor], samples: Ragged) -> Laps:
    shape = (1, taps[0].shape[0], net.config.width, net.config.bottleneck, "fp32")
    labels = torch.zeros(1, dtype=torch.long, device=taps[0].device)
    net.zero_grad()
    watch.begin()
    hidden = net.hidden(taps)
    watch.lap(Timed("adapter:forward", *shape))
    loss = functional.cross_entropy(net.head(hidden, samples), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    watch.lap(Timed("adapter:backward", *shape))
    return {name: seconds / TAPS for name, seconds in watch.laps().items()}


def head_case(bench: Bench, tokens: int, width: int, vocabulary: int) -> Case:
    """A frozen next-token head: norm, output embedding and loss, and back to its input."""

    def start() -> Callable[[], Laps]:
        norm = nn.LayerNorm(width, device=bench.device).requires_grad_(requires_grad=False)
        matrix_VD = bench.floats((vocabulary, width))
        h_ND = bench.floats((tokens, width)).clone().requires_grad_()
        labels_N = torch.randint(vocabulary, (tokens,), generator=bench.random).to(bench.device)
        name = Timed("head:next_token", 1, tokens, width, vocabulary, "fp32")

        def work() -> None:
            logits_NV = functional.linear(norm(h_ND), matrix_VD)
            torch.autograd.grad(functional.cross_entropy(logits_NV, labels_N), h_ND)

        return lambda: timed(bench.watch, name, work)

    return Case(f"head {tokens}x{width}x{vocabulary}", 4.0 * tokens * width * vocabulary, start)


def optimizer_case(bench: Bench, name: str, num_parameters: int) -> Case:
    """An optimiser's update, told for one tensor of so many parameters."""
    count = SMALL_TENSORS if num_parameters < LARGE_TENSOR else 1

    def start() -> Callable[[], Laps]:
        ones = torch.ones(num_parameters, device=bench.device)
        parameters = [nn.Parameter(ones.clone()) for _ in range(count)]
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, 1e-3)
        optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(parameters)
            if name == "adamw"
            else torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)
        )
        key = Timed(f"optimizer:{name}", 1, 1, num_parameters, 1, "fp32")
        return lambda: _update_laps(bench.watch, key, optimizer, count)

    return Case(f"optimizer {name} {num_parameters}", 0.0, start)


def _update_laps(
    watch: Stopwatch, key: Timed, optimizer: torch.optim.Optimizer, count: int
) -> Laps:
    watch.begin()
    optimizer.step()
    watch.lap(key)
    return {name: seconds / count for name, seconds in watch.laps().items()}
