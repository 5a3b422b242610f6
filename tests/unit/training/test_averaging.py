"""What devices learn apart is what each would learn alone, and its average is one."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mobisim.scenario.methods import METHODS
from mobisim.scenario.schema import Optimizer
from mobisim.training.averaging import Contribution, averaged, moved
from mobisim.training.backbone import Backbone
from mobisim.training.course import Course
from mobisim.training.data import TaskData
from mobisim.training.learner import TrainingConfig, alone
from mobisim.training.rounds import AveragingTrainer, RanksTrainer, SlopesTrainer, round_trainer
from mobisim.training.tuned_trainer import TunedTrainer, tuned_trainer

CONFIG = TrainingConfig(
    batch_size=8, epochs=3, sequence_length=12, optimizer=Optimizer(lr=1e-2), block_size=16
)
SLOW = Optimizer(name="sgd", lr=0.05)


def _trainer(
    backbone: Backbone, task: TaskData, method: str, config: TrainingConfig = CONFIG
) -> TunedTrainer:
    return tuned_trainer(backbone, task, config, METHODS[method])


def _averaging(
    backbone: Backbone, task: TaskData, method: str = "fedavg-lora", **changes: object
) -> AveragingTrainer:
    config = dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
    found = round_trainer(backbone, task, config, METHODS[method])
    assert isinstance(found, AveragingTrainer)
    return found


def _slopes(backbone: Backbone, task: TaskData, **changes: object) -> SlopesTrainer:
    config = dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
    found = round_trainer(backbone, task, config, METHODS["fed-fwdllm"])
    assert isinstance(found, SlopesTrainer)
    return found


def _same(one: TunedTrainer, other: TunedTrainer) -> bool:
    pairs = zip(one.parameters, other.parameters, strict=True)
    return all(torch.equal(mine, theirs) for mine, theirs in pairs)


@pytest.mark.parametrize(
    ("method", "alone"),
    [
        ("fedavg-lora", "lora"),
        ("fedbuff-lora", "lora"),
        ("fedavg-adapters", "adapters"),
        ("splitfed-lora", "split-lora"),
        ("hetlora", "lora"),
    ],
)
def test_one_participant_learns_bit_by_bit_as_alone(
    backbone: Backbone, task: TaskData, method: str, alone: str
) -> None:
    """The average of one local epoch is an epoch of plain training, and has its mean loss."""
    plain, ours = _trainer(backbone, task, alone), _averaging(backbone, task, method)
    epoch = range(len(plain.batches) // 3)
    losses = [plain.step(number) for number in epoch]
    sizes = [len(plain.batches[number]) for number in epoch]
    assert ours.average([epoch]) == sum(a * b for a, b in zip(losses, sizes, strict=True)) / sum(
        sizes
    )
    assert _same(ours, plain)


def test_rounds_of_an_optimiser_without_memory_are_epochs(
    backbone: Backbone, task: TaskData
) -> None:
    """SGD without momentum forgets nothing between rounds."""
    plain = _trainer(backbone, task, "lora", dataclasses.replace(CONFIG, optimizer=SLOW))
    ours = _averaging(backbone, task, optimizer=SLOW)
    each = len(plain.batches) // 3
    for first in range(0, 3 * each, each):
        ours.average([range(first, first + each)])
    for number in range(3 * each):
        plain.step(number)
    assert _same(ours, plain)
    assert ours.version == 3


def test_a_fresh_optimiser_each_round(backbone: Backbone, task: TaskData) -> None:
    """AdamW begins anew: two rounds are not two epochs, but each is one from where it begins."""
    plain, ours = _trainer(backbone, task, "lora"), _averaging(backbone, task)
    each = len(plain.batches) // 3
    for number in range(2 * each):
        plain.step(number)
    ours.average([range(each)])
    ours.average([range(each, 2 * each)])
    assert not _same(ours, plain)


def test_the_average_of_equals_is_each_of_them(backbone: Backbone, task: TaskData) -> None:
    """Bit by bit, be they three; and apart from order two devices make one average."""
    one, three = _averaging(backbone, task), _averaging(backbone, task)
    one.average([[0, 1]])
    three.average([[0, 1], [0, 1], [0, 1]])
    assert _same(one, three)


def test_each_counts_by_its_samples(backbone: Backbone, task: TaskData) -> None:
    """The average lies between what two devices learned, nearer to the one with more."""
    ours = _averaging(backbone, task)
    few, many = ours.contribution([0]), ours.contribution([1, 2, 3])
    assert many.num_samples == 3 * few.num_samples
    ours.average([[0], [1, 2, 3]])
    for mine, a, b in zip(ours.parameters, few.parameters, many.parameters, strict=True):
        assert torch.allclose(mine, 0.25 * a + 0.75 * b, rtol=1e-5, atol=1e-7)


def test_a_contribution_leaves_the_version_as_it_was(backbone: Backbone, task: TaskData) -> None:
    """So that who is next begins from the same."""
    ours = _averaging(backbone, task)
    before = [parameter.detach().clone() for parameter in ours.parameters]
    ours.contribution([0, 1])
    assert all(map(torch.equal, before, [p.detach() for p in ours.parameters]))


def test_means_are_of_double_precision() -> None:
    """A thousand devices with tiny differences lose none of them."""
    learned = [[torch.tensor([1.0 + k * 2**-23])] for k in (0, 1)] * 500
    (mean,) = averaged(learned, [1] * 1000)
    assert mean.item() in (1.0, 1.0 + 2**-23)
    assert averaged([[torch.tensor([2.0])], [torch.tensor([6.0])]], [3, 1])[0].item() == 3.0


def test_devices_share_one_backbone(backbone: Backbone, task: TaskData) -> None:
    """However many there are, what is frozen is there once."""
    ours = _averaging(backbone, task)
    before = [p.data_ptr() for p in ours.model.parameters() if not p.requires_grad]
    ours.average([[0], [1], [2]])
    assert [p.data_ptr() for p in ours.model.parameters() if not p.requires_grad] == before


def test_one_device_with_one_mini_batch_steps_as_fwdllm(backbone: Backbone, task: TaskData) -> None:
    """Bit by bit, as the server's optimiser keeps its past from round to round."""
    plain, ours = _trainer(backbone, task, "fwdllm"), _slopes(backbone, task)
    for number in range(4):
        assert ours.average([[number]]) == plain.step(number)
    assert _same(ours, plain)


