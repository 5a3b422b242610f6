"""Small trainings of the built-in backbone by each method, timed as themselves, and counted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mobisim.cost.system import System
from mobisim.cost.work import BatchShape
from mobisim.scenario.document import read_text
from mobisim.scenario.load import load
from mobisim.scenario.profiles import TransformerProfile
from mobisim.trainers import make_trainer
from mobisim.training.backbone import Backbone, load_backbone
from mobisim.training.learner import Learner
from mobisim.training.tokens import backbone_directory
from mobisim.training.trainer import Trainer
from mobisim.training.tuned_trainer import ForwardTrainer, SplitTrainer, TunedTrainer
from mobisim.workload import Planned, plan

SMALL = ("training.num_samples=20", "training.epochs=2", "training.batch_size=8")


class Run(NamedTuple):
    """A planned training with its trainer."""

    system: System
    planned: Planned
    trainer: Learner

    def shape(self, batch: int) -> BatchShape:
        """What the costs know of a mini-batch."""
        workload = self.planned.workload
        assert workload.order is not None
        found = workload.shapes[int(workload.order[batch])]
        assert found is not None
        return found


def small_run(*overrides: str) -> Run:
    """A small training of the built-in backbone, timed as itself.

    Attention is eager throughout if the scenario says so.
    """
    config = json.loads(read_text(backbone_directory("builtin") / "config.json", "configuration"))
    scenario = load("wifi_5mbps", [*SMALL, *overrides]).model_copy(
        update={"model": TransformerProfile(name="builtin", config=config)}
    )
    planned = plan(scenario)
    assert planned.data is not None
    system = System(scenario, planned.data.num_classes)
    load_it = _eager if scenario.attention == "eager" else load_backbone
    return Run(system, planned, make_trainer(system, planned, load_it))


def _eager(name: str) -> Backbone:
    """Torch's counter of FLOPs does not see the fused kernel."""
    backbone = load_backbone(name)
    backbone.base.set_attn_implementation("eager")
    return backbone


@dataclass
class Counted:
    """FLOPs and bytes kept for the backward, of one side of the link."""

    flop: float = 0.0
    kept_bytes: int = 0


@dataclass
class Meter:
    """What torch counts of a mini-batch, by the side that is at work."""

    device: Counted = field(default_factory=Counted)
    server: Counted = field(default_factory=Counted)

    def __post_init__(self) -> None:
        self._kept: dict[int, int] = {}
        self._alive: list[Tensor] = []  # so that no address is used twice

    @contextmanager
    def running(self, own: Iterator[Tensor], side: Counted) -> Iterator[None]:
        """Count for a side, and at each `over` for another; parameters are not kept anew."""
        weights = {tensor.untyped_storage().data_ptr() for tensor in own}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                self._kept[storage.data_ptr()] = storage.nbytes()
                self._alive.append(tensor.detach())
            return tensor

        self._side, self._seen = side, 0.0
        self._flops = FlopCounterMode(display=False)
        with self._flops, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            yield
            self.over(side)

    def over(self, to: Counted) -> None:
        """What was counted belongs to the side so far; from here on it is another's."""
        flop = self._flops.get_total_flops()
        self._side.flop += flop - self._seen
        self._seen = flop
        self._side.kept_bytes += sum(self._kept.values())
        self._kept.clear()
        self._side = to


def counted(run: Run, batch: int) -> Meter:
    """What torch counts of the real work on a mini-batch, side by side."""
    trainer, meter = run.trainer, Meter()
    if isinstance(trainer, Trainer):
        _side_tuning(trainer, batch, meter)
        return meter
    assert isinstance(trainer, TunedTrainer)
    on_server = run.system.options.method.device == "nothing"
    work: Callable[[int], object] = trainer.step
    if isinstance(trainer, SplitTrainer):
        _watch_the_cut(trainer, meter)
    if isinstance(trainer, ForwardTrainer):
        work = trainer.slopes
    model = trainer.model
    own = iter((*model.parameters(), *model.buffers()))
    with meter.running(own, meter.server if on_server else meter.device):
        work(batch)
    return meter


def _side_tuning(trainer: Trainer, batch: int, meter: Meter) -> None:
    """The device's forward as the testbed's device runs it, then the server's step."""
    trainer.taps(batch)
    trainer.targets(trainer.batches[batch])  # the device's own prediction is fitted before
    ids = [trainer.data.train.tokens[i] for i in trainer.batches[batch]]
    with meter.running(trainer.backbone.base.parameters(), meter.device):
        trainer.backbone.stream(ids, trainer.tap_layers, lambda tap: None)
    with meter.running(trainer.side_network.parameters(), meter.server):
        trainer.step(batch)


def _watch_the_cut(trainer: SplitTrainer, meter: Meter) -> None:
    """What crosses goes to the server first, and comes back from it."""
    carry, sides = trainer.cut.carry, iter((meter.server, meter.device))

    def crossing(values_GTD: Tensor) -> tuple[Tensor, Tensor]:
        meter.over(next(sides))
        return carry(values_GTD)

    trainer.cut.carry = crossing  # type: ignore[method-assign]
