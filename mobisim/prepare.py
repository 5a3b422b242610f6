"""Before a run: workload, sizes and times of a scenario, worked out and checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from mobisim.cost.method_cost import outside, sides
from mobisim.cost.system import System, check_positions
from mobisim.cost.work import BatchShape
from mobisim.errors import InputError
from mobisim.fit import Memory
from mobisim.manifest import VERSION
from mobisim.scenario.profiles import Roofline
from mobisim.scenario.resolved import check_options, options_of
from mobisim.scenario.schema import Scenario
from mobisim.sim.engine import simulate
from mobisim.span import STEP
from mobisim.training.tokens import same_tokens
from mobisim.workload import Drawn, Planned, metric_name, plan, trained_names, trained_sizes
from mobisim.world import Batch, Costs, Rounds, World, build, costs_of

RESULTS = Path("results")
MAX_SECONDS, MAX_BYTES = 1e15, 1 << 62
CHECKPOINT_EVERY_S = 120.0

Progress = Callable[[str, int, int], None]


def silent(_what: str, _done: int, _total: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class Options:
    """How to run, beside what the scenario asks."""

    train: bool = True
    plots: bool = True
    ignore_memory: bool = False
    allow_extrapolation: bool = False
    resume: bool = False
    real: bool = False  # on a testbed, not simulated
    checkpoint_every_s: float = CHECKPOINT_EVERY_S
    out: Path | None = None
    command: str = ""
    progress: Progress = field(default=silent, repr=False)

    @property
    def bare(self) -> Options:
        """The same for a run among others: without a place, pictures or progress of its own."""
        return replace(self, out=None, plots=False, progress=silent)

    def deciding(self) -> dict[str, bool]:
        """The options that decide what the result says."""
        return {
            "train": self.train,
            "ignore_memory": self.ignore_memory,
            "allow_extrapolation": self.allow_extrapolation,
            **({"real": True} if self.real else {}),
        }


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

    @cached_property
    def runs(self) -> bool:
        """Whether it fits in memory, or that is ignored."""
        return self.options.ignore_memory or self.memory.suffices()

    @cached_property
    def costs(self) -> Costs:
        """What the mini-batches cost over any link."""
        return costs_of(self.system, self.planned.workload)

    @cached_property
    def memory(self) -> Memory:
        """What the scenario asks of memory."""
        return Memory(self.system, self.planned.workload, self.world)


def prepare(scenario: Scenario, options: Options, drawn: Drawn | None = None) -> Prepared:
    """Work out the workload, sizes and times of a scenario; its data is `drawn` where that is done.

    Raises:
        InputError: data that is missing, a shape that no profile covers, or what is not built yet.
    """
    check_options(scenario)
    if options.train:
        _check_learning(scenario)
    planned = plan(scenario, drawn)
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
    if scenario.training is not None and options.train and _may_be_stale(world):
        planned = replace(planned, staleness=_staleness(world))
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
    method = options_of(scenario).method
    apart = method.device not in ("forward", "nothing") and method.rounds is None
    if scenario.num_devices > 1 and apart:
        raise InputError(
            "what devices train by themselves in one run is not built yet",
            where="devices",
            expected="one device, or a method that trains at the server alone",
            got=f"{scenario.num_devices} devices",
            hint="or ask for the timing alone with --no-train",
        )
    for index, name in enumerate(trained_names(scenario)):
        if name != training.backbone:
            _check_backbone(scenario, name, f"devices[{index}].backbone")
    if scenario.wire.codec is None:
        raise InputError("learning needs a codec", where="wire", hint="state wire.codec")


def _check_backbone(scenario: Scenario, name: str, where: str) -> None:
    """Refuse a backbone of a group that cannot learn together with the others'."""
    training = scenario.training
    assert training is not None
    if not options_of(scenario).method.has_side_network or training.head == "next_token":
        raise InputError(
            "only a side network that classifies can be shared by devices with different backbones",
            where=where,
            expected=f"{training.backbone}, as training.backbone says",
            got=name,
        )
    try:
        trained_sizes(name)
        alike = same_tokens(name, training.backbone)
    except InputError as error:
        raise error.placed(where) from error
    if not alike:
        raise InputError(
            "devices of one federation read the same tokens, and these backbones do not",
            where=where,
            expected=f"a backbone with the tokeniser of {training.backbone}",
            got=name,
        )