def test_slopes_are_means_over_a_devices_data(backbone: Backbone, task: TaskData) -> None:
    """Of mini-batches of equal size, along the directions of the first."""
    ours = _slopes(backbone, task)
    _, slopes = ours.mean_slopes([0, 1])
    along = ours._directions(0)
    alone = [ours.slopes_along(number, along)[1] for number in (0, 1)]
    assert torch.allclose(slopes, (alone[0] + alone[1]) / 2)


def test_devices_directions_add_up(backbone: Backbone, task: TaskData) -> None:
    """Two devices move what trains by the weighted mean of what each would."""
    slow = Optimizer(name="sgd", lr=0.05, weight_decay=0.0)
    both, first, second = (_slopes(backbone, task, optimizer=slow) for _ in "123")
    before = [p.detach().clone() for p in both.parameters]
    both.average([[0], [1, 2]])
    first.average([[0]])
    second.average([[1, 2]])
    rows = zip(before, both.parameters, first.parameters, second.parameters, strict=True)
    for start, mine, one, two in rows:
        moved = (one - start) / 3 + 2 * (two - start) / 3
        assert torch.allclose(mine - start, moved, rtol=1e-4, atol=1e-7)


def test_what_is_stale_counts_less(backbone: Backbone, task: TaskData) -> None:
    """The newest version, moved by lr / K times each one's own change over sqrt(1 + staleness)."""
    ours = _averaging(backbone, task, "fedbuff-lora", max_staleness=2, server_lr=0.5)
    first = ours.contribution([0])
    start = [p.detach().clone() for p in ours.parameters]
    ours.average([[2]])
    ours.average([[3]])
    newest = [p.detach().clone() for p in ours.parameters]
    fresh = ours.contribution([1])
    ours.average([[0], [1]], [0, 2])
    rows = (ours.parameters, newest, start, first.parameters, fresh.parameters)
    for mine, base, began, late, soon in zip(*rows, strict=True):
        step = 0.25 * (late - began) / 3**0.5 + 0.25 * (soon - base)
        assert torch.allclose(mine, base + step, rtol=1e-5, atol=1e-7)


