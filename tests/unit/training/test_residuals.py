"""PAE MobiLLM: few tokens, a cache, and residuals in place of labels."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from mobisim.errors import InputError
from mobisim.scenario.method_options import Keep
from mobisim.scenario.schema import Optimizer
from mobisim.training.artifact import load_side_network, save_side_network
from mobisim.training.backbone import Backbone
from mobisim.training.codec import decode, decode_rows, encode
from mobisim.training.course import Course
from mobisim.training.data import TaskData
from mobisim.training.learner import TrainingConfig
from mobisim.training.message import num_bytes, unpack
from mobisim.training.residuals import answer, fit, residuals
from mobisim.training.trainer import Trainer

CONFIG = TrainingConfig(
    batch_size=8,
    epochs=3,
    sequence_length=12,
    codec="nf4",
    block_size=16,
    bottleneck=4,
    optimizer=Optimizer(lr=1e-2),
    tokens="loss",
    learns="residuals",
)
WORDS = ("w3", "w7")


def trainer(backbone: Backbone, task: TaskData, **changes: Any) -> Trainer:
    return Trainer(backbone, task, dataclasses.replace(CONFIG, **changes))


def losses(one: Trainer) -> list[float]:
    return [one.step(index) for index in range(len(one.batches))]


@pytest.mark.parametrize("granularity", ["batch", "layer"])
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_bytes_are_those_of_the_tokens_in_the_loss(
    backbone: Backbone, task: TaskData, granularity: Any, pooling: Any
) -> None:
    """One token of a sample that a head reads alone, whatever its length; all that a mean takes."""
    ours = trainer(backbone, task, granularity=granularity, pooling=pooling)
    for index in (0, 5):
        lengths = task.train.lengths[ours.batches[index]]
        assert ours.num_payload_bytes(index) == num_bytes(
            ours.layout,
            num_taps=3,
            num_samples=len(lengths),
            num_tokens=len(lengths) if pooling == "last" else int(lengths.sum()),
            num_labels=2 * len(lengths),
            granularity=granularity,
        )


def test_no_label_is_on_the_wire(backbone: Backbone, task: TaskData) -> None:
    """What arrives are floats: what the labels leave of the device's own prediction."""
    ours = trainer(backbone, task)
    received = unpack(ours.messages(1), ours.layout, num_classes=2)
    assert received.label_kind == "residual"
    assert received.labels.dtype == np.float32
    assert received.lengths.tolist() == [1] * 8
    for sent, tap in zip(received.rows_LNR, ours.activations.taps(ours.batches[1]), strict=True):
        assert torch.equal(decode_rows(sent, ours.layout), tap)
    labels = task.train.labels[ours.batches[1]]
    guess = np.eye(2)[labels] - received.labels
    assert np.all(guess > 0)
    assert guess.sum(axis=1) == pytest.approx(np.ones(8), abs=1e-6)
    # who knows that they are residuals reads the label off their sign
    assert received.labels.argmax(axis=1).tolist() == labels.tolist()


def test_residuals_give_every_label_away(backbone: Backbone, task: TaskData) -> None:
    """Whatever the device predicts: only the label's own entry can be above zero."""
    assert trainer(backbone, task).labels_given_away() == 1.0


@pytest.mark.parametrize("pooling", ["first", "last"])
@pytest.mark.parametrize("learns", ["labels", "residuals"])
def test_one_token_teaches_what_all_of_them_do(
    backbone: Backbone, task: TaskData, pooling: Any, learns: Any
) -> None:
    """A head that reads one token learns alike from it alone: at full precision every loss."""
    few, everything = (
        losses(trainer(backbone, task, codec="fp32", pooling=pooling, learns=learns, tokens=t))
        for t in ("loss", "all")
    )
    assert few == everything


def test_next_tokens_are_learned_without_the_last(backbone: Backbone, task: TaskData) -> None:
    """It has no next one; perplexity is the same, and losses are but for the last bits."""
    few, everything = (
        trainer(backbone, task, head="next_token", learns="labels", tokens=t, codec="fp32")
        for t in ("loss", "all")
    )
    assert few.evaluate() == pytest.approx(everything.evaluate())
    assert losses(few) == pytest.approx(losses(everything), rel=1e-4)


def test_cached_epochs_equal_uploading_again(backbone: Backbone, task: TaskData) -> None:
    """Forwarded and encoded anew in each epoch, activations and losses have the same bits."""
    kept, again = trainer(backbone, task), trainer(backbone, task)
    expected = losses(kept)
    for index in range(len(again.batches)):
        before = again.messages(index)
        again.activations._filled[:] = False
        again.activations._rows_MLR.fill_(0)  # type: ignore[union-attr]
        assert again.messages(index) == before
        assert again.step(index) == expected[index]
        again.activations._filled[:] = False


