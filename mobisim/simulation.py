"""A simulation: the timing of a scenario, worked out in memory; nothing is learned or written."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from mobisim.answer import summarise
from mobisim.prepare import Options, Prepared, prepare
from mobisim.report.energy import Meter
from mobisim.report.frames import frame
from mobisim.report.metrics import MetricsFold
from mobisim.report.summary import Summary
from mobisim.report.tables import span_table
from mobisim.runner import collector_at_rest
from mobisim.scenario.schema import Scenario
from mobisim.sim.engine import simulate as spans_of
from mobisim.span import SpanColumns

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Simulation:
    """The timing of a scenario.

    Attributes:
        scenario: what was simulated.
        summary: the answer in numbers: seconds, bytes, joules. Where the scenario does not fit in
            memory, `makespan_s` is None and the summary says by how much.
    """

    scenario: Scenario
    summary: Summary
    _prepared: Prepared
    _columns: SpanColumns

    @cached_property
    def spans(self) -> pd.DataFrame:
        """Every piece of work and every wait, one row each, in the order in which they end.

        The columns are those of spans.parquet: `kind` and `actor` (categories), `start` and `end`
        in simulated seconds, `device`, `batch`, `tap`, `num_bytes`, `version_read` and
        `version_written` where they apply, `cut`, and `energy_j` in joules where it is known.
        """
        world = self._prepared.world
        energy = Meter(world).joules(self._columns)
        return frame(span_table(self._columns, world.actors.names, energy))


def simulate(
    scenario: Scenario, *, ignore_memory: bool = False, allow_extrapolation: bool = False
) -> Simulation:
    """Simulate the timing of a scenario, in memory, with nothing written and nothing learned.

    Where the scenario trains, the simulation takes as many mini-batches as training would.

    Args:
        scenario: what `mobisim.load` gives.
        ignore_memory: go on where the memory does not suffice.
        allow_extrapolation: go on with shapes that no profile covers.

    Raises:
        InputError: the scenario cannot be simulated as it stands, or its data cannot be found.

    Example:
        >>> import mobisim
        >>> lte = mobisim.load("lte", ["num_batches=20"])
        >>> found = mobisim.simulate(lte)
        >>> found.summary.bottleneck
        'uplink'
        >>> sent = found.spans[found.spans.kind == "transfer"]
        >>> len(sent), bool(sent.num_bytes.sum() == found.summary.uplink_bytes)
        (20, True)
    """
    options = Options(
        train=False,
        plots=False,
        ignore_memory=ignore_memory,
        allow_extrapolation=allow_extrapolation,
    )
    prepared = prepare(scenario, options)
    fold, found = MetricsFold(prepared.world), []
    with collector_at_rest():
        for block in spans_of(prepared.world) if prepared.runs else ():
            fold.add(block)
            found.append(block.columns)
    summary = summarise(prepared, None, fold.totals() if prepared.runs else None)
    return Simulation(scenario, summary, prepared, SpanColumns.concatenate(found))
