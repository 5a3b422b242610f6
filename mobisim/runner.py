"""A run: from a scenario to a published result."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobisim.cost.system import System
from mobisim.errors import InputError
from mobisim.fit import Memory, by_group
from mobisim.manifest import VERSION, manifest
from mobisim.report import results
from mobisim.report.invariants import InvariantFold, check_summary
from mobisim.report.metrics import MetricsFold, Totals
from mobisim.report.summary import NO_TIMING, Summary, energy_fields, timing_fields
from mobisim.report.tables import SpanWriter, StepWriter, read_spans
from mobisim.scenario.profiles import Roofline
from mobisim.scenario.provenance import count_sorts, origins
from mobisim.scenario.schema import Scenario
from mobisim.sim.engine import simulate
from mobisim.span import STEP, Block, SpanColumns
from mobisim.workload import Planned, metric_name, plan
from mobisim.world import Batch, World, build

if TYPE_CHECKING:
    from mobisim.learning import Learning

RESULTS = Path("results")
MAX_SECONDS, MAX_BYTES = 1e15, 1 << 62
CHECKPOINT_EVERY_S = 120.0
PADDING_WORTH_A_WARNING = 0.25

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Options:
    """How to run, beside what the scenario asks."""

    train: bool = True
    plots: bool = True
    ignore_memory: bool = False
    allow_extrapolation: bool = False
    resume: bool = False
    checkpoint_every_s: float = CHECKPOINT_EVERY_S
    out: Path | None = None
    command: str = ""
    progress: Progress = field(default=lambda what, done, total: None, repr=False)

    def deciding(self) -> dict[str, bool]:
        """The options that decide what the result says."""
        return {
            "train": self.train,
            "ignore_memory": self.ignore_memory,
            "allow_extrapolation": self.allow_extrapolation,
        }


@dataclass(frozen=True)
class Result:
    """A published result."""

    path: Path
    summary: Summary


@dataclass(frozen=True)
class Prepared:
    """Everything that a run needs, worked out and checked before its timeline begins."""

    scenario: Scenario
    options: Options
    planned: Planned
    system: System
    world: World
    extrapolated: list[str]
    digest: str
    place: Path

    @property
    def learns(self) -> bool:
        """Whether side networks are really trained."""
        return self.scenario.training is not None and self.options.train

    @property
    def memory(self) -> Memory:
        """What the scenario asks of memory."""
        return Memory(self.system, self.planned.workload, self.world)


def run(scenario: Scenario, options: Options | None = None) -> Result:
    """Simulate a scenario, learn on its timeline where it asks for that, and publish the result.

    Raises:
        InputError: the scenario cannot be run as it stands.
        InvariantError: the finished run breaks an invariant; nothing is published.
    """
    options = options or Options()
    results.check_writable(options.out or RESULTS / scenario.name / "digest")
    prepared = prepare(scenario, options)
    results.check_free(prepared.place, prepared.digest)
    learning = _begin_learning(prepared) if _will_learn(prepared) else None
    with results.publishing(prepared.place) as aside:
        summary = _produce(prepared, learning, aside)
    if learning is not None:
        learning.checkpoints.clear()
    return Result(prepared.place, summary)


def prepare(scenario: Scenario, options: Options) -> Prepared:
    """Work out the workload, sizes and times of a scenario.

    Raises:
        InputError: data that is missing, a shape that no profile covers, or what is not built yet.
    """
    if options.train:
        _check_learning(scenario)
    planned = plan(scenario)
    system = System(scenario, planned.data.num_classes) if planned.data else System(scenario)
    extrapolated = _extrapolated(system, planned)
    if extrapolated and not options.allow_extrapolation:
        path, _, shape = extrapolated[0].partition(" ")
        raise InputError(
            "a shape that no profile covers",
            where=path,
            got=shape,
            hint="choose another shape or profile, or insist with --allow-extrapolation",
        )
    digest = _digest(scenario, options, planned)
    world = build(system, planned.workload)
    _check_magnitudes(world)
    return Prepared(
        scenario,
        options,
        planned,
        system,
        world,
        extrapolated,
        digest,
        options.out or RESULTS / scenario.name / digest,
    )


def _check_learning(scenario: Scenario) -> None:
    training = scenario.training
    if training is None:
        return
    metric_name(training)
    if scenario.num_devices > 1:
        raise InputError(
            "learning with more than one device is not built yet",
            where="devices",
            got=f"{scenario.num_devices} devices",
            hint="use one device, or ask for the timing alone with --no-train",
        )
    if scenario.wire.codec is None:
        raise InputError("learning needs a codec", where="wire", hint="state wire.codec")


def _extrapolated(system: System, planned: Planned) -> list[str]:
    """Shapes that lie outside what a profile covers.

    Raises:
        InputError: a sequence longer than the model has positions, which nothing can allow.
    """
    shapes = [shape for shape in planned.workload.shapes if shape is not None]
    if not shapes:
        return []
    _check_positions(system, max(shape.max_length for shape in shapes))
    tokens = [shape.num_tokens for shape in shapes]
    scenario = system.scenario
    profiles = {f"devices[{i}].profile": g.profile for i, g in enumerate(scenario.devices)}
    found = []
    for path, profile in {**profiles, "server.profile": scenario.server.profile}.items():
        if isinstance(profile, Roofline):
            low, high = profile.covers.num_tokens
            outside = [count for count in (min(tokens), max(tokens)) if not low <= count <= high]
            if outside:
                found.append(
                    f"{path} ({profile.name}): {outside[-1]} tokens per mini-batch, "
                    f"covered: {low} to {high}"
                )
    return found


def _check_positions(system: System, longest: int) -> None:
    backbone = system.backbone
    if backbone is not None and longest > backbone.max_positions:
        raise InputError(
            "the model has not so many positions",
            where="training.sequence_length" if system.scenario.training else "sequence_length",
            expected=f"at most {backbone.max_positions}",
            got=str(longest),
        )


def _check_magnitudes(world: World) -> None:
    """Refuse what clocks and counters cannot hold.

    Raises:
        InputError: a run of more seconds or bytes than that.
    """
    seconds, size = 0.0, 0
    for group in world.groups:
        batches = group.count * group.num_batches
        seconds += batches * (group.latency_s + max(map(_seconds, group.batches)))
        seconds += group.count * (group.download_s + group.latency_s)
        size += batches * group.largest_payload + group.count * group.download_bytes
    for unit, total, most in (("seconds", seconds, MAX_SECONDS), ("bytes", size, MAX_BYTES)):
        if total > most:
            raise InputError(
                f"the run would take up to {total:.3g} {unit}",
                where="devices",
                expected=f"at most {most:.3g}",
                hint="is a rate, a duration, a size or a count out of proportion?",
            )


def _seconds(batch: Batch) -> float:
    parts = (
        part.forward_s + part.encode_s + part.transfer_s + part.decode_s + part.side_forward_s
        for part in batch.parts
    )
    return sum(parts) + batch.step_s


def _digest(scenario: Scenario, options: Options, planned: Planned) -> str:
    identity = {
        "version": VERSION,
        "scenario": scenario.model_dump(mode="json"),
        "options": options.deciding(),
        "data": planned.fingerprint(),
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def _will_learn(prepared: Prepared) -> bool:
    """Learning begins only where its timeline will be drawn."""
    if not prepared.learns:
        return False
    return prepared.options.ignore_memory or prepared.memory.suffices()


def _begin_learning(prepared: Prepared) -> Learning:
    # torch takes seconds to import, and timing-only runs must not pay for it.
    from mobisim.learning import Checkpoints, Learning  # noqa: PLC0415

    progress = prepared.options.progress
    checkpoints = Checkpoints(
        prepared.place.resolve(),
        prepared.digest,
        every_s=prepared.options.checkpoint_every_s,
        resume=prepared.options.resume,
    )
    return Learning(
        prepared.system,
        prepared.planned,
        checkpoints,
        lambda done, total: progress("training", done, total),
    )


def _produce(prepared: Prepared, learning: Learning | None, aside: Path) -> Summary:
    """Write all of a result into `aside`."""
    runs = learning is not None or prepared.options.ignore_memory
    totals = None
    if runs or (not prepared.learns and prepared.memory.suffices()):
        totals = _stream(prepared, learning, aside)
    else:
        _write_no_spans(prepared, aside)
    summary = _summarise(prepared, learning, totals)
    fields = summary.model_dump(mode="json")
    check_summary(fields, read_spans(aside / results.SPANS_FILE), prepared.world.actors.names)
    results.write_json(aside / results.SUMMARY, fields)
    results.write_json(
        aside / results.MANIFEST,
        manifest(prepared.scenario, prepared.digest, prepared.world, prepared.options.command),
    )
    if learning is not None:
        learning.save(aside / "side_network.safetensors")
    if prepared.options.plots and totals is not None:
        _draw(aside)
    return summary


def _stream(prepared: Prepared, learning: Learning | None, aside: Path) -> Totals:
    """Simulate, learn and record, block by block."""
    world, planned = prepared.world, prepared.planned
    metrics, invariants = MetricsFold(world), InvariantFold(world)
    with _writers(prepared, aside) as (spans, steps):
        for block, learned in _blocks(world, learning):
            columns = block.columns
            metrics.add(block)
            invariants.add(columns)
            spans.add(columns)
            stepped = columns.batch[(columns.kind == STEP) & ~columns.cut]
            samples = planned.num_samples[stepped] if planned.samples else None
            steps.add(columns, samples, *learned)
            if learning is None:
                prepared.options.progress(
                    "simulating", metrics.counts["steps"], world.total_batches
                )
    totals = metrics.totals()
    if _ended_by(prepared, learning, totals) == "finished":
        invariants.finish()
    return totals


@contextmanager
def _writers(prepared: Prepared, aside: Path) -> Iterator[tuple[SpanWriter, StepWriter]]:
    training = prepared.scenario.training
    per_epoch = prepared.planned.workload.num_batches // training.epochs if training else None
    with (
        SpanWriter(aside / results.SPANS_FILE, prepared.world.actors.names) as spans,
        StepWriter(aside / results.STEPS_FILE, per_epoch) as steps,
    ):
        yield spans, steps


def _write_no_spans(prepared: Prepared, aside: Path) -> None:
    with _writers(prepared, aside) as (spans, _):
        spans.add(SpanColumns.from_rows([]))


def _blocks(world: World, learning: Learning | None) -> Iterator[tuple[Block, tuple[Any, ...]]]:
    if learning is None:
        with _collector_at_rest():
            yield from ((block, ()) for block in simulate(world))
        return
    for block in simulate(world):
        learned = learning.add(block.columns)
        if learned.stop_after is not None:
            yield Block(block.rows[: learned.stop_after + 1]), (learned.loss, learned.metric)
            return
        yield block, (learned.loss, learned.metric)


@contextmanager
def _collector_at_rest() -> Iterator[None]:
    """Spare the walks of the cycle collector over millions of rows, none of which is a cycle."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _ended_by(prepared: Prepared, learning: Learning | None, totals: Totals | None) -> str:
    if totals is None:
        return "memory"
    if learning is not None and learning.stopped:
        return "target"
    unfinished = totals.num_cut or totals.num_steps < prepared.world.total_batches
    return "horizon" if unfinished else "finished"


