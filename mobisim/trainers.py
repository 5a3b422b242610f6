"""The trainer that a scenario asks for, with its devices, their backbones and their samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mobisim.cost.alignment import block_ends, sampled_layers, shared_width
from mobisim.cost.system import System
from mobisim.training.alignment import Fleet
from mobisim.training.backbone import Backbone, load_backbone
from mobisim.training.course import Course
from mobisim.training.data import TaskData
from mobisim.training.learner import Learner, TrainingConfig
from mobisim.training.quantised import quantised
from mobisim.training.rounds import round_trainer
from mobisim.training.selection import most_influential
from mobisim.training.trainer import Trainer
from mobisim.training.tuned_trainer import tuned_trainer
from mobisim.workload import Planned, trained_names


def make_trainer(
    system: System,
    planned: Planned,
    load: Callable[[str], Backbone] = load_backbone,
    shared: Path | None = None,
) -> Learner:
    """The trainer that a scenario's method needs; in `shared` lie activations others use, too."""
    assert planned.data is not None
    config, course = _config(system, planned), _course(system, planned)
    names = list(dict.fromkeys(trained_names(system.scenario)))
    backbones = [_frozen(load(name), system) for name in names]
    if system.options.method.rounds is not None:
        return round_trainer(backbones[0], planned.data, config, system.options.method, course)
    if not system.options.method.has_side_network:
        return tuned_trainer(backbones[0], planned.data, config, system.options.method, course)
    fleet = _fleet(system, backbones, names)
    if system.scenario.federation.alignment.sample == "importance":
        fleet = _with_important(fleet, planned.data, course)
    return Trainer(backbones[0], planned.data, config, fleet=fleet, course=course, shared=shared)


def _frozen(backbone: Backbone, system: System) -> Backbone:
    """A backbone as devices hold it."""
    weights = system.options.backbone_weights
    return backbone if weights is None else quantised(backbone, weights)


def _fleet(system: System, backbones: Sequence[Backbone], names: Sequence[str]) -> Fleet:
    """The scenario's devices with the backbones that are trained on."""
    scenario = system.scenario
    groups = zip(trained_names(scenario), scenario.devices, strict=True)
    of_device = [names.index(name) for name, group in groups for _ in range(group.count)]
    stated = scenario.federation.alignment
    widths = ((backbones[number].width, 1) for number in of_device)
    return Fleet(
        tuple(backbones),
        trained_taps(system, [backbone.num_layers for backbone in backbones]),
        stated.width or shared_width(widths),
        tuple(of_device),
        stated.projection == "per-device",
    )


def _with_important(fleet: Fleet, data: TaskData, course: Course) -> Fleet:
    """With the layer of each block that changes most what devices of a backbone send first."""
    blocks = min(backbone.num_layers for backbone in fleet.backbones)
    taps = list(fleet.taps)
    for number, backbone in enumerate(fleet.backbones):
        devices = [device for device, own in enumerate(fleet.of_device) if own == number]
        first = next((batch for one in devices for batch in course.first_epoch(one)), None)
        if first is None:
            continue  # nothing comes up, so the last of each block is as good
        ends = block_ends(backbone.num_layers, blocks)
        spans = [(ends[ends.index(last) - 1] + 1, last) for last in taps[number]]
        ids = [data.train.tokens[i] for i in first.samples]
        taps[number] = most_influential(backbone, ids, spans)
    return replace(fleet, taps=tuple(taps))


def _course(system: System, planned: Planned) -> Course:
    assert system.scenario.training is not None
    return Course.of(
        planned.samples,
        system.scenario.training.epochs,
        starts=planned.workload.starts,
        num_devices=system.scenario.num_devices,
        hits=planned.hits,
        drawn=planned.replayed,
    )


def _config(system: System, planned: Planned) -> TrainingConfig:
    scenario, options, training = system.scenario, system.options, system.scenario.training
    assert training is not None
    assert scenario.wire.codec is not None
    return TrainingConfig(
        batch_size=training.batch_size,
        epochs=training.epochs,
        sequence_length=training.sequence_length,
        codec=scenario.wire.codec,
        block_size=scenario.wire.block_size,
        bottleneck=scenario.side_network.bottleneck,
        head=training.head,
        pooling=training.pooling,
        optimizer=training.optimizer,
        padding=training.padding,
        granularity=scenario.granularity,
        seed=scenario.seed,
        max_staleness=planned.staleness,
        server_lr=scenario.federation.rounds.server_lr or 1.0,
        tuning=scenario.tuning,
        tokens=options.tokens,
        keep=options.keep,
        learns=options.learns,
        prediction=options.prediction or "head",
        words=scenario.side_network.words,
        cache_codec=options.cache_codec if options.caches else None,
        ranks=tuple(group.rank for group in scenario.devices for _ in range(group.count)),
    )


def trained_taps(system: System, depths: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The tapped layers of trained backbones of these depths, aligned as the timed ones are.

    Stated taps, which are blocks of those, are taken at the same relative depth.
    """
    blocks, stated = min(depths), system.scenario.side_network.taps
    sample = system.scenario.federation.alignment.sample
    chosen = list(range(1, blocks + 1))
    if stated != "all":
        depth = system.num_blocks
        chosen = list(dict.fromkeys(math.ceil(tap * blocks / depth) for tap in stated))
    layers = (sampled_layers(depth, blocks, sample) for depth in depths)
    return tuple(tuple(of[block - 1] for block in chosen) for of in layers)
