"""`mobisim fit`: every method against a device's memory, at a scenario's shape and over all shapes.

A mini-batch is taken as full: every sample as long as the sequence length. MobiLLM's queue holds
as many payloads as the run-ahead allows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from typing import Any

from mobisim.cost.architecture import Architecture
from mobisim.cost.memory import DeviceMemory, capacity_bytes
from mobisim.cost.method_cost import on_device_s, outside
from mobisim.cost.method_memory import memory_on_device
from mobisim.cost.system import System, check_positions
from mobisim.cost.traffic import round_traffic, traffic
from mobisim.cost.training import BackbonePart, Training
from mobisim.cost.training_memory import TrainingMemory, training
from mobisim.cost.work import BatchShape
from mobisim.errors import InputError
from mobisim.report.fit_map import FitMap
from mobisim.report.fit_table import FitRow, FitTable
from mobisim.scenario.methods import METHODS, MethodInfo, name_of
from mobisim.scenario.profiles import Precision
from mobisim.scenario.schema import DeviceGroup, Scenario
from mobisim.workload import uniform_shape

MAX_BATCH, MIN_LENGTH, MAX_LENGTH = 512, 16, 2048
STEPS_PER_DOUBLING = 4


@dataclass(frozen=True)
class Fit:
    """The methods on the devices of one group of a scenario."""

    scenario: Scenario
    index: int
    checkpointing: bool = False

    @cached_property
    def system(self) -> System:
        """The sizes of the scenario."""
        return System(self.scenario).on(self.group)

    @cached_property
    def systems(self) -> dict[str, System]:
        """The same by each method."""
        return {name: System(self._by(name)).on(self.group) for name in METHODS}

    def _by(self, name: str) -> Scenario:
        checkpointing = self.checkpointing or self.scenario.tuning.checkpointing
        tuning = self.scenario.tuning.model_copy(update={"checkpointing": checkpointing})
        return self.scenario.model_copy(update={"method": name, "tuning": tuning})

    @property
    def backbone(self) -> Architecture:
        """The timed backbone."""
        assert self.system.backbone is not None
        return self.system.backbone

    @property
    def group(self) -> DeviceGroup:
        """The devices."""
        return self.scenario.devices[self.index]

    @property
    def capacity(self) -> int:
        """Bytes that the device has."""
        found = capacity_bytes(self.group.profile)
        assert found is not None
        return found

    @property
    def shape(self) -> tuple[int, int]:
        """Samples of a mini-batch and tokens of each, as the scenario has them."""
        stated = self.scenario.training or self.scenario
        assert stated.batch_size is not None
        assert stated.sequence_length is not None
        return stated.batch_size, stated.sequence_length

    def shaped(self, name: str, num_samples: int, length: int) -> BatchShape:
        """A mini-batch as a method sends it."""
        return uniform_shape(self.systems[name], num_samples, length)

    def memory(
        self, method: MethodInfo, shape: BatchShape, precision: Precision | None = None
    ) -> DeviceMemory | TrainingMemory:
        """What the device needs to take its part in a method, at its own precision or another."""
        group = self.group if precision is None else _at(self.group, precision)
        system = self.systems[name_of(method)]
        found = traffic(system, shape)
        exchanged = round_traffic(system, shape)
        largest = max(*found.up, found.reply, exchanged.down, exchanged.up)
        waiting = group.run_ahead * len(found.up)
        memory = memory_on_device(system, group, shape, largest, waiting)
        assert memory is not None
        return memory

    def largest_batch(self, name: str, length: int, precision: Precision) -> int:
        """The most samples of that length that fit, up to MAX_BATCH; 0 where none does."""

        def spare(num_samples: int) -> int:
            shape = self.shaped(name, num_samples, length)
            return self.capacity - self.memory(METHODS[name], shape, precision).peak

        return _most(spare, MAX_BATCH)

    def precisions(self) -> list[Precision]:
        """Three to compare, the device's own among them."""
        found: list[Precision] = ["fp32", "fp16", "int8"]
        own = self.group.profile.precision.value
        if own not in found:
            found[1 if own == "bf16" else 2] = own
        return found


@cache
def _at(group: DeviceGroup, precision: Precision) -> DeviceGroup:
    """The same devices, working at another precision."""
    stated = group.profile.precision.model_copy(update={"value": precision})
    profile = group.profile.model_copy(update={"precision": stated})
    return group.model_copy(update={"profile": profile})


def fit_of(scenario: Scenario, index: int = 0, *, checkpointing: bool = False) -> Fit:
    """The methods on the devices of group `index`; with `checkpointing`, blocks run twice.

    Raises:
        InputError: no such group, or a scenario that states no model, shape or memory.
    """
    if not 0 <= index < len(scenario.devices):
        last = len(scenario.devices) - 1
        raise InputError("no such group", where="--group", expected=f"0 to {last}", got=str(index))
    stated = scenario.training or scenario
    if scenario.model is None or stated.batch_size is None:
        raise InputError("memory needs a model and the shape of a mini-batch", where="model")
    if capacity_bytes(scenario.devices[index].profile) is None:
        raise InputError(
            "the device's memory is not stated",
            where=f"devices[{index}].profile.memory",
            expected="a size such as '8 GiB'",
        )
    found = Fit(scenario, index, checkpointing)
    check_positions(found.scenario, found.backbone, found.shape[1])
    return found


