"""What must hold of the spans of any run: the numbered invariants, and blame without gaps."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from worlds import blocks_of, spans_of

from mobisim.report.invariants import InvariantFold
from mobisim.report.metrics import MetricsFold, Totals
from mobisim.span import Span
from mobisim.world import World

BLOCK_ROWS = 7  # so few that mini-batches lie across blocks


def check_invariants(world: World, spans: Sequence[Span], block_rows: int = BLOCK_ROWS) -> None:
    """All numbered invariants, of a run that nothing cut short.

    Raises:
        InvariantError: one is broken.
    """
    checks = InvariantFold(world)
    for block in blocks_of(spans, block_rows):
        checks.add(block.columns)
    checks.finish()


def checked(world: World, spans: Sequence[Span] | None = None) -> Totals:
    """What a run comes to; its invariants hold, and the chain of causes fills the makespan."""
    spans = spans_of(world) if spans is None else spans
    check_invariants(world, spans)
    (block,) = blocks_of(spans, len(spans))
    totals = MetricsFold(world).add(block).totals()
    assert totals.blame.total == pytest.approx(totals.makespan_s, rel=1e-9), world
    return totals
