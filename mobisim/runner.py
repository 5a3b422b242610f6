"""A run: from a scenario to a published result."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobisim.answer import ended_by, summarise
from mobisim.learning import Learning
from mobisim.manifest import manifest
from mobisim.prepare import RESULTS, Options, Prepared, prepare
from mobisim.report import results
from mobisim.report.energy import Meter
from mobisim.report.frames import read_frame
from mobisim.report.invariants import InvariantFold, check_summary
from mobisim.report.metrics import MetricsFold, Totals
from mobisim.report.summary import Summary
from mobisim.report.tables import SpanWriter, StepWriter, read_spans
from mobisim.report.together import StepSamples
from mobisim.scenario.schema import Scenario
from mobisim.sim.engine import simulate
from mobisim.span import Block, SpanColumns

if TYPE_CHECKING:
    import pandas as pd

    from mobisim.lessons import Taught


@dataclass(frozen=True)
class Result:
    """A published result: its folder, and the answer in numbers (seconds, bytes, joules)."""

    path: Path
    summary: Summary

    @cached_property
    def spans(self) -> pd.DataFrame:
        """Every piece of work and every wait, a row each; times in simulated seconds."""
        return read_frame(self.path / results.SPANS_FILE)

    @cached_property
    def steps(self) -> pd.DataFrame:
        """Every training step, a row each, with its `end` in seconds, versions, loss and metric.

        `metric` is NaN where no evaluation followed the step.
        """
        return read_frame(self.path / results.STEPS_FILE)


def run(scenario: Scenario, options: Options | None = None) -> Result:
    """Simulate a scenario, learn on its timeline where it asks for that, and publish the result.

    The result is a folder: `options.out`, or results/NAME/DIGEST.

    Raises:
        InputError: the scenario cannot be run as it stands.
        InvariantError: the finished run breaks an invariant; nothing is published.

    Example:
        >>> import mobisim
        >>> toy = mobisim.load("textbook_pipeline", ["num_batches=10"])
        >>> result = mobisim.run(toy, mobisim.Options(plots=False))
        >>> round(result.summary.makespan_s, 6)  # f + c + s + 9 max(f, c, s)
        5.6
        >>> int(result.steps.staleness.max())
        0
    """
    options = options or Options()
    results.check_writable(options.out or RESULTS / scenario.name / "digest")
    prepared = prepare(scenario, options)
    results.check_free(prepared.place, prepared.digest)
    lessons = _begin_lessons(prepared) if will_learn(prepared) else None
    learning = Learning(prepared.system, lessons) if lessons is not None else None
    result = publish(prepared, learning, timeline(prepared))
    if lessons is not None:
        lessons.checkpoints.clear()
    return result


def will_learn(prepared: Prepared) -> bool:
    """Whether a run trains: learning begins only where its timeline will be drawn."""
    return prepared.learns and prepared.runs


def timeline(prepared: Prepared) -> Iterator[Block] | None:
    """The stream of spans of a scenario; None where it does not fit."""
    return simulate(prepared.world) if prepared.runs else None


def publish(
    prepared: Prepared,
    learning: Learning | None,
    blocks: Iterator[Block] | None,
    *,
    about: dict[str, Any] | None = None,
) -> Result:
    """Fold a stream of spans into a published result; None for a scenario that does not fit.

    `about` goes into the manifest.
    """
    with results.publishing(prepared.place) as aside:
        summary = produce(prepared, learning, blocks, aside, about)
        if prepared.options.plots and blocks is not None:
            _draw(aside)
    return Result(prepared.place, summary)


def _begin_lessons(prepared: Prepared) -> Taught:
    # torch takes seconds to import, and timing-only runs must not pay for it.
    from mobisim.lessons import Checkpoints, Taught  # noqa: PLC0415

    progress = prepared.options.progress
    checkpoints = Checkpoints(
        prepared.place.resolve(),
        prepared.digest,
        every_s=prepared.options.checkpoint_every_s,
        resume=prepared.options.resume,
    )
    return Taught(
        prepared.system,
        prepared.planned,
        checkpoints,
        lambda done, total: progress("training", done, total),
    )


def produce(
    prepared: Prepared,
    learning: Learning | None,
    blocks: Iterator[Block] | None,
    aside: Path,
    about: dict[str, Any] | None = None,
) -> Summary:
    """Fold a stream of spans into the files of a result, all but the pictures, in `aside`.

    Raises:
        InvariantError: the finished run breaks an invariant.
    """
    totals = None
    if blocks is not None:
        invariants = InvariantFold(prepared.world, real=prepared.options.real)
        totals = _stream(prepared, learning, blocks, invariants, aside)
    else:
        _write_no_spans(prepared, aside)
    summary = summarise(prepared, learning, totals)
    fields = summary.model_dump(mode="json")
    check_summary(fields, read_spans(aside / results.SPANS_FILE), prepared.world.actors.names)
    results.write_json(aside / results.SUMMARY, fields)
    results.write_json(
        aside / results.MANIFEST,
        manifest(prepared.scenario, prepared.digest, prepared.world, prepared.options.command)
        | (about or {}),
    )
    if learning is not None:
        learning.lessons.save(aside)
    return summary


def _stream(
    prepared: Prepared,
    learning: Learning | None,
    blocks: Iterator[Block],
    invariants: InvariantFold,
    aside: Path,
) -> Totals:
    """Simulate, learn and record, block by block."""
    world, samples = prepared.world, StepSamples(prepared.planned.samples_of)
    metrics, meter = MetricsFold(world), Meter(world)
    with _writers(prepared, aside) as (spans, steps):
        for block, learned in _learned(blocks, learning):
            columns = block.columns
            metrics.add(block)
            invariants.add(columns)
            spans.add(columns, meter.joules(columns))
            steps.add(columns, samples.add(columns), *learned)
            if learning is None:
                prepared.options.progress("simulating", metrics.num_learned, world.total_steps)
    totals = metrics.totals()
    if ended_by(prepared, learning, totals) == "finished":
        invariants.finish()
    return totals


@contextmanager
def _writers(prepared: Prepared, aside: Path) -> Iterator[tuple[SpanWriter, StepWriter]]:
    training, world = prepared.scenario.training, prepared.world
    has_epochs = training is not None and world.rounds is None
    per_epoch = world.batches_of // training.epochs if training and has_epochs else None
    with (
        SpanWriter(aside / results.SPANS_FILE, prepared.world.actors.names) as spans,
        StepWriter(aside / results.STEPS_FILE, per_epoch) as steps,
    ):
        yield spans, steps


def _write_no_spans(prepared: Prepared, aside: Path) -> None:
    with _writers(prepared, aside) as (spans, _):
        spans.add(SpanColumns.from_rows([]))


def _learned(
    blocks: Iterator[Block], learning: Learning | None
) -> Iterator[tuple[Block, tuple[Any, ...]]]:
    if learning is None:
        with collector_at_rest():
            yield from ((block, ()) for block in blocks)
        return
    for block in blocks:
        learned = learning.add(block.columns)
        if learned.stop_after is not None:
            yield Block(block.rows[: learned.stop_after + 1]), (learned.loss, learned.metric)
            return
        yield block, (learned.loss, learned.metric)


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """Spare the walks of the cycle collector over millions of rows, none of which is a cycle."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _draw(aside: Path) -> None:
    # matplotlib takes half a second to import; runs without pictures must not pay for it.
    from mobisim.report.plots import draw_convergence  # noqa: PLC0415
    from mobisim.report.timeline import draw_timeline  # noqa: PLC0415
    from mobisim.report.trace import write_trace  # noqa: PLC0415

    draw_convergence(aside, aside / "convergence.png")
    draw_timeline(aside, aside / "timeline.png")
    write_trace(aside, aside / "trace.json")
