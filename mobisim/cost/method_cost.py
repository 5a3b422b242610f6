"""What a mini-batch costs, by what its method has the device do for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mobisim.cost.compute import BatchCost, batch_cost, codec_s, device_model, server_model
from mobisim.cost.measured import MeasuredDeviceModel, MeasuredServerModel
from mobisim.cost.system import System
from mobisim.cost.tape import Tally
from mobisim.cost.traffic import Traffic, traffic
from mobisim.cost.training import BackbonePart, Training
from mobisim.cost.training_memory import TrainingMachine, training
from mobisim.cost.training_time import StepTime, TrainingModel, training_model
from mobisim.cost.work import BatchShape
from mobisim.errors import InputError
from mobisim.scenario.methods import DeviceWork
from mobisim.scenario.schema import DeviceGroup

AXPY = "sgd"  # its update without momentum is a sum: what trains, plus a multiple of a direction


@dataclass(frozen=True)
class Machine:
    """One machine's share of a training: how long it takes, and where errors say that it stands."""

    system: System
    profile: TrainingMachine
    where: str
    part: BackbonePart = "all"

    @property
    def model(self) -> TrainingModel:
        """What tells of training on it.

        Raises:
            InputError: its times are stated, which tells of no method's training.
        """
        found = training_model(self.profile, self.system.optimizer)
        if found is None:
            raise InputError(
                f"stated times do not tell how long {self.system.scenario.method} trains",
                where=self.where,
                expected="a profile of kind roofline or measured",
            )
        return found

    @property
    def run(self) -> Training:
        """What it trains."""
        return training(self.system, self.profile.precision.value, self.part)

    def step(self, shape: BatchShape) -> StepTime:
        """Forward, backward and update, in as many pieces as the scenario asks for."""
        run, model = self.run, self.model
        pieces = [run.tally(piece) for piece in self._pieces(shape)]
        times = [model.seconds(piece, run.float_bytes) for piece in pieces]
        added_s = (len(pieces) - 1) * model.updates_s(pieces[0], AXPY)  # gradients, piece by piece
        return StepTime(
            sum(time.forward_s for time in times),
            sum(time.backward_s for time in times) + added_s,
            times[0].update_s,
        )

    def forward_s(self, shape: BatchShape) -> float:
        """A forward of what trains, without a graph."""
        return self.model.seconds(self.run.forward_only(shape), self.run.float_bytes).forward_s

    def axpy_s(self, shape: BatchShape) -> float:
        """Adding a multiple of a direction to what trains."""
        return self.model.updates_s(self.run.tally(shape), AXPY)

    def update_s(self, shape: BatchShape) -> float:
        """An update of what trains."""
        return self.model.updates_s(self.run.tally(shape), self.system.optimizer)

    def codec_s(self, direction: str, shape: BatchShape) -> float:
        """Encoding or decoding one layer."""
        assert self.system.backbone is not None
        wire, width = self.system.scenario.wire, self.system.backbone.width
        return codec_s(self.profile, direction, shape, width, wire)

    def outside(self, shape: BatchShape) -> list[str]:
        """What of it lies outside what was measured."""
        return [
            w for piece in self._pieces(shape) for w in self.model.outside(self._counted(piece))
        ]

    def _counted(self, piece: BatchShape) -> Tally:
        forwards = self.system.options.method.device == "perturbed_forwards"
        return self.run.forward_only(piece) if forwards else self.run.tally(piece)

    def _pieces(self, shape: BatchShape) -> list[BatchShape]:
        return shape.pieces(micro_batches(self.system))


def micro_batches(system: System) -> int:
    """Pieces of a mini-batch, where one machine trains all of the backbone."""
    whole = system.options.method.site != "split" and not system.options.method.replies
    return system.scenario.tuning.micro_batches if whole else 1


def method_cost(system: System, group: DeviceGroup, shape: BatchShape | None) -> BatchCost:
    """Seconds and bytes of one mini-batch of that shape on a device of that group."""
    work = system.options.method.device
    if work == "forward":
        return batch_cost(system, group, shape)
    if shape is None:
        raise InputError(
            "this method needs a model and the shape of a mini-batch",
            where="method",
            got=system.scenario.method,
            hint="state model, batch_size and sequence_length",
        )
    return _COSTS[work](system, group, shape)


def _device(system: System, group: DeviceGroup, part: BackbonePart = "all") -> Machine:
    where = f"devices[{system.scenario.devices.index(group)}].profile"
    return Machine(system, group.profile, where, part)


def _server(system: System, part: BackbonePart = "all") -> Machine:
    return Machine(system, system.scenario.server.profile, "server.profile", part)


def _one_message(
    forward_s: float, found: Traffic, step_s: float, *, encode_s: float = 0.0,
    decode_s: float = 0.0, backward_s: float = 0.0,
) -> BatchCost:  # fmt: skip
    return BatchCost(
        (forward_s,), (encode_s,), found.up or (0,), (decode_s,), (), step_s, backward_s,
        reply_bytes=found.reply,
    )  # fmt: skip


def _alone(system: System, group: DeviceGroup, shape: BatchShape) -> BatchCost:
    """All of it on the device, which sends nothing."""
    step = _device(system, group).step(shape)
    nothing = Traffic(())
    return _one_message(step.forward_s, nothing, step.update_s, backward_s=step.backward_s)