def _summarise(prepared: Prepared, learning: Learning | None, totals: Totals | None) -> Summary:
    scenario, world = prepared.scenario, prepared.world
    found = origins(scenario)
    if totals is None:
        timing, backlog, queued = NO_TIMING, [0] * len(world.groups), 0
    else:
        timing = timing_fields(world, totals) | energy_fields(scenario, world, totals)
        backlog = by_group(world, totals.device_backlog.tolist())
        queued = totals.server_backlog
    fields: dict[str, Any] = {
        "name": scenario.name,
        "digest": prepared.digest,
        "seed": scenario.seed,
        "method": scenario.method,
        "model": scenario.model.name if scenario.model else None,
        "granularity": scenario.granularity,
        "ended_by": _ended_by(prepared, learning, totals),
        "num_batches": world.total_batches,
        **timing,
        **_learning_fields(prepared, learning),
        **prepared.memory.fields(backlog, queued),
        "padding_fraction": prepared.planned.padding_fraction,
        "provenance_counts": count_sorts(found),
        "extrapolated": prepared.extrapolated,
    }
    return Summary(**fields, warnings=_warnings(fields))


def _learning_fields(prepared: Prepared, learning: Learning | None) -> dict[str, Any]:
    training = prepared.scenario.training
    return {
        "target": training.target if training else None,
        "metric_name": metric_name(training) if training else None,
        "time_to_target_s": learning.time_to_target_s if learning else None,
        "initial_metric": learning.history.initial if learning else None,
        "final_metric": learning.final_metric() if learning else None,
        "stand_in": learning.stand_in if learning else None,
    }


def _warnings(fields: dict[str, Any]) -> list[str]:
    found = []
    padding = fields["padding_fraction"]
    if padding is not None and padding > PADDING_WORTH_A_WARNING:
        found.append(
            f"{padding * 100:.0f} % of the tokens sent are padding; "
            "training.padding: longest or none sends fewer"
        )
    if fields["ended_by"] == "horizon":
        found.append("the horizon ended the run before all mini-batches were stepped")
    return found


def _draw(aside: Path) -> None:
    # matplotlib takes half a second to import; runs without pictures must not pay for it.
    from mobisim.report.plots import draw_convergence  # noqa: PLC0415
    from mobisim.report.timeline import draw_timeline  # noqa: PLC0415
    from mobisim.report.trace import write_trace  # noqa: PLC0415

    draw_convergence(aside, aside / "convergence.png")
    draw_timeline(aside, aside / "timeline.png")
    write_trace(aside, aside / "trace.json")
