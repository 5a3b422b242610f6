"""The trained side network as one file, and predictions with it.

Axes: B samples, C classes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mobisim.errors import InputError
from mobisim.training.backbone import Backbone, load_backbone
from mobisim.training.learner import in_order
from mobisim.training.quantised import quantised
from mobisim.training.residuals import LinearGuess, WordGuess, answer
from mobisim.training.side_network import Ragged, SideNetwork, SideNetworkConfig, pool
from mobisim.training.threads import one_thread_per_kernel
from mobisim.training.tokens import Text, Tokens, load_tokenizer, tokenise
from mobisim.training.trainer import Trainer

FORMAT = "mobisim-side-network-1"
_METADATA_KEY = "mobisim"
_OURS = "a side network"
_GUESS = ("guess.weight_CD", "guess.bias_C")  # of a head that the device fitted itself


@dataclass(frozen=True)
class Description:
    """What a saved side network was trained on and for.

    Where it learned residuals of a verbaliser's predictions, `words` are the classes' tokens; those
    of a fitted head have it among the tensors.
    """

    side_network: SideNetworkConfig
    tap_layers: tuple[int, ...]
    backbone: str
    backbone_fingerprint: str
    task: str
    sequence_length: int
    version: int
    backbone_weights: str | None = None
    words: tuple[int, ...] = ()
    format: str = FORMAT


@dataclass(frozen=True)
class LoadedSideNetwork:
    """A side network read from a file, not yet attached to a backbone."""

    description: Description
    tensors: dict[str, Tensor]

    def attach(self, backbone: str | Backbone) -> Predictor:
        """A predictor on the backbone that it was trained on, given by name or loaded.

        Raises: InputError where it is another backbone.
        """
        if isinstance(backbone, str):
            backbone = load_backbone(backbone)
        about = self.description
        if about.backbone_weights is not None:
            backbone = quantised(backbone, about.backbone_weights)
        _check_backbone(backbone, about)
        return Predictor(
            backbone.name,
            self._judge(backbone),
            about.sequence_length,
            about.side_network.num_classes,
        )

    def _judge(self, backbone: Backbone) -> Callable[[list[Tokens]], Tensor]:
        """What gives the logits of samples, as an evaluation does."""
        config, layers = self.description.side_network, self.description.tap_layers
        tail = backbone.tail() if config.head == "next_token" else None
        side_network = SideNetwork(config, frozen_tail=tail)
        own = {name: value for name, value in self.tensors.items() if name not in _GUESS}
        side_network.load_state_dict(own, strict=tail is None)
        guess = self._guess(backbone) if config.learns == "residuals" else None

        def judge(tokens: list[Tokens]) -> Tensor:
            lie = Ragged.of(torch.tensor([len(ids) for ids in tokens]))
            *taps, last = backbone.taps(tokens, (*layers, backbone.num_layers))
            logits: Tensor = side_network(taps, lie)
            if guess is None:
                return logits
            pooling = "last" if self.description.words else config.pooling
            return answer(guess(pool(last, lie, pooling)), logits)

        return judge

    def _guess(self, backbone: Backbone) -> nn.Module:
        if self.description.words:
            return WordGuess(backbone.tail(), list(self.description.words))
        return LinearGuess(*(self.tensors[name] for name in _GUESS))


class Predictor:
    """A trained backbone, or one with its side network, reading text.

    Args:
        backbone: its name, which its tokeniser goes by.
        judge: class logits of samples: token ids -> [B, C].
        sequence_length: the most tokens of a sample.
        num_classes: how many there are; 0 where it predicts tokens.
    """

    def __init__(
        self,
        backbone: str,
        judge: Callable[[list[Tokens]], Tensor],
        sequence_length: int,
        num_classes: int,
    ) -> None:
        self._judge, self.num_classes = judge, num_classes
        self.sequence_length = sequence_length
        self._tokenizer = load_tokenizer(backbone)

    def predict(self, texts: Sequence[Text]) -> list[int]:
        """The class of each text, or of each pair of texts."""
        return [int(label) for label in self.logits(texts).argmax(dim=1)]

    def predict_proba(self, texts: Sequence[Text]) -> Tensor:
        """Class probabilities of each text: [B, C]."""
        return torch.softmax(self.logits(texts), dim=1)

    def logits(self, texts: Sequence[Text]) -> Tensor:
        """Class logits of each text: [B, C].

        With a side network bit-equal to evaluation, for the same texts in order.

        Raises: InputError where it predicts tokens and not classes.
        """
        if not self.num_classes:
            raise InputError("what was trained predicts next tokens and not classes")
        tokens = tokenise(self._tokenizer, texts, self.sequence_length)
        if not tokens:
            return torch.empty(0, self.num_classes)
        with one_thread_per_kernel(), torch.no_grad():
            chunks = ([tokens[i] for i in chunk] for chunk in in_order(len(tokens)))
            return torch.cat([self._judge(chunk) for chunk in chunks])


def save_side_network(path: Path, trainer: Trainer) -> Description:
    """Writes the trainable parameters of the newest version, with what they are for."""
    guess = trainer.guess if trainer.config.learns == "residuals" else None
    description = Description(
        side_network=trainer.side_network.config,
        tap_layers=trainer.tap_layers,
        backbone=trainer.backbone.name,
        backbone_fingerprint=trainer.backbone.fingerprint,
        task=trainer.data.name,
        sequence_length=trainer.config.sequence_length,
        version=trainer.version,
        backbone_weights=trainer.backbone.weights,
        words=tuple(guess.words_C) if isinstance(guess, WordGuess) else (),
    )
    fitted = {f"guess.{name}": value for name, value in guess.state_dict().items()} if guess else {}
    write(path, trainer.trained() | {n: v for n, v in fitted.items() if n in _GUESS}, description)
    return description


def load_side_network(path: str | Path) -> LoadedSideNetwork:
    """A side network from the file that `save_side_network` wrote.

    Raises: InputError where it is not such a file.
    """
    tensors, text = read(path, _OURS)
    loaded = LoadedSideNetwork(_parse(path, text), tensors)
    _check_tensors(path, loaded)
    return loaded


def write(path: Path, tensors: dict[str, Tensor], description: Any) -> None:
    """Tensors in one file with what describes them, a dataclass."""
    from safetensors.torch import save_file  # noqa: PLC0415 (only to save)

    text = json.dumps(dataclasses.asdict(description), sort_keys=True)
    save_file(tensors, path, metadata={_METADATA_KEY: text})


def read(path: str | Path, ours: str) -> tuple[dict[str, Tensor], str]:
    """Tensors and description of a file that `write` wrote.

    Raises: InputError where it is not such a file; `ours` says what it should be.
    """
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 (only to load)

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise not_ours(path, str(error), ours) from error
    return tensors, metadata.get(_METADATA_KEY, "{}")


def _parse(path: str | Path, text: str) -> Description:
    try:
        fields = json.loads(text)
        fields["side_network"] = SideNetworkConfig(**fields["side_network"])
        for name in ("tap_layers", "words"):
            fields[name] = tuple(fields.get(name, ()))
        description = Description(**fields)
    except (ValueError, KeyError, TypeError) as error:
        raise not_ours(path, f"no usable configuration in it ({error!r})") from error
    if description.format != FORMAT:
        raise not_ours(path, f"format {description.format!r}")
    return description


def _check_tensors(path: str | Path, loaded: LoadedSideNetwork) -> None:
    """Refuses a file whose tensors are not those of its own configuration."""
    own = (value for name, value in loaded.tensors.items() if name not in _GUESS)
    count = sum(tensor.numel() for tensor in own)
    expected = loaded.description.side_network.num_parameters
    if count != expected:
        raise not_ours(path, f"{count} parameters where its configuration has {expected}")


def _check_backbone(backbone: Backbone, description: Description) -> None:
    config = description.side_network
    if backbone.width != config.width or max(description.tap_layers) > backbone.num_layers:
        expected = f"{description.backbone} of width {config.width}"
        got = f"{backbone.name} of width {backbone.width} with {backbone.num_layers} layers"
        raise InputError("the side network does not fit the backbone", expected=expected, got=got)
    check_weights(backbone, description.backbone, description.backbone_fingerprint)


def check_weights(backbone: Backbone, name: str, fingerprint: str) -> None:
    """Make sure that a backbone is the one that something was trained on.

    Raises: InputError where it is another one.
    """
    if backbone.fingerprint != fingerprint:
        raise InputError(
            "this was trained on another backbone",
            expected=f"{name}, weights {fingerprint}",
            got=f"{backbone.name}, weights {backbone.fingerprint}",
        )


def not_ours(path: str | Path, got: str, ours: str = _OURS) -> InputError:
    """The error of a file that is not what it should be."""
    return InputError(f"not {ours}", where=str(path), expected="a file of a result", got=got)