def _split(system: System, group: DeviceGroup, shape: BatchShape) -> BatchCost:
    """Below the cut on the device, above it on the server, activations and gradients between."""
    server = _server(system, "above")
    forward_s, encode_s, backward_s = _lower(system, group, shape)
    return _one_message(
        forward_s,
        traffic(system, shape),
        server.step(shape).total_s + server.codec_s("encode", shape),
        encode_s=encode_s,
        decode_s=server.codec_s("decode", shape),
        backward_s=backward_s,
    )


def _lower(system: System, group: DeviceGroup, shape: BatchShape) -> tuple[float, float, float]:
    """Forward and encoding, then, with the gradients, decoding, backward and update."""
    device = _device(system, group, "below")
    step, decode_s = device.step(shape), device.codec_s("decode", shape)
    rest_s = decode_s + step.backward_s + step.update_s
    return step.forward_s, device.codec_s("encode", shape), rest_s


def _perturbed(system: System, group: DeviceGroup, shape: BatchShape) -> BatchCost:
    """A forward in place and one in each direction; their slopes go up, the update comes down.

    With rounds the slopes of many mini-batches go up together, and what trains comes as it is.
    """
    forwards_s, moves_s, update_s = _perturbations(system, group, shape)
    if system.options.method.rounds is not None:
        return _one_message(forwards_s, Traffic(()), moves_s)
    server, directions = _server(system), system.scenario.tuning.perturbations
    step_s = directions * server.axpy_s(shape) + server.update_s(shape)
    found = traffic(system, shape)
    return _one_message(forwards_s + moves_s, found, step_s, backward_s=update_s)


def _perturbations(
    system: System, group: DeviceGroup, shape: BatchShape
) -> tuple[float, float, float]:
    """All forwards; what trains moved for each direction; and, with an update, once more."""
    device, directions = _device(system, group), system.scenario.tuning.perturbations
    axpy_s = device.axpy_s(shape)
    update_s = axpy_s if system.options.method.replies else 0.0
    return (directions + 1) * device.forward_s(shape), directions * axpy_s, update_s


def _uploaded(system: System, group: DeviceGroup, shape: BatchShape) -> BatchCost:  # noqa: ARG001
    """Tokens and labels go up once, and the server trains."""
    step_s = _server(system).step(shape).total_s
    if shape.fresh is None:
        return BatchCost((), (), (), (), (), step_s)
    return _one_message(0.0, traffic(system, shape), step_s)


_COSTS: dict[DeviceWork, Callable[[System, DeviceGroup, BatchShape], BatchCost]] = {
    "training": _alone,
    "lower_layers": _split,
    "perturbed_forwards": _perturbed,
    "nothing": _uploaded,
}
# Which part of the backbone trains on the device and on the server; None where none does.
_TRAINED: dict[DeviceWork, tuple[BackbonePart | None, BackbonePart | None]] = {
    "training": ("all", None),
    "lower_layers": ("below", "above"),
    "perturbed_forwards": ("all", None),
    "nothing": (None, "all"),
}


def outside(system: System, shape: BatchShape) -> Iterator[tuple[str, str, str]]:
    """What lies outside the measured sizes: where, the profile's name, and what.

    Raises:
        InputError: an operator that was not measured at all.
    """
    for where, name, words in _models(system):
        seen = shape.sent if where == "server.profile" else shape.fresh
        try:
            found = words(seen) if seen is not None else []
        except InputError as error:
            raise error.placed(where) from error
        yield from ((where, name, text) for text in found)


def _models(system: System) -> Iterator[tuple[str, str, Callable[[BatchShape], list[str]]]]:
    work = system.options.method.device
    server = system.scenario.server.profile
    for index, group in enumerate(system.scenario.devices):
        where = f"devices[{index}].profile"
        if work == "forward":
            device = device_model(system.on(group), group)
            if isinstance(device, MeasuredDeviceModel):
                yield where, group.profile.name, device.outside
        elif part := _TRAINED[work][0]:
            yield where, group.profile.name, _device(system, group, part).outside
    if work == "forward":
        for model in map(server_model, system.views):
            if isinstance(model, MeasuredServerModel):
                yield "server.profile", server.name, model.outside
    elif part := _TRAINED[work][1]:
        yield "server.profile", server.name, _server(system, part).outside


def on_device_s(system: System, group: DeviceGroup, shape: BatchShape) -> float:
    """Seconds of the device for a mini-batch, whatever its server takes."""
    work = system.options.method.device
    if work == "forward":
        cost = batch_cost(system, group, shape)
        return sum(cost.forward_s) + sum(cost.encode_s)
    if work == "perturbed_forwards":
        return sum(_perturbations(system, group, shape))
    if work == "lower_layers":
        return sum(_lower(system, group, shape))
    return _device(system, group).step(shape).total_s


@dataclass(frozen=True)
class Averaging:
    """Seconds of a worker for one device's part of a round, and for the version that follows."""

    merge_s: float
    step_s: float


def averaging(system: System, shape: BatchShape | None) -> Averaging:
    """Each part is added to a sum, and that scaled; slopes are added along their directions."""
    assert shape is not None
    server = _server(system)
    axpy_s = server.axpy_s(shape)
    if "scalars" not in system.options.method.up:
        return Averaging(axpy_s, axpy_s)
    return Averaging(system.scenario.tuning.perturbations * axpy_s, server.update_s(shape))


def sides(system: System) -> tuple[bool, bool]:
    """Whether the device and the server compute anything that grows with the mini-batch."""
    work = system.options.method.device
    if work == "forward":
        return True, True
    device, server = _TRAINED[work]
    return device is not None, server is not None
