from __future__ import annotations

import copy
import dataclasses
import io
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from mobisim.scenario.schema import Optimizer
from mobisim.training.alignment import Fleet
from mobisim.training.backbone import Backbone
from mobisim.training.codec import decode_rows
from mobisim.training.course import Course
from mobisim.training.data import TaskData
from mobisim.training.learner import TrainingConfig
from mobisim.training.message import num_bytes, unpack
from mobisim.training.trainer import Trainer

CONFIG = TrainingConfig(
    batch_size=8, epochs=2, sequence_length=12, codec="nf4", block_size=16, bottleneck=4
)
SGD = Optimizer(name="sgd", lr=0.1, momentum=0.9, weight_decay=0.0)
ADAMW = Optimizer(lr=1e-2)


def trainer(backbone: Backbone, task: TaskData, **changes: Any) -> Trainer:
    return Trainer(backbone, task, dataclasses.replace(CONFIG, **changes))


class PlainLoop:
    """The same learning as a plain torch loop: separate adapters, no versions, no timeline."""

    def __init__(self, twin: Trainer, optimizer: str) -> None:
        own = {n: p.detach().clone() for n, p in twin.side_network.named_parameters()}
        self.layers = [
            [value.clone().requires_grad_() for value in layer]
            for layer in zip(own["gate_L"], own["down_LDr"], own["up_LrD"], strict=True)
        ]
        self.weight = own["head.weight_CD"].requires_grad_()
        self.bias = own["head.bias_C"].requires_grad_()
        parameters = [p for layer in self.layers for p in layer] + [self.weight, self.bias]
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
            if optimizer == "sgd"
            else torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.01)
        )

    def step(self, taps: list[torch.Tensor], lengths: list[int], labels: torch.Tensor) -> float:
        state = taps[0]
        for tap, (gate, down, up) in zip(taps, self.layers, strict=True):
            mixed = torch.lerp(tap, state, torch.sigmoid(gate))
            state = torch.addmm(mixed, functional.gelu(mixed @ down), up)
        last = state[torch.tensor(lengths).cumsum(0) - 1]
        loss = functional.cross_entropy(functional.linear(last, self.weight, self.bias), labels)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.item()


@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=lambda config: config.name)
def test_losses_are_bit_equal_to_a_plain_loop(
    backbone: Backbone, task: TaskData, optimizer: Optimizer
) -> None:
    """Over the same activations and batches, every loss has the same bits."""
    ours = trainer(backbone, task, optimizer=optimizer)
    plain = PlainLoop(ours, optimizer.name)
    for index, batch in enumerate(ours.batches):
        lengths = [len(task.train.tokens[i]) for i in batch]
        taps = ours.activations.taps(batch)
        expected = plain.step(taps, lengths, torch.tensor(task.train.labels[batch]))
        assert ours.step(index) == expected
    assert ours.version == len(ours.batches) == 12


def test_learning_lowers_the_loss(backbone: Backbone, task: TaskData) -> None:
    """After some epochs the training loss is well below that of guessing."""
    ours = trainer(backbone, task, epochs=20, optimizer=ADAMW, pooling="mean", codec="fp32")
    losses = [ours.step(index) for index in range(len(ours.batches))]
    assert np.mean(losses[-6:]) < 0.7 * np.mean(losses[:6])


@pytest.mark.parametrize("staleness", [1, 3])
def test_gradient_is_taken_at_the_version_read(
    backbone: Backbone, task: TaskData, staleness: int
) -> None:
    """A late step applies the gradient at the old parameters to the newest ones."""
    ours = trainer(backbone, task, optimizer=SGD, max_staleness=3)
    history = [[p.detach().clone() for p in ours.parameters]]
    for index in range(4):
        ours.step(index)
        history.append([p.detach().clone() for p in ours.parameters])

    reference = copy.deepcopy(ours.side_network)
    read = 4 - staleness
    batch = ours.batches[4]
    with torch.no_grad():
        for parameter, old in zip(reference.parameters(), history[read], strict=True):
            parameter.copy_(old)
    samples = torch.tensor(task.train.lengths[batch])
    loss = reference.loss(
        ours.activations.taps(batch), ragged(samples), torch.tensor(task.train.labels[batch])
    )
    loss.backward()  # type: ignore[no-untyped-call]
    momenta = [ours.optimizer.state[p]["momentum_buffer"].clone() for p in ours.parameters]

    assert ours.step(4, version_read=read) == loss.item()
    for new, newest, momentum, parameter in zip(
        ours.parameters, history[4], momenta, reference.parameters(), strict=True
    ):
        assert parameter.grad is not None
        torch.testing.assert_close(new.detach(), newest - 0.1 * (0.9 * momentum + parameter.grad))


def ragged(lengths: torch.Tensor) -> Any:
    from mobisim.training.side_network import Ragged  # noqa: PLC0415

    return Ragged.of(lengths)


def test_reading_the_newest_by_number_changes_nothing(backbone: Backbone, task: TaskData) -> None:
    """Naming the newest version, with or without history, is the plain step."""
    plain, named = trainer(backbone, task), trainer(backbone, task, max_staleness=5)
    for index in range(6):
        assert plain.step(index) == named.step(index, version_read=index)


@pytest.mark.parametrize("version", [-1, 0, 5])
def test_versions_out_of_reach_are_refused(
    backbone: Backbone, task: TaskData, version: int
) -> None:
    """A version that is too old, or not yet written, stops the step before it changes anything."""
    ours = trainer(backbone, task, max_staleness=2)
    for index in range(3):
        ours.step(index)
    before = ours.state_dict()["parameters"]
    with pytest.raises(ValueError, match=f"version {version} is not kept"):
        ours.step(3, version_read=version)
    assert ours.version == 3
    assert all(torch.equal(a, b) for a, b in zip(before, ours.parameters, strict=True))


