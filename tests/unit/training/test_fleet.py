"""Several devices and one side network: own samples, predictions, backbones and projections."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import opt, save_tokenizer
from torch.nn import functional

from mobisim.cost.side_network import SideCost
from mobisim.errors import InputError
from mobisim.scenario.schema import Optimizer
from mobisim.training.alignment import Fleet
from mobisim.training.artifact import load_side_network, save_side_network
from mobisim.training.backbone import Backbone, load_backbone
from mobisim.training.codec import decode_rows
from mobisim.training.course import Course
from mobisim.training.data import TaskData
from mobisim.training.learner import TrainingConfig
from mobisim.training.message import unpack
from mobisim.training.residuals import fit, residuals
from mobisim.training.side_network import Ragged
from mobisim.training.trainer import Trainer

CONFIG = TrainingConfig(
    batch_size=8,
    epochs=1,
    sequence_length=12,
    codec="int8",
    block_size=16,
    bottleneck=4,
    optimizer=Optimizer(lr=1e-2),
    tokens="loss",
    learns="residuals",
)
STARTS = np.array([0, 2, 2, 5])  # of three devices, the second of which has no samples


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """A backbone of two layers and width 16 that reads the same words."""
    directory = tmp_path_factory.mktemp("small")
    opt(hidden_size=16, word_embed_proj_dim=16, num_hidden_layers=2).save_pretrained(directory)
    save_tokenizer(directory)
    return load_backbone(str(directory))


def dealt(task: TaskData, drawn: int = 0) -> Course:
    """Five mini-batches of three devices, and some that are drawn from all of them."""
    order = np.random.default_rng(2).permutation(len(task.train))
    batches = [order[at : at + 8] for at in range(0, 40, 8)]
    random = np.random.default_rng(3)
    draws = [random.permutation(40)[:8] for _ in range(drawn)]
    return Course.of(batches, starts=STARTS, num_devices=3, drawn=draws)


def alike(backbone: Backbone) -> Fleet:
    return dataclasses.replace(Fleet.alone(backbone), of_device=(0, 0, 0))


def mixed(backbone: Backbone, small: Backbone, *, width: int = 32, each: bool = False) -> Fleet:
    """Blocks of two layers and of one; device 2 has the smaller backbone."""
    return Fleet((backbone, small), ((1, 3), (1, 2)), width, (0, 0, 1), each)


def test_devices_in_turn_learn_as_one_with_their_samples(
    backbone: Backbone, task: TaskData
) -> None:
    """Bit by bit: whose samples these are makes no difference to what labels teach."""
    config = dataclasses.replace(CONFIG, learns="labels")
    course = dealt(task)
    many = Trainer(backbone, task, config, fleet=alike(backbone), course=course)
    batches = [batch.samples for batch in course.mini_batches]
    one = Trainer(backbone, task, config, course=Course.of(batches))
    assert [many.step(number) for number in range(5)] == [one.step(n) for n in range(5)]
    assert all(map(torch.equal, many.parameters, one.parameters))
    assert many.evaluate_each() == [one.evaluate()] * 3


def test_each_device_has_residuals_of_its_own_prediction(
    backbone: Backbone, task: TaskData
) -> None:
    """Fitted on its own samples; who has none takes each class for as likely."""
    course = dealt(task)
    ours = Trainer(backbone, task, CONFIG, fleet=alike(backbone), course=course)
    last = [backbone.taps([ids], (3,))[0][-1] for ids in task.train.tokens]
    own = np.concatenate([batch.samples for batch in course.first_epoch(2)])
    labels = torch.from_numpy(task.train.labels)
    features = torch.stack(last)
    expected = residuals(fit(features[own], labels[own], 2)(features[own[:8]]), labels[own[:8]])
    torch.testing.assert_close(ours.targets(own[:8], 2), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ours.targets(own[:8], 0), expected, atol=1e-3)
    assert ours.guess(1)(features[:3]).tolist() == [[0.5, 0.5]] * 3
    assert len({each["loss"] for each in ours.evaluate_each()}) == 3


def test_a_replay_is_training_on_what_came_up(backbone: Backbone, task: TaskData) -> None:
    """A plain loop over a cache of the bytes that crossed learns the same, bit by bit."""
    course = dealt(task, drawn=4)
    ours = Trainer(backbone, task, CONFIG, fleet=alike(backbone), course=course)
    theirs = Trainer(backbone, task, CONFIG, fleet=alike(backbone), course=course)
    devices = [0, 0, 2, 2, 2]
    received = [
        unpack(ours.messages(number, device), ours.layout, num_classes=2)
        for number, device in enumerate(devices)
    ]
    rows = torch.cat([payload.rows_LNR for payload in received], dim=1)  # a token for each sample
    targets = torch.from_numpy(np.concatenate([payload.labels for payload in received]))
    random = np.random.default_rng(3)
    for number in range(5):
        assert ours.step(number) == theirs.step(number)
    for number in range(5, 9):
        at = torch.from_numpy(random.permutation(40)[:8])
        taps = list(decode_rows(rows[:, at].contiguous(), ours.layout))
        lie = Ragged.of(torch.ones(8, dtype=torch.int64))
        loss = theirs.side_network.loss(taps, lie, targets[at].float())
        assert theirs.step_from(loss) == ours.step(number)
    assert all(map(torch.equal, ours.parameters, theirs.parameters))


def test_a_mixed_mini_batch_goes_through_its_own_projections(
    backbone: Backbone, small: Backbone, task: TaskData
) -> None:
    """Loss and gradients are those of the samples' own taps times their backbone's matrices."""
    course = dealt(task, drawn=1)
    ours = Trainer(backbone, task, CONFIG, fleet=mixed(backbone, small), course=course)
    (projection,) = ours.projections.values()
    drawn = course.mini_batches[5]
    lie = Ragged.of(torch.ones(8, dtype=torch.int64))
    order = np.argsort(drawn.devices == 2, kind="stable")
    wide = drawn.at(order[drawn.devices[order] != 2])
    narrow = drawn.at(order[drawn.devices[order] == 2])
    assert len(wide)
    assert len(narrow)
    own = ours.sources[1].activations.taps(narrow.samples)
    leaves = [
        (tap_NE.double() @ matrix_ED.double()).float().detach().requires_grad_()
        for tap_NE, matrix_ED in zip(own, projection.weight_LED, strict=True)
    ]
    plain = ours.sources[0].activations.taps(wide.samples)
    targets = ours.targets(drawn.samples[order], drawn.devices[order])
    together = [torch.cat(pair) for pair in zip(plain, leaves, strict=True)]
    for name in ("up_LrD", "head.weight_CD"):  # which begin at zero
        random = torch.Generator().manual_seed(0)
        torch.nn.init.normal_(ours.side_network.get_parameter(name), generator=random)
    expected = ours.side_network.loss(together, lie, targets)
    expected.backward()  # type: ignore[no-untyped-call]
    assert ours._differentiate(5) == pytest.approx(expected.item(), rel=1e-5)
    for number, (tap_NE, leaf) in enumerate(zip(own, leaves, strict=True)):
        assert leaf.grad is not None
        by_hand = tap_NE.T @ leaf.grad
        assert projection.weight_LED.grad is not None
        torch.testing.assert_close(
            projection.weight_LED.grad[number], by_hand, rtol=1e-3, atol=1e-6
        )


def test_mini_batches_that_are_stepped_together_are_one(
    backbone: Backbone, small: Backbone, task: TaskData
) -> None:
    """Bit by bit as a mini-batch of just these samples, whichever projections they go through."""
    course = dealt(task)
    both = np.concatenate([np.arange(8), np.arange(32, 40)])  # the first and the last of five
    drawn = Course.of(
        [batch.samples for batch in course.mini_batches], starts=STARTS, num_devices=3, drawn=[both]
    )
    together, as_one = (
        Trainer(backbone, task, CONFIG, fleet=mixed(backbone, small), course=one)
        for one in (course, drawn)
    )
    assert together.step_together([0, 4], 0) == as_one.step(drawn.number(-1, 0), 0)
    for ours, theirs in zip(together.parameters, as_one.parameters, strict=True):
        assert torch.equal(ours, theirs)


def test_only_projections_that_are_gone_through_are_updated(
    backbone: Backbone, small: Backbone, task: TaskData
) -> None:
    """A mini-batch of the wide backbone leaves the narrow one's as they are."""
    ours = Trainer(backbone, task, CONFIG, fleet=mixed(backbone, small), course=dealt(task))
    (projection,) = ours.projections.values()
    before = projection.weight_LED.detach().clone()
    ours.step(0)
    ours.step(1)
    assert torch.equal(projection.weight_LED, before)
    ours.step(2)
    assert not torch.equal(projection.weight_LED, before)