def _extrapolated(system: System, planned: Planned) -> list[str]:
    """Shapes that lie outside what a profile covers.

    Raises:
        InputError: a sequence longer than the model has positions, which nothing can allow.
    """
    shapes = [shape for shape in planned.workload.shapes if shape is not None]
    if not shapes:
        return []
    longest = max(shape.max_length for shape in shapes)
    for view in system.views:
        if view.backbone is not None:
            check_positions(system.scenario, view.backbone, longest)
    computed = [shape.fresh.num_tokens for shape in shapes if shape.fresh is not None]
    received = [shape.sent.num_tokens for shape in shapes]
    scenario = system.scenario
    profiles = {f"devices[{i}].profile": g.profile for i, g in enumerate(scenario.devices)}
    found, used = [], sides(system)
    for path, profile in {**profiles, "server.profile": scenario.server.profile}.items():
        if isinstance(profile, Roofline) and used[path == "server.profile"]:
            tokens = received if path == "server.profile" else computed
            low, high = profile.covers.num_tokens
            outside = [count for count in (min(tokens), max(tokens)) if not low <= count <= high]
            if outside:
                found.append(
                    f"{path} ({profile.name}): {outside[-1]} tokens per mini-batch, "
                    f"covered: {low} to {high}"
                )
    return found + _unmeasured(system, shapes)


def _unmeasured(system: System, shapes: list[BatchShape]) -> list[str]:
    """Operators of measured profiles that a shape would call outside their measured sizes.

    Raises:
        InputError: an operator that was not measured at all, which nothing can allow.
    """
    beyond = (one for shape in shapes for one in outside(system, shape))
    return [f"{path} ({name}): {words}" for path, name, words in dict.fromkeys(beyond)]


def _check_magnitudes(world: World) -> None:
    """Refuse what clocks and counters cannot hold.

    Raises:
        InputError: a run of more seconds or bytes than that.
    """
    seconds, size = 0.0, 0
    for group in world.groups:
        batches = int(group.batches_of.sum())
        seconds += batches * (2 * group.latency_s + max(map(_seconds, group.batches)))
        seconds += group.count * (group.download_s + group.latency_s)
        replies = max(batch.reply_bytes for batch in group.batches)
        size += batches * (group.largest_payload + replies) + group.count * group.download_bytes
    if world.rounds is not None:
        seconds, size = _of_rounds(world, world.rounds)
    if world.replay is not None:
        seconds += world.replayed * max(map(_seconds, world.replay.batches))
    for unit, total, most in (("seconds", seconds, MAX_SECONDS), ("bytes", size, MAX_BYTES)):
        if total > most:
            raise InputError(
                f"the run would take up to {total:.3g} {unit}",
                where="devices",
                expected=f"at most {most:.3g}",
                hint="is a rate, a duration, a size or a count out of proportion?",
            )


def _of_rounds(world: World, rounds: Rounds) -> tuple[float, int]:
    """Seconds and bytes of all rounds, one device after the other."""
    seconds, size = rounds.count * (rounds.average_s + (rounds.deadline_s or 0.0)), 0
    most = rounds.participations * int(rounds.local.max())
    seconds += most * max(map(_seconds, world.all_batches))
    for group in world.groups:
        exchange, times = group.exchange, rounds.participations + group.count
        assert exchange is not None
        each_s = exchange.down_s + exchange.up_s + 2 * group.latency_s + exchange.merge_s
        seconds, size = seconds + times * each_s, size + times * 2 * exchange.down_bytes
    return seconds, size


def _seconds(batch: Batch) -> float:
    parts = (
        part.forward_s + part.encode_s + part.transfer_s + part.decode_s + part.side_forward_s
        for part in batch.parts
    )
    return sum(parts) + batch.cached_s + batch.step_s + batch.reply_s + batch.backward_s


def _may_be_stale(world: World) -> bool:
    """Whether anything older than the newest version may be learned from."""
    if world.rounds is None:
        return world.num_workers > 1
    return world.rounds.calls is not None


def _staleness(world: World) -> int:
    """The greatest of all steps: how many versions must be kept to be read."""
    blocks = (block.columns for block in simulate(world))
    steps = (columns[(columns.kind == STEP) & ~columns.cut] for columns in blocks)
    late = (one.version_written - 1 - one.version_read for one in steps if len(one))
    return max((int(each.max()) for each in late), default=0)


def _digest(scenario: Scenario, options: Options, planned: Planned) -> str:
    identity = {
        "version": VERSION,
        "scenario": scenario.model_dump(mode="json"),
        "options": options.deciding(),
        "data": planned.fingerprint,
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