def saved(state: dict[str, Any]) -> dict[str, Any]:
    """The state after a round trip through a file, read without running code."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=lambda config: config.name)
@pytest.mark.parametrize("staleness", [0, 2])
def test_resume_is_bit_exact(
    backbone: Backbone, task: TaskData, optimizer: Optimizer, staleness: int
) -> None:
    """Stopped and resumed anywhere, all later losses and metrics have the same bits."""

    def run(one: Trainer, begin: int, end: int) -> list[float]:
        return [one.step(i, max(0, i - staleness)) for i in range(begin, end)]

    whole, first, resumed = (
        trainer(backbone, task, optimizer=optimizer, max_staleness=staleness) for _ in range(3)
    )
    losses = run(whole, 0, 12)
    assert run(first, 0, 7) == losses[:7]
    resumed.load_state_dict(saved(first.state_dict()))
    assert run(resumed, 7, 12) == losses[7:]
    assert resumed.evaluate() == whole.evaluate()


def test_same_seed_same_run_whatever_else_is_random(backbone: Backbone, task: TaskData) -> None:
    """Nothing is drawn from torch's or numpy's global generators."""
    first = trainer(backbone, task)
    losses = [first.step(index) for index in range(4)]
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = trainer(backbone, task)
    assert [again.step(index) for index in range(4)] == losses
    assert torch.equal(torch.get_rng_state(), before)


def test_threads_do_not_change_the_bits(backbone: Backbone, task: TaskData) -> None:
    """Torch's thread count is neither used nor changed."""
    one = trainer(backbone, task)
    losses = [one.step(index) for index in range(3)]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        two = trainer(backbone, task)
        assert [two.step(index) for index in range(3)] == losses
        assert two.evaluate() == one.evaluate()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("padding", ["fixed", "longest", "none"])
@pytest.mark.parametrize("granularity", ["batch", "layer"])
@pytest.mark.parametrize("head", ["classification", "next_token"])
def test_payload_bytes_follow_the_tokens_sent(
    backbone: Backbone, task: TaskData, padding: str, granularity: Any, head: str
) -> None:
    """The bytes of each mini-batch, the short last one too, are those of its tokens."""
    ours = trainer(backbone, task, padding=padding, granularity=granularity, head=head)
    for index in (0, 5):
        lengths = task.train.lengths[ours.batches[index]]
        tokens = {
            "fixed": 12 * len(lengths),
            "longest": int(lengths.max()) * len(lengths),
            "none": int(lengths.sum()),
        }[padding]
        assert ours.num_payload_bytes(index) == num_bytes(
            ours.layout,
            num_taps=3,
            num_samples=len(lengths),
            num_tokens=tokens,
            num_labels=len(lengths) if head == "classification" else tokens,
            granularity=granularity,
        )


def test_what_is_sent_is_what_is_learned_from(backbone: Backbone, task: TaskData) -> None:
    """The messages decode to the very taps and labels of the step."""
    one = trainer(backbone, task)
    fleet = dataclasses.replace(Fleet.alone(backbone), of_device=(0,) * 5)
    course = Course.of(one.batches, 2, num_devices=5)
    ours = Trainer(backbone, task, one.config, fleet=fleet, course=course)
    batch = ours.batches[1]
    received = unpack(ours.messages(1, device=4), ours.layout)
    assert (received.device, received.batch) == (4, 1)
    assert received.labels.tolist() == task.train.labels[batch].tolist()
    for sent, tap in zip(received.rows_LNR, ours.activations.taps(batch), strict=True):
        assert torch.equal(decode_rows(sent, ours.layout), tap)


def test_evaluation_is_unquantised(backbone: Backbone, task: TaskData) -> None:
    """The metric does not depend on the codec of the uplink."""
    coarse = trainer(backbone, task, codec="int2").evaluate()
    assert coarse == trainer(backbone, task, codec="fp32").evaluate()


def test_evaluation_is_that_of_a_plain_forward(backbone: Backbone, task: TaskData) -> None:
    """Accuracy counts the evaluation samples that the side network gets right, each alone."""
    ours = trainer(backbone, task, pooling="mean")
    ours.step(0)
    hits = 0
    for ids, label in zip(task.evaluation.tokens, task.evaluation.labels, strict=True):
        with torch.no_grad():
            hidden = ours.side_network.hidden(backbone.taps([ids], (1, 2, 3)))
            head: Any = ours.side_network.head
            hits += int((hidden.mean(dim=0) @ head.weight_CD.T + head.bias_C).argmax() == label)
    assert ours.evaluate()["accuracy"] == hits / 40


def test_next_token_learning_lowers_perplexity(backbone: Backbone, task: TaskData) -> None:
    """Under a next-token head the side network adapts the backbone to the text."""
    ours = trainer(backbone, task, head="next_token", epochs=10, optimizer=ADAMW)
    before = ours.evaluate()
    for index in range(len(ours.batches)):
        ours.step(index)
    after = ours.evaluate()
    assert set(after) == {"perplexity", "loss", "token_accuracy"}
    # the embeddings of a random backbone are small, and so is what a tail can say
    assert after["perplexity"] < 0.93 * before["perplexity"]


def test_pooling_defaults_to_the_last_token_of_a_decoder(
    backbone: Backbone, task: TaskData
) -> None:
    """Only the last token of a decoder has read the whole sample."""
    assert trainer(backbone, task).side_network.config.pooling == "last"