def test_a_cache_of_another_codec_rounds_once_more(backbone: Backbone, task: TaskData) -> None:
    """What comes up is learned from as received; what was kept, as the cache holds it."""
    plain = trainer(backbone, task, codec="fp16")
    kept = trainer(backbone, task, codec="fp16", cache_codec="int4")

    def rounded(tap: torch.Tensor) -> torch.Tensor:
        return decode(encode(tap, "int4", 16), len(tap), 32, "int4", 16)

    for index in (2, 8):
        for exact, found in zip(plain.taps(index), kept.taps(index), strict=True):
            assert torch.equal(found, exact if index < 6 else rounded(exact))
    hits = [np.arange(len(batch)) % 2 == 0 for batch in plain.batches]
    config = dataclasses.replace(CONFIG, codec="fp16", cache_codec="int4")
    partly = Trainer(backbone, task, config, course=Course.of(plain.batches, 3, hits=hits))
    for exact, found in zip(plain.taps(0), partly.taps(0), strict=True):
        assert torch.equal(found[::2], rounded(exact[::2]))
        assert torch.equal(found[1::2], exact[1::2])


def test_learning_begins_at_the_devices_prediction(backbone: Backbone, task: TaskData) -> None:
    """The side network adds nothing at first, and then brings the residuals down."""
    ours = trainer(backbone, task, epochs=20, pooling="mean", codec="fp32")
    last = [backbone.taps([ids], (3,))[0].mean(dim=0) for ids in task.evaluation.tokens]
    own = ours.guess()(torch.stack(last)).argmax(dim=1).numpy()
    assert ours.evaluate()["accuracy"] == np.mean(own == task.evaluation.labels)
    found = losses(ours)
    assert np.mean(found[-6:]) < 0.8 * np.mean(found[:6])


def test_the_fitted_head_is_a_logistic_regression() -> None:
    """scikit-learn's, on standardised features with the same decay, says the same."""
    random = np.random.default_rng(0)
    x = random.normal(3, 2, (60, 5)).astype(np.float32)
    labels = (x[:, 0] + random.normal(0, 1, 60) > 3).astype(np.int64) + (x[:, 1] > 4)
    ours = fit(torch.from_numpy(x), torch.from_numpy(labels), 3)
    standard = (x - x.mean(0)) / x.std(0)
    theirs = LogisticRegression(C=1 / (60 * 0.1), tol=1e-8, max_iter=1000).fit(standard, labels)
    expected = theirs.predict_proba(standard)
    assert ours(torch.from_numpy(x)).numpy() == pytest.approx(expected, abs=2e-3)


def test_residuals_and_predictions_add_up() -> None:
    """A perfectly learned residual gives the label all the probability."""
    guess, labels = torch.tensor([[0.7, 0.3], [0.6, 0.4]]), torch.tensor([0, 1])
    learned = residuals(guess, labels)
    assert learned.tolist() == [pytest.approx([0.3, -0.3]), pytest.approx([-0.6, 0.6])]
    assert answer(guess, learned).exp().tolist() == [
        pytest.approx([1, 0], abs=1e-5),
        pytest.approx([0, 1], abs=1e-5),
    ]


def test_a_verbaliser_reads_the_backbones_own_words(backbone: Backbone, task: TaskData) -> None:
    """Its prediction is that of the next-token head, among the classes' words."""
    ours = trainer(backbone, task, prediction="verbaliser", words=WORDS, pooling="mean")
    assert ours.step(0) > 0
    ids = torch.from_numpy(task.train.tokens[0]).long()[None]
    with torch.no_grad():
        logits = backbone.model(input_ids=ids).logits[0, -1, [5, 9]]
    tap = backbone.taps([task.train.tokens[0]], (3,))[0]
    found = ours.guess()(tap[-1:])
    assert found[0].tolist() == pytest.approx(torch.softmax(logits, 0).tolist(), abs=1e-6)
    with pytest.raises(InputError, match="as one token"):
        _ = trainer(backbone, task, prediction="verbaliser", words=("nowhere", "w1")).guess()


@pytest.mark.parametrize("head", ["classification", "next_token"])
def test_filtered_activations_are_what_is_sent(
    backbone: Backbone, task: TaskData, head: Any
) -> None:
    """Half of the tokens and two of three taps: bytes are theirs, and it still learns."""
    keep = Keep(score="norm", tokens=0.5, taps=2)
    ours = trainer(
        backbone,
        task,
        keep=keep,
        learns="labels",
        tokens="all",
        head=head,
        pooling="mean",
        epochs=12,
    )
    lengths = task.train.lengths[ours.batches[0]]
    tokens = int(np.ceil(lengths / 2).sum())
    assert ours.num_payload_bytes(0) == num_bytes(
        ours.layout,
        num_taps=2,
        num_samples=8,
        num_tokens=tokens,
        num_labels=8 if head == "classification" else tokens,
    )
    found = losses(ours)
    assert np.mean(found[-6:]) < np.mean(found[:6])


@pytest.mark.parametrize("prediction", ["head", "verbaliser"])
def test_what_was_saved_predicts_as_the_run_did(
    backbone: Backbone, task: TaskData, tmp_path: Path, prediction: Any
) -> None:
    """The file brings the device's own prediction along."""
    ours = trainer(backbone, task, prediction=prediction, words=WORDS, pooling="mean")
    losses(ours)
    save_side_network(tmp_path / "side_network.safetensors", ours)
    predictor = load_side_network(tmp_path / "side_network.safetensors").attach(backbone.name)
    predicted = np.array(predictor.predict(list(task.evaluation.texts)))
    assert np.mean(predicted == task.evaluation.labels) == ours.evaluate()["accuracy"]