@pytest.mark.parametrize(("width", "each"), [(32, False), (16, False), (24, False), (24, True)])
def test_parameters_are_those_that_are_counted(
    backbone: Backbone, small: Backbone, task: TaskData, width: int, each: bool
) -> None:
    """Per backbone and per device, and no projection where widths are equal."""
    fleet = mixed(backbone, small, width=width, each=each)
    ours = Trainer(backbone, task, CONFIG, fleet=fleet, course=dealt(task))
    devices = (32, 32, 16) if each else (32, 16)
    cost = SideCost(
        num_taps=2,
        width=width,
        bottleneck=4,
        head_width=2,
        projections=tuple(wide for wide in devices if wide != width),
    )
    assert sum(p.numel() for p in ours.parameters) == cost.trainable_parameters


def test_each_device_reads_text_with_its_own(
    backbone: Backbone, small: Backbone, task: TaskData, tmp_path: Path
) -> None:
    """Its backbone, projection and prediction with the side network of all: as evaluated."""
    ours = Trainer(backbone, task, CONFIG, fleet=mixed(backbone, small), course=dealt(task))
    for number in range(5):
        ours.step(number)
    path = tmp_path / "side_network.safetensors"
    save_side_network(path, ours)
    texts, labels = task.evaluation.texts, torch.from_numpy(task.evaluation.labels)
    for device, own in ((0, backbone), (2, small)):
        predictor = load_side_network(path, device).attach(own)
        loss = functional.cross_entropy(predictor.logits(texts).double(), labels)
        assert float(loss) == ours.evaluate_each()[device]["loss"]
    with pytest.raises(InputError, match="no such device"):
        load_side_network(path, 3)
    with pytest.raises(InputError, match="does not fit"):
        load_side_network(path, 2).attach(backbone)