def table(fit: Fit) -> FitTable:
    """Every method at the scenario's shape."""
    num_samples, length = fit.shape
    profile = fit.group.profile
    model = fit.scenario.model
    assert model is not None
    return FitTable(
        scenario=fit.scenario.name,
        model=model.name,
        device=profile.name,
        precision=profile.precision.value,
        capacity=fit.capacity,
        batch_size=num_samples,
        sequence_length=length,
        rows=tuple(_row(fit, name) for name in METHODS),
        checkpointing=fit.checkpointing,
        only_head_trains=tuple(name for name in METHODS if _only_head_trains(fit, name)),
        attention=fit.scenario.attention,
    )


def _only_head_trains(fit: Fit, name: str) -> bool:
    """Whether a method finds nothing to train, as BitFit in a model without biases."""
    found = METHODS[name]
    if found.site != "device":
        return False
    run, shape = _training(fit, name), fit.shaped(name, *fit.shape)
    nothing = replace(run, method=replace(found, trains=(), bypass=None))
    return run.tally(shape).trainable == nothing.tally(shape).trainable


def _row(fit: Fit, name: str) -> FitRow:
    memory = fit.memory(METHODS[name], fit.shaped(name, *fit.shape))
    parts = asdict(memory)
    if not isinstance(memory, TrainingMemory):
        # What is held until it is sent: the tapped activations, the message under construction.
        parts["transient"] += parts.pop("taps") + parts.pop("encode")
    return FitRow(name, parts, device_seconds(fit, name))


def device_seconds(fit: Fit, name: str) -> float | None:
    """Seconds of the device for a mini-batch; None where its profile does not tell."""
    shape, profile = fit.shaped(name, *fit.shape), fit.group.profile
    system = fit.systems[name]
    if METHODS[name].device == "nothing":
        return 0.0
    try:
        if METHODS[name].device != "forward" and profile.kind == "fixed":
            return None
        if any(True for where, *_ in outside(system, shape) if where.startswith("devices")):
            return None
    except InputError:  # an operator that was not measured
        return None
    return on_device_s(system, fit.group, shape)


def _training(fit: Fit, name: str) -> Training:
    system = fit.systems[name]
    part: BackbonePart = "below" if system.options.method.site == "split" else "all"
    return training(system, fit.group.profile.precision.value, part)


def work(fit: Fit, name: str) -> dict[str, int | float] | None:
    """Parameters that train and FLOPs of a step on the device; None where the server trains."""
    if METHODS[name].device in ("forward", "nothing", "perturbed_forwards"):
        return None
    found = _training(fit, name).tally(fit.shaped(name, *fit.shape))
    return {
        "trainable_parameters": found.trainable,
        "forward_flop": found.forward_flop,
        "backward_flop": found.backward_flop,
    }


def fit_map(fit: Fit) -> FitMap:
    """The largest mini-batch that fits, by method, precision and sequence length."""
    lengths = _lengths(min(MAX_LENGTH, fit.backbone.max_positions))
    largest: dict[tuple[str, str], list[int]] = {
        (precision, name): [fit.largest_batch(name, length, precision) for length in lengths]
        for precision in fit.precisions()
        for name in METHODS
    }
    return FitMap(table(fit), tuple(lengths), tuple(fit.precisions()), largest, MAX_BATCH)


def _most(spare: Callable[[int], int], bound: int) -> int:
    """The most, up to a bound, of which enough is to spare, which falls; 0 where one is too many.

    Memory grows with samples nearly along straight lines, so that secants end a search at once; the
    middles bound it where it bends.
    """
    low, high = 1, bound
    left = {low: spare(low), high: spare(high)}
    if left[low] < 0 or left[high] >= 0:
        return 0 if left[low] < 0 else high
    while high - low > 1:
        secant = low + (high - low) * left[low] // (left[low] - left[high])
        for at in (secant, secant + 1, (low + high) // 2):
            if low < at < high:
                left[at] = spare(at)
                low, high = (at, high) if left[at] >= 0 else (low, at)
    return low


def _lengths(most: int) -> list[int]:
    steps = range(STEPS_PER_DOUBLING * 16)
    found = {round(MIN_LENGTH * 2 ** (step / STEPS_PER_DOUBLING)) for step in steps}
    return sorted({length for length in found if length < most} | {most})


def numbers(fit: Fit) -> dict[str, Any]:
    """All of it as plain values, for JSON."""
    found, area = table(fit), fit_map(fit)
    return {
        **{key: value for key, value in asdict(found).items() if key not in ("rows", "capacity")},
        "capacity_bytes": found.capacity,
        "methods": {row.name: _numbers(fit, row, found.capacity) for row in found.rows},
        "map": {
            "sequence_lengths": list(area.lengths),
            "max_batch_size": area.max_batch,
            "largest_batch_size": {
                precision: {name: area.largest[precision, name] for name in METHODS}
                for precision in area.precisions
            },
        },
    }


def _numbers(fit: Fit, row: FitRow, capacity: int) -> dict[str, Any]:
    method = METHODS[row.name]
    return {
        "parts_bytes": row.parts,
        "peak_bytes": row.peak,
        "fits": row.peak <= capacity,
        "short_by_bytes": max(0, row.peak - capacity),
        "device_s": row.device_s,
        "device_work": work(fit, row.name),
        "up": list(method.up),
        "down": list(method.down),
    }
