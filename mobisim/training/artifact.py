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
from mobisim.training.alignment import project
from mobisim.training.backbone import Backbone, load_backbone
from mobisim.training.learner import in_order, trained
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
_PROJECTION = "projection.weight_LED"


@dataclass(frozen=True)
class Description:
    """What a saved side network was trained on and for.

    Where it learned residuals of a verbaliser's predictions, `words` are the classes' tokens; those
    of a fitted head have it among the tensors. `projected` is the backbone's width where a
    projection leads from it to the side network.
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
    projected: int | None = None
    format: str = FORMAT


@dataclass(frozen=True)
class FleetDescription:
    """The same for a fleet: of each way to the side network, and which is each device's.

    Tensors of one way or device are named after it.
    """

    ways: tuple[Description, ...]
    way_of: tuple[int, ...]


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
        own = {n: value for n, value in self.tensors.items() if n not in (*_GUESS, _PROJECTION)}
        side_network.load_state_dict(own, strict=tail is None)
        guess = self._guess(backbone) if config.learns == "residuals" else None
        matrices = self.tensors.get(_PROJECTION)

        def judge(tokens: list[Tokens]) -> Tensor:
            lie = Ragged.of(torch.tensor([len(ids) for ids in tokens]))
            *taps, last = backbone.taps(tokens, (*layers, backbone.num_layers))
            aligned = taps if matrices is None else project(taps, matrices)
            logits: Tensor = side_network(aligned, lie)
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


def save_side_network(path: Path, trainer: Trainer) -> None:
    """Writes what is trained as it is in the newest version, with what it is for.

    All devices' side networks are one file: what they share, and what each has of its own.
    """
    ways = tuple(_described(trainer, way) for way in range(len(trainer.fleet.ways)))
    tensors = trained(trainer.side_network)
    way_of = trainer.fleet.way_of.tolist()
    alone = len(way_of) == 1
    for way, projection in trainer.projections.items():
        tensors[_name(None if alone else f"way-{way}", _PROJECTION)] = (
            projection.weight_LED.detach()
        )
    for device in range(len(way_of)):
        for name, value in _fitted(trainer, device).items():
            tensors[_name(None if alone else f"device-{device}", name)] = value
    write(path, tensors, ways[0] if alone else FleetDescription(ways, tuple(way_of)))


def _described(trainer: Trainer, way: int) -> Description:
    source = trainer.sources[trainer.fleet.ways[way][0]]
    backbone, device = source.backbone, trainer.fleet.way_of.tolist().index(way)
    guess = trainer.guess(device) if trainer.config.learns == "residuals" else None
    return Description(
        side_network=trainer.side_network.config,
        tap_layers=source.tap_layers,
        backbone=backbone.name,
        backbone_fingerprint=backbone.fingerprint,
        task=trainer.data.name,
        sequence_length=trainer.config.sequence_length,
        version=trainer.version,
        backbone_weights=backbone.weights,
        words=tuple(guess.words_C) if isinstance(guess, WordGuess) else (),
        projected=backbone.width if way in trainer.projections else None,
    )


def _fitted(trainer: Trainer, device: int) -> dict[str, Tensor]:
    """The head that a device fitted itself, if it did."""
    if trainer.config.learns != "residuals":
        return {}
    own = {f"guess.{name}": value for name, value in trainer.guess(device).state_dict().items()}
    return {name: value for name, value in own.items() if name in _GUESS}


def _name(owner: str | None, name: str) -> str:
    return f"{owner}/{name}" if owner else name


def load_side_network(path: str | Path, device: int = 0) -> LoadedSideNetwork:
    """A device's side network from the file that `save_side_network` wrote.

    Raises: InputError where it is not such a file, or has no such device.
    """
    tensors, text = read(path, _OURS)
    description, way = _parse(path, text, device)
    owners = (f"way-{way}/", f"device-{device}/")
    own = {
        name.rpartition("/")[2]: value
        for name, value in tensors.items()
        if "/" not in name or name.startswith(owners)
    }
    loaded = LoadedSideNetwork(description, own)
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


def _parse(path: str | Path, text: str, device: int) -> tuple[Description, int]:
    """What describes a device's side network, and the number of its way there."""
    try:
        fields: dict[str, Any] = json.loads(text)
        way_of = fields.get("way_of", [0])
        known = 0 <= device < len(way_of)
        way = way_of[device if known else 0]
        description = _description(fields["ways"][way] if "ways" in fields else fields)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise not_ours(path, f"no usable configuration in it ({error!r})") from error
    if description.format != FORMAT:
        raise not_ours(path, f"format {description.format!r}")
    if not known:
        expected = f"0 to {len(way_of) - 1}"
        raise InputError("no such device", where=str(path), expected=expected, got=str(device))
    return description, way


def _description(fields: dict[str, Any]) -> Description:
    side_network = SideNetworkConfig(**fields["side_network"])
    lists = {name: tuple(fields.get(name, ())) for name in ("tap_layers", "words")}
    return Description(**(fields | lists | {"side_network": side_network}))


def _check_tensors(path: str | Path, loaded: LoadedSideNetwork) -> None:
    """Refuses a file whose tensors are not those of its own configuration."""
    own = (value for name, value in loaded.tensors.items() if name not in _GUESS)
    count = sum(tensor.numel() for tensor in own)
    about = loaded.description
    config = about.side_network
    expected = config.num_parameters + config.num_taps * config.width * (about.projected or 0)
    if count != expected:
        raise not_ours(path, f"{count} parameters where its configuration has {expected}")


def _check_backbone(backbone: Backbone, description: Description) -> None:
    width = description.projected or description.side_network.width
    if backbone.width != width or max(description.tap_layers) > backbone.num_layers:
        expected = f"{description.backbone} of width {width}"
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
