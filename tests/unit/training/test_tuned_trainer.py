"""Methods that train a backbone: they learn what autograd says, whatever spares memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from mobisim.errors import InputError
from mobisim.scenario.method_options import Tuning
from mobisim.scenario.methods import METHODS
from mobisim.scenario.schema import Optimizer
from mobisim.training.backbone import Backbone
from mobisim.training.data import TaskData
from mobisim.training.learner import TrainingConfig
from mobisim.training.message import HEADER_BYTES, num_bytes
from mobisim.training.threads import one_thread_per_kernel
from mobisim.training.trainer import Trainer
from mobisim.training.tuned import Tuned
from mobisim.training.tuned_artifact import load_tuned, save_tuned
from mobisim.training.tuned_trainer import (
    ForwardTrainer,
    SplitTrainer,
    TunedTrainer,
    tuned_trainer,
)

CONFIG = TrainingConfig(
    batch_size=8, epochs=3, sequence_length=12, optimizer=Optimizer(lr=1e-2), block_size=16
)
SLOW = Optimizer(name="sgd", lr=0.05, momentum=0.9)
WITH_GRADIENTS = ("full", "lora", "bitfit", "adapters", "lst", "server-only", "split-lora")


def trainer(backbone: Backbone, task: TaskData, method: str, **changes: Any) -> TunedTrainer:
    config = dataclasses.replace(CONFIG, **changes)
    return tuned_trainer(backbone, task, config, METHODS[method])


def losses(one: TunedTrainer, count: int | None = None) -> list[float]:
    return [one.step(index) for index in range(count or len(one.batches))]


@pytest.mark.parametrize("method", WITH_GRADIENTS)
def test_each_method_learns(backbone: Backbone, task: TaskData, method: str) -> None:
    """Over the same data and order as the side network's, the training loss falls well."""
    ours = trainer(backbone, task, method, epochs=12, pooling="mean")
    found = losses(ours)
    assert np.mean(found[-6:]) < 0.8 * np.mean(found[:6])
    side = Trainer(backbone, task, ours.config)
    assert all(map(np.array_equal, side.batches, ours.batches))


