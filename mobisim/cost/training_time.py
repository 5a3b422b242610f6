"""How long one training step on a device lasts: forward, backward and update, from the tape.

Attention is the fused one, as transformers runs it unless told otherwise. A classifier's head and
its loss, a product of a few rows, are left out; a next-token head is in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from mobisim.cost.compute import ACTIVATION_BYTES, roofline_s
from mobisim.cost.measured import optimizer_calls
from mobisim.cost.operators import Call, Operators
from mobisim.cost.tape import Calls, Tally
from mobisim.cost.training import Training
from mobisim.cost.work import BatchShape, Work
from mobisim.scenario.profiles import DeviceProfile, Measured, Roofline, ServerProfile


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step's parts."""

    forward_s: float
    backward_s: float
    update_s: float

    @property
    def total_s(self) -> float:
        """All of them."""
        return self.forward_s + self.backward_s + self.update_s


class TrainingModel(Protocol):
    """How long a device takes for one step of a method that trains on it."""

    def step(self, training: Training, shape: BatchShape) -> StepTime | None:
        """The parts of a step; None where what is known of the device does not tell."""
        ...

    def seconds(self, found: Tally, value_bytes: int) -> StepTime:
        """The parts of a step that is counted already."""
        ...

    def updates_s(self, found: Tally, optimizer: str) -> float:
        """Seconds of going once through what trains, as an update by that optimiser does."""
        ...

    def outside(self, found: Tally) -> list[str]:
        """What of a step lies outside the measured sizes."""
        ...


@dataclass(frozen=True)
class MeasuredTraining:
    """A step put together from the operators that it calls."""

    operators: Operators
    optimizer: str

    def step(self, training: Training, shape: BatchShape) -> StepTime | None:
        """The sums over all operators; None where one was not measured, or not at such a size."""
        found = training.tally(shape)
        covered = all(self.operators.covers(part) for part in self._parts(found))
        return self.seconds(found, training.float_bytes) if covered else None

    def seconds(self, found: Tally, value_bytes: int) -> StepTime:
        """The sums over all operators; new memory is taken in the forward.

        Raises:
            InputError: one of them was not measured.
        """
        forward_s, backward_s, update_s = map(self.operators.seconds, self._parts(found))
        anew_s = self.operators.anew_s(new_bytes(found, value_bytes))
        return StepTime(forward_s + anew_s, backward_s, update_s)

    def updates_s(self, found: Tally, optimizer: str) -> float:
        """Seconds of going once through what trains, as an update by that optimiser does."""
        return self.operators.seconds(optimizer_calls(optimizer, found.updated))

    def outside(self, found: Tally) -> list[str]:
        """What lies outside the measured sizes."""
        return [words for part in self._parts(found) for words in self.operators.outside(part)]

    def _parts(self, found: Tally) -> tuple[list[Call], list[Call], list[Call]]:
        update = optimizer_calls(self.optimizer, found.updated)
        return _calls(found.forward_calls), _calls(found.backward_calls), update


@dataclass(frozen=True)
class RooflineTraining:
    """A step on a roofline: forward and backward, then the update."""

    profile: Roofline
    optimizer: str

    def step(self, training: Training, shape: BatchShape) -> StepTime:
        """Compute or memory, whichever is slower, of each part."""
        return self.seconds(training.tally(shape), training.float_bytes)

    def seconds(self, found: Tally, value_bytes: int) -> StepTime:  # noqa: ARG002 - the profile's
        """The same of a step that is counted already."""
        return StepTime(
            self._seconds(found.forward_calls, found.forward_flop),
            self._seconds(found.backward_calls, found.backward_flop),
            self.updates_s(found, self.optimizer),
        )

    def updates_s(self, found: Tally, optimizer: str) -> float:
        """Seconds of going once through what trains, as an update by that optimiser does."""
        return self._seconds(_counted(optimizer_calls(optimizer, found.updated)), 0.0)

    def outside(self, found: Tally) -> list[str]:  # noqa: ARG002 - mini-batches are looked at
        """Nothing beyond what the profile says it covers."""
        return []

    def _seconds(self, calls: Calls, flop: float) -> float:
        moved = work(calls, ACTIVATION_BYTES[self.profile.precision.value])
        return roofline_s(self.profile, replace(moved, flop=flop))


def training_model(profile: DeviceProfile | ServerProfile, optimizer: str) -> TrainingModel | None:
    """What tells of training on such a device; None where its times are stated."""
    if isinstance(profile, Measured):
        return MeasuredTraining(Operators.of(profile), optimizer)
    return RooflineTraining(profile, optimizer) if isinstance(profile, Roofline) else None


def _calls(counted: Calls) -> list[Call]:
    return [Call(operator, sizes, count) for (operator, sizes), count in counted.items()]


EAGER_ONLY = ("scores", "probabilities")  # what fused attention does not keep


def new_bytes(found: Tally, value_bytes: int) -> int:
    """Memory that a step takes and gives back: kept activations, then gradients in their place.

    The gradient of a table of embeddings counts with its own operator.
    """
    kept = sum(size for name, size in found.kept.items() if not name.startswith(EAGER_ONLY))
    tables = sum(
        count * sizes[1] * sizes[2]
        for (operator, sizes), count in found.backward_calls.items()
        if operator == "table:backward"
    )
    gradients = value_bytes * (found.trainable - round(tables))
    return max(kept, gradients)


def _counted(calls: list[Call]) -> Calls:
    return Calls({(call.operator, call.sizes): int(call.count) for call in calls})


# Values that an operator reads and writes, by the part of its name before the colon.
_VALUES: dict[str, Callable[..., float]] = {
    "linear": lambda tokens, fan_in, fan_out: tokens * fan_in + fan_in * fan_out + tokens * fan_out,
    "attention": lambda tokens, _length, width, _head_size: 4 * tokens * width,
    "norm": lambda tokens, width: 2 * tokens * width,
    "activation": lambda tokens, width: 2 * tokens * width,
    "add": lambda tokens, width: 3 * tokens * width,
    "rotary": lambda tokens, width: 2 * tokens * width,
    "embedding": lambda tokens, width: 3 * tokens * width,
    "table": lambda tokens, width, rows: (tokens + rows) * width,
    "optimizer": lambda parameters: 7 * parameters,  # all but the gradient are written, too
    "head": lambda tokens, width, vocabulary: 2 * width * vocabulary + 6 * tokens * vocabulary,
}


def work(calls: Calls, value_bytes: int) -> Work:
    """Bytes moved and operators launched by these calls."""
    values = sum(
        count * _VALUES[operator.partition(":")[0]](*sizes)
        for (operator, sizes), count in calls.items()
    )
    return Work(num_bytes=float(value_bytes * values), num_ops=float(calls.total()))
