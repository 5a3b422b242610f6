"""What a method trained of a backbone, as one file, and predictions with it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mobisim.errors import InputError
from mobisim.scenario.methods import METHODS, name_of
from mobisim.training.artifact import Predictor, check_weights, not_ours, read, write
from mobisim.training.backbone import Backbone, load_backbone
from mobisim.training.learner import TrainingConfig
from mobisim.training.side_network import HeadKind, Pooling
from mobisim.training.tuned_trainer import TunedModel, TunedTrainer

FORMAT = "mobisim-tuned-1"
_OURS = "a tuned backbone"


@dataclass(frozen=True)
class Description:
    """What was trained, on what, and for what; `num_classes` is 0 for next-token."""

    method: str
    head: HeadKind
    pooling: Pooling
    num_classes: int
    backbone: str
    backbone_fingerprint: str
    task: str
    sequence_length: int
    version: int
    format: str = FORMAT


@dataclass(frozen=True)
class LoadedTuned:
    """What was trained, read from a file and not yet attached to a backbone."""

    description: Description
    tensors: dict[str, Tensor]

    def attach(self, backbone: str | Backbone) -> Predictor:
        """A predictor on the backbone that it was trained on, given by name or loaded.

        Raises: InputError where it is another backbone, or the tensors are not the method's.
        """
        if isinstance(backbone, str):
            backbone = load_backbone(backbone)
        about = self.description
        check_weights(backbone, about.backbone, about.backbone_fingerprint)
        model = TunedModel(backbone, METHODS[about.method], self._config(), about.num_classes)
        trained = {name for name, value in model.named_parameters() if value.requires_grad}
        if trained != self.tensors.keys():
            raise InputError("what the file holds is not what its method trains", got=about.method)
        model.load_state_dict(self.tensors, strict=False)
        return Predictor(backbone.name, model, about.sequence_length, about.num_classes)

    def _config(self) -> TrainingConfig:
        about = self.description
        return TrainingConfig(
            batch_size=1,
            epochs=1,
            sequence_length=about.sequence_length,
            head=about.head,
            pooling=about.pooling,
        )


def save_tuned(path: Path, trainer: TunedTrainer) -> Description:
    """Writes the trained parameters of the newest version, with what they are for."""
    config, backbone = trainer.config, trainer.backbone
    description = Description(
        method=name_of(trainer.method),
        head=config.head,
        pooling=config.pooling_on(backbone),
        num_classes=trainer.data.num_classes if config.head == "classification" else 0,
        backbone=backbone.name,
        backbone_fingerprint=backbone.fingerprint,
        task=trainer.data.name,
        sequence_length=config.sequence_length,
        version=trainer.version,
    )
    write(path, trainer.trained(), description)
    return description


def load_tuned(path: str | Path) -> LoadedTuned:
    """What `save_tuned` wrote.

    Raises: InputError where it is not such a file.
    """
    tensors, text = read(path, _OURS)
    return LoadedTuned(_parse(path, text), tensors)


def _parse(path: str | Path, text: str) -> Description:
    try:
        fields: dict[str, Any] = json.loads(text)
        description = Description(**fields)
    except (ValueError, TypeError) as error:
        raise not_ours(path, f"no usable configuration in it ({error!r})", _OURS) from error
    if description.format != FORMAT or description.method not in METHODS:
        raise not_ours(path, f"{description.format!r}, method {description.method!r}", _OURS)
    return description
