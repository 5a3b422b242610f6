from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mobisim.errors import InputError
from mobisim.scenario.schema import Optimizer
from mobisim.training.artifact import load_side_network, save_side_network
from mobisim.training.backbone import Backbone
from mobisim.training.data import TaskData
from mobisim.training.learner import TrainingConfig
from mobisim.training.trainer import Trainer

CONFIG = TrainingConfig(
    batch_size=8,
    epochs=3,
    sequence_length=12,
    codec="int4",
    bottleneck=4,
    tap_layers=(1, 3),
    pooling="mean",
    optimizer=Optimizer(lr=1e-2),
)


@pytest.fixture(scope="module")
def trained(backbone: Backbone, task: TaskData) -> Trainer:
    trainer = Trainer(backbone, task, CONFIG)
    for index in range(len(trainer.batches)):
        trainer.step(index)
    return trainer


@pytest.fixture
def path(trained: Trainer, tmp_path: Path) -> Path:
    save_side_network(tmp_path / "side_network.safetensors", trained)
    return tmp_path / "side_network.safetensors"


def test_predictions_have_the_metric_of_the_run(
    path: Path, trained: Trainer, task: TaskData
) -> None:
    """On the evaluation texts a saved side network is exactly as good as its run said."""
    predictor = load_side_network(path).attach(trained.backbone.name)
    predicted = predictor.predict(task.evaluation.texts)
    accuracy = float(np.mean(np.array(predicted) == task.evaluation.labels))
    assert accuracy == trained.evaluate()["accuracy"]


def test_description_says_what_it_was_trained_on(path: Path, trained: Trainer) -> None:
    """The file carries its configuration, version, task and backbone."""
    description = load_side_network(path).description
    assert description.side_network == trained.side_network.config
    assert (description.tap_layers, description.version) == ((1, 3), 18)
    assert (description.task, description.sequence_length) == (trained.data.name, 12)


def test_probabilities_agree_with_predictions(path: Path, backbone: Backbone) -> None:
    """Probabilities sum to one and their largest is the prediction; pairs are texts too."""
    predictor = load_side_network(path).attach(backbone)
    texts: list[str | tuple[str, str]] = ["w1 w2", "w15 w16 w17", ("w1", "w18")]
    proba = predictor.predict_proba(texts)
    torch.testing.assert_close(proba.sum(dim=1), torch.ones(3))
    assert proba.argmax(dim=1).tolist() == predictor.predict(texts)


def test_no_texts_have_no_predictions(path: Path, backbone: Backbone) -> None:
    """An empty list is answered with an empty list."""
    assert load_side_network(path).attach(backbone).predict([]) == []


def test_same_bytes_for_the_same_parameters(path: Path, trained: Trainer, tmp_path: Path) -> None:
    """Saving twice writes the same file."""
    save_side_network(tmp_path / "again.safetensors", trained)
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_other_width_is_refused(path: Path, make_opt: Callable[..., Any]) -> None:
    """A backbone of another width is named with both widths."""
    narrow = Backbone(make_opt(hidden_size=16, word_embed_proj_dim=16), "narrow")
    with pytest.raises(InputError, match=r"width 32\n.*got: narrow of width 16"):
        load_side_network(path).attach(narrow)


def test_shallower_backbone_is_refused(path: Path, make_opt: Callable[..., Any]) -> None:
    """A backbone without the tapped layers is refused."""
    with pytest.raises(InputError, match="with 2 layers"):
        load_side_network(path).attach(Backbone(make_opt(num_hidden_layers=2), "shallow"))


def test_other_weights_are_refused(path: Path, make_opt: Callable[..., Any]) -> None:
    """A backbone of the same shape but other weights is no substitute."""
    other = Backbone(make_opt(), "other")
    with torch.no_grad():
        other.blocks[0].get_parameter("fc1.weight").mul_(2)
    with pytest.raises(InputError, match="trained on another backbone"):
        load_side_network(path).attach(other)


def test_next_token_networks_load_and_refuse_to_classify(
    backbone: Backbone, task: TaskData, tmp_path: Path
) -> None:
    """The frozen tail is not stored but taken from the backbone; classes are not made up."""
    config = dataclasses.replace(CONFIG, head="next_token")
    trainer = Trainer(backbone, task, config)
    save_side_network(tmp_path / "side.safetensors", trainer)
    tensors = load_file(tmp_path / "side.safetensors")
    assert set(tensors) == {"down_LDr", "up_LrD", "gate_L"}
    predictor = load_side_network(tmp_path / "side.safetensors").attach(backbone)
    with pytest.raises(InputError, match="next tokens and not classes"):
        predictor.predict(["w1"])


def test_other_files_are_refused(path: Path, tmp_path: Path) -> None:
    """Text, missing files, and weights of something else are no side networks."""
    text = tmp_path / "text.safetensors"
    text.write_text("plain words, and rather many of them")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.ones(2)}, foreign)
    short = tmp_path / "short.safetensors"
    short.write_bytes(path.read_bytes()[:-8])
    for bad in (text, foreign, short, tmp_path / "absent", tmp_path):
        with pytest.raises(InputError, match="not a side network"):
            load_side_network(bad)


def test_tensors_must_be_those_of_the_configuration(path: Path, tmp_path: Path) -> None:
    """A file that lost a tensor is refused before it is attached."""
    from safetensors import safe_open  # noqa: PLC0415

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    del tensors["up_LrD"]
    save_file(tensors, tmp_path / "lost.safetensors", metadata=metadata)
    with pytest.raises(InputError, match="parameters where its configuration has"):
        load_side_network(tmp_path / "lost.safetensors")