@pytest.mark.parametrize("method", ["full", "lora"])
def test_losses_are_bit_equal_to_a_plain_loop(
    backbone: Backbone, task: TaskData, method: str
) -> None:
    """The same learning as a torch loop of a dozen lines."""
    ours = trainer(backbone, task, method)
    tuned = Tuned(backbone, METHODS[method])
    head = torch.nn.Linear(32, 2)
    with torch.no_grad():
        head.weight.copy_(ours.trained()["head.weight_CD"])
        head.bias.zero_()
    trained = [p for p in (*tuned.parameters(), *head.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.01)
    with one_thread_per_kernel():
        for index, batch in enumerate(ours.batches[:8]):
            last = np.cumsum(task.train.lengths[batch]) - 1
            hidden = tuned([task.train.tokens[i] for i in batch])[last]
            loss = functional.cross_entropy(head(hidden), torch.tensor(task.train.labels[batch]))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            assert ours.step(index) == loss.item()


@pytest.mark.parametrize("head", ["classification", "next_token"])
def test_pieces_of_a_mini_batch_add_up_to_it(backbone: Backbone, task: TaskData, head: str) -> None:
    """Accumulated over three pieces of unequal size, the learning is that of the whole."""
    whole, pieces = (
        trainer(backbone, task, "full", head=head, optimizer=SLOW, tuning=Tuning(micro_batches=n))
        for n in (1, 3)
    )
    assert losses(pieces) == pytest.approx(losses(whole), rel=1e-4)


@pytest.mark.parametrize("method", ["full", "lora", "lst"])
def test_checkpointing_changes_no_loss(backbone: Backbone, task: TaskData, method: str) -> None:
    """What is computed twice is computed alike."""
    spared = trainer(backbone, task, method, tuning=Tuning(checkpointing=True))
    assert losses(spared, 8) == losses(trainer(backbone, task, method), 8)


def test_resume_is_bit_exact(backbone: Backbone, task: TaskData) -> None:
    """Stopped and resumed, later losses and the metrics have the same bits."""
    whole, first, resumed = (trainer(backbone, task, "lora") for _ in range(3))
    expected = losses(whole)
    losses(first, 5)
    resumed.load_state_dict(first.state_dict())
    assert [resumed.step(index) for index in range(5, len(resumed.batches))] == expected[5:]
    assert resumed.evaluate() == whole.evaluate()


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_next_token_head_is_the_backbones_own(
    backbone: Backbone, task: TaskData, method: str
) -> None:
    """Training begins at the model's own predictions, and lowers perplexity."""
    ours = trainer(backbone, task, method, head="next_token", epochs=8)
    ids = task.train.tokens[0]
    with torch.no_grad():
        own = backbone.model(input_ids=torch.from_numpy(ids).long()[None]).logits[0]
        assert torch.allclose(ours.model([ids]), own, atol=1e-5)
    before = ours.evaluate()["perplexity"]
    losses(ours)
    assert ours.evaluate()["perplexity"] < 0.95 * before
    embedding = ours.model.tuned.backbone.get_input_embeddings().weight
    assert torch.equal(embedding, backbone.base.get_input_embeddings().weight) == (method == "lora")


def test_a_server_learns_what_the_device_would(backbone: Backbone, task: TaskData) -> None:
    """On the very same samples LoRA has the same losses, wherever it runs."""
    assert losses(trainer(backbone, task, "server-only")) == losses(trainer(backbone, task, "lora"))


def test_a_cut_at_full_precision_changes_no_loss(backbone: Backbone, task: TaskData) -> None:
    """LoRA cut in two learns bit for bit what LoRA on one machine learns."""
    plain = losses(trainer(backbone, task, "lora"))
    for cut in (1, 2):
        assert losses(trainer(backbone, task, "split-lora", tuning=Tuning(cut=cut))) == plain


def test_a_coarse_cut_rounds_both_ways(backbone: Backbone, task: TaskData) -> None:
    """What the layers below the cut learn from is what came down, rounded as on its way."""
    ours = trainer(backbone, task, "split-lora", codec="int4")
    assert isinstance(ours, SplitTrainer)
    exact = trainer(backbone, task, "lora")
    assert losses(ours, 1) != losses(exact, 1)
    below = [name for name in exact.trained() if "layers.0." in name and "lora_B" in name]
    assert below
    gradients = {n: p.grad for n, p in ours.model.named_parameters() if n in below}
    for name, parameter in exact.model.named_parameters():
        if name in below:
            found, expected = gradients[name], parameter.grad
            assert found is not None
            assert expected is not None
            assert not torch.equal(found, expected)
            assert torch.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > 0.8


@pytest.mark.parametrize("padding", ["fixed", "none"])
@pytest.mark.parametrize("codec", ["fp16", "nf4", "int3"])
def test_bytes_both_ways_are_those_of_one_tap(
    backbone: Backbone, task: TaskData, codec: str, padding: str
) -> None:
    """Up goes one tap with lengths and labels, down the same tap without."""
    ours = trainer(backbone, task, "split-lora", codec=codec, padding=padding)
    assert isinstance(ours, SplitTrainer)
    before = {name: value.clone() for name, value in ours.trained().items()}
    lengths = task.train.lengths[ours.batches[1]]
    tokens = 12 * len(lengths) if padding == "fixed" else int(lengths.sum())
    up, down = ours.exchange(1)
    assert len(up) == num_bytes(
        ours.cut.layout, num_taps=1, num_samples=8, num_tokens=tokens, num_labels=8
    )
    assert len(down) == HEADER_BYTES + ours.cut.layout.num_bytes(tokens)
    assert all(torch.equal(value, before[name]) for name, value in ours.trained().items())


def test_bytes_of_slopes_updates_and_data(backbone: Backbone, task: TaskData) -> None:
    """Four bytes a slope, a trainable parameter, a token and a label; two a length; and headers."""
    ours = trainer(backbone, task, "fwdllm", tuning=Tuning(perturbations=5))
    assert isinstance(ours, ForwardTrainer)
    up, down = ours.exchange(0)
    assert len(up) == HEADER_BYTES + 4 * 5
    assert len(down) == HEADER_BYTES + 4 * sum(p.numel() for p in ours.parameters)
    for padding, tokens in (("fixed", 12 * 8), ("none", None)):
        served = trainer(backbone, task, "server-only", padding=padding)
        sent = tokens or int(task.train.lengths[served.batches[2]].sum())
        assert len(served.upload(2)) == HEADER_BYTES + (2 + 4) * 8 + 4 * sent


def test_slopes_are_those_that_autograd_sees(backbone: Backbone, task: TaskData) -> None:
    """Along each direction the forward passes find the gradient's component."""
    ours = trainer(backbone, task, "fwdllm", tuning=Tuning(perturbations=4))
    assert isinstance(ours, ForwardTrainer)
    start = {name: value.clone() for name, value in ours.trained().items()}
    value, slopes = ours.slopes(0)
    assert all(torch.equal(v, start[name]) for name, v in ours.trained().items())
    exact = trainer(backbone, task, "lora")
    assert value == exact._differentiate(0)
    gradient = flat(exact.parameters)
    for number, slope in enumerate(slopes):
        way = torch.cat([values.flatten() for values in ours._directions(0)(number)])
        assert float(slope) == pytest.approx(float(gradient @ way), rel=0.02, abs=0.02)


def flat(parameters: list[torch.nn.Parameter]) -> torch.Tensor:
    gradients = [p.grad for p in parameters if p.grad is not None]
    assert len(gradients) == len(parameters)
    return torch.cat([gradient.flatten() for gradient in gradients])


def test_many_directions_give_the_gradient(backbone: Backbone, task: TaskData) -> None:
    """The estimate over K directions tends to the gradient: cosine about (1 + d/K)^-1/2."""
    ours = trainer(backbone, task, "fwdllm", tuning=Tuning(perturbations=300))
    exact = trainer(backbone, task, "lora")
    ours._differentiate(0)
    exact._differentiate(0)
    estimate, gradient = flat(ours.parameters), flat(exact.parameters)
    expected = (1 + len(gradient) / 300) ** -0.5
    assert float(torch.cosine_similarity(estimate, gradient, dim=0)) == pytest.approx(
        expected, abs=0.1
    )


def test_forward_passes_alone_learn(backbone: Backbone, task: TaskData) -> None:
    """Slowly, and yet: the loss over all samples falls."""
    sgd = Optimizer(name="sgd", lr=0.02, weight_decay=0.0)
    ours = trainer(backbone, task, "fwdllm", epochs=20, optimizer=sgd, pooling="mean")
    found = losses(ours)
    assert np.mean(found[-36:]) < 0.97 * np.mean(found[:36])


@pytest.mark.parametrize("method", ["lora", "full", "lst"])
def test_what_was_saved_predicts_as_the_run_did(
    backbone: Backbone, task: TaskData, tmp_path: Path, method: str
) -> None:
    """Attached to its backbone, the file is as good as the last evaluation."""
    ours = trainer(backbone, task, method)
    losses(ours)
    save_tuned(tmp_path / "tuned.safetensors", ours)
    loaded = load_tuned(tmp_path / "tuned.safetensors")
    assert loaded.description.method == method
    predicted = loaded.attach(backbone.name).predict(list(task.evaluation.texts))
    accuracy = np.mean(np.array(predicted) == task.evaluation.labels)
    assert accuracy == ours.evaluate()["accuracy"]


def test_a_file_of_another_sort_is_refused(
    backbone: Backbone, task: TaskData, tmp_path: Path
) -> None:
    """A broken file, one of another sort, and one for another backbone."""
    path = tmp_path / "tuned.safetensors"
    path.write_text("nothing")
    with pytest.raises(InputError, match="not a tuned backbone"):
        load_tuned(path)
    save_tuned(path, trainer(backbone, task, "lora"))
    loaded = load_tuned(path)
    description = dataclasses.replace(loaded.description, backbone_fingerprint="0")
    with pytest.raises(InputError, match="another backbone"):
        dataclasses.replace(loaded, description=description).attach(backbone)
    description = dataclasses.replace(loaded.description, method="full")
    with pytest.raises(InputError, match="not what its method trains"):
        dataclasses.replace(loaded, description=description).attach(backbone)