def test_a_backbone_of_which_nothing_comes_up_is_judged_all_the_same(
    backbone: Backbone, small: Backbone, task: TaskData, tmp_path: Path
) -> None:
    """Its one device has no samples; there is nothing to forward, nor to share with others."""
    fleet = dataclasses.replace(mixed(backbone, small), of_device=(0, 1, 0))
    ours = Trainer(backbone, task, CONFIG, fleet=fleet, course=dealt(task), shared=tmp_path)
    (projection,) = ours.projections.values()
    before = projection.weight_LED.detach().clone()
    assert all(ours.step(number) > 0 for number in range(5))
    assert torch.equal(projection.weight_LED, before)
    assert len(ours.evaluate_each()) == 3


def test_a_resumed_fleet_goes_on_bit_by_bit(
    backbone: Backbone, small: Backbone, task: TaskData
) -> None:
    """Projections and their optimiser states come back with the rest."""
    made: dict[str, Any] = {"fleet": mixed(backbone, small), "course": dealt(task, drawn=3)}
    straight = Trainer(backbone, task, CONFIG, **made)
    for number in range(4):
        straight.step(number)
    resumed = Trainer(backbone, task, CONFIG, **made)
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    rest = range(4, 8)
    assert [straight.step(n) for n in rest] == [resumed.step(n) for n in rest]
