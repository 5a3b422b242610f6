"""How well the predictor does: measured blocks, predicted without the samples of their width."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mobisim.cost.architecture import Architecture
from mobisim.cost.measured import block_calls
from mobisim.cost.operators import Operators
from mobisim.cost.work import BatchShape
from mobisim.profiling.blocks import BlockSizes
from mobisim.profiling.bundle import summarise
from mobisim.profiling.cases import BlockShape, Case
from mobisim.profiling.measure import Taken
from mobisim.profiling.statistics import quantile
from mobisim.scenario.profiles import FitError


def as_architecture(sizes: BlockSizes, num_layers: int = 1) -> Architecture:
    """What cost/ calls a model of such blocks."""
    return Architecture(
        num_layers=num_layers,
        width=sizes.width,
        num_heads=sizes.num_heads,
        num_kv_heads=sizes.num_kv_heads,
        head_dim=sizes.head_dim,
        ff_width=sizes.ff_width,
        vocab_size=1,
        max_positions=1 << 20,
        position_rows=0 if sizes.modern else 1 << 20,
        embedding_width=sizes.width,
        gated_mlp=sizes.modern,
        activation="silu" if sizes.modern else "relu",
        norm_width_factor=1 if sizes.modern else 2,
    )


def predicted_block_s(operators: Operators, block: BlockShape) -> float:
    """Seconds of a block's forward from its operators."""
    shape = BatchShape.uniform(block.batch, block.length)
    return operators.seconds(block_calls(as_architecture(block.sizes), shape))


def fit_error(cases: Sequence[Case], taken: Taken, threads: int) -> FitError | None:
    """Relative errors at the inner widths, each predicted from the other widths alone."""
    errors = list(_errors(cases, taken, threads))
    if not errors:
        return None
    median, p90 = (round(quantile(errors, share), 4) for share in (0.5, 0.9))
    return FitError(median=median, p90=p90, left_out=len(errors))


def _errors(cases: Sequence[Case], taken: Taken, threads: int) -> Iterator[float]:
    blocks = {c.name: c.block for c in cases if c.block is not None and c.name in taken}
    widths = sorted({block.sizes.width for block in blocks.values()})
    everything = tuple(summarise(taken, threads))
    for width in widths[1:-1]:
        out = {name: block for name, block in blocks.items() if block.sizes.width == width}
        rest = {name: laps for name, laps in taken.items() if name not in out}
        samples = tuple(summarise(rest, threads))
        for block in out.values():
            known = Operators("all", everything, block.precision, threads)
            blind = Operators("rest", samples, block.precision, threads)
            actual = predicted_block_s(known, block)
            yield abs(predicted_block_s(blind, block) / actual - 1)