def test_versions_that_are_read_stay_as_they_were(backbone: Backbone, task: TaskData) -> None:
    """Whoever learns from one leaves it to others; and the mean of equals is what each learned."""
    one, two = (_averaging(backbone, task, "fedbuff-lora", max_staleness=3) for _ in "12")
    for ours in (one, two):
        ours.average([[2]])
    one.average([[0]], [0])
    two.average([[0], [0]], [0, 0])
    for mine, theirs in zip(one.parameters, two.parameters, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-6, atol=1e-9)
    one.average([[1]], [0])
    assert one.version == 3


def test_a_whole_share_is_what_was_learned() -> None:
    """To the last bit, though it is added as a difference."""
    choose = torch.Generator().manual_seed(3)
    start, end = (torch.randn(1000, generator=choose) for _ in "12")
    assert torch.equal(moved([start], [[start]], [[end]], [1.0])[0], end)


def _ranked(backbone: Backbone, task: TaskData, *ranks: int | None) -> RanksTrainer:
    """Devices of these ranks, each with all samples in two mini-batches of eight."""
    batches = [batch.samples for batch in alone(task, CONFIG).mini_batches[:2]]
    course = Course.of(batches, num_devices=len(ranks))
    config = dataclasses.replace(CONFIG, ranks=ranks)
    found = round_trainer(backbone, task, config, METHODS["hetlora"], course)
    assert isinstance(found, RanksTrainer)
    return found


def test_a_device_trains_its_own_ranks_alone(backbone: Backbone, task: TaskData) -> None:
    """The others are zero before and after, and what the version has of them is not touched."""
    ours = _ranked(backbone, task, 2, None)
    names = list(ours.trained())
    few, full = (ours.contribution(numbers) for numbers in ([0, 1], [2, 3]))
    for name, small, large in zip(names, few.parameters, full.parameters, strict=True):
        if ".lora_A." in name:
            assert small[:2].abs().min() > 0
            assert not small[2:].any()
            assert large[2:].any()
        if ".lora_B." in name:
            assert small[:, :2].any()
            assert not small[:, 2:].any()
            assert large[:, 2:].any()


def test_ranks_are_weighed_by_the_norm_of_what_they_come_to(
    backbone: Backbone, task: TaskData
) -> None:
    """Zero-padded; and all alike where nothing was learned yet."""
    ours = _ranked(backbone, task, 2, None)
    found = [ours.contribution(numbers) for numbers in ([0, 1], [2, 3])]
    weights = ours.weights(found)
    named = dict(zip(ours.trained(), found[0].parameters, strict=True))
    products = [
        named[name.replace("lora_A", "lora_B")] @ named[name] for name in named if "lora_A" in name
    ]
    norm = torch.cat([product.flatten() for product in products]).norm()
    assert weights[0] == pytest.approx(norm.item(), rel=1e-5)
    untouched = [p.detach().clone() for p in ours.parameters]
    nothing = Contribution(untouched, 8, 0.0)
    assert ours.weights([nothing, nothing]) == [1.0, 1.0]
    ours.average([[0, 1], [2, 3]])
    share = weights[0] / sum(weights)
    for mine, a, b in zip(ours.parameters, found[0].parameters, found[1].parameters, strict=True):
        assert torch.allclose(mine, share * a + (1 - share) * b, rtol=1e-4, atol=1e-6)
