"""Tasks as token ids and labels, and their mini-batches. Never imports torch."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobisim.errors import InputError
from mobisim.scenario.hub import HUB
from mobisim.training import glue
from mobisim.training.glue import Examples
from mobisim.training.tokens import Text, Tokens, load_tokenizer, tokenise

SHARED_DATA = Path("..") / "shared" / "data"


@dataclass(frozen=True)
class Split:
    """Samples as token ids, with their labels and the texts they came from.

    Shapes: labels int64 [number of samples].
    """

    tokens: tuple[Tokens, ...]
    labels: NDArray[np.int64]
    texts: tuple[Text, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each sample, special tokens included."""
        return np.array([len(ids) for ids in self.tokens], dtype=np.int64)


@dataclass(frozen=True)
class TaskData:
    """A task ready for training: what is learned from and what it is judged on.

    `held_out` is kept for the end where `evaluation`, what it is judged on until then, was cut
    from the training samples.
    """

    name: str
    train: Split
    evaluation: Split
    num_classes: int
    metric: str = "accuracy"
    held_out: Split | None = None

    @property
    def splits(self) -> tuple[Split, ...]:
        """All that there are."""
        return (self.train, self.evaluation, *([self.held_out] if self.held_out else []))

    @property
    def at_the_end(self) -> TaskData:
        """The same with nothing held back: judged on the held-out split."""
        assert self.held_out is not None
        return replace(self, evaluation=self.held_out, held_out=None)


def load_task(
    task: str,
    *,
    backbone: str,
    sequence_length: int,
    num_samples: int | None = None,
    validation: float | None = None,
    seed: int = 0,
    directories: Sequence[Path] | None = None,
) -> TaskData:
    """A task tokenised for a backbone.

    `task` is builtin, hf:owner/name, a directory in GLUE's TSV layout, or the name of one in
    `directories`. `num_samples` takes a seeded subset of the training samples (all, if fewer);
    a smaller subset is contained in a larger one. `validation` is the share of these that is cut
    off by the seed, to be judged on until the end.

    Raises: InputError where the task or the tokeniser is missing or malformed, or the share leaves
    nothing on one side.
    """
    train, evaluation = read_task(task, directories)
    num_classes = _num_classes(task, train, evaluation)
    train = _subset(train, num_samples, seed)
    tokenizer = load_tokenizer(backbone)

    def split(source: Examples) -> Split:
        return _split(source, tokenise(tokenizer, source.texts, sequence_length))

    if validation is None:
        return TaskData(task, split(train), split(evaluation), num_classes)
    kept, cut = _cut(train, validation, seed)
    return TaskData(task, split(kept), split(cut), num_classes, held_out=split(evaluation))


def read_task(task: str, directories: Sequence[Path] | None = None) -> tuple[Examples, Examples]:
    """The training and evaluation examples of a task, as text.

    Raises: InputError where there is no such task, or it is malformed.
    """
    if task == "builtin":
        return _builtin()
    if task.startswith(HUB):
        return glue.read_hub(task)
    return glue.read_directory(find_directory(task, directories))


def find_directory(task: str, directories: Sequence[Path] | None = None) -> Path:
    """The directory of a task: a path, or a name such as sst2 or SST-2 in a data directory.

    Raises: InputError naming the places searched.
    """
    if Path(task).is_dir():
        return Path(task)
    places = data_directories() if directories is None else list(directories)
    wanted = _plain(task)
    for place in places:
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            if path.is_dir() and _plain(path.name) == wanted:
                return path
    raise InputError(
        f"no task {task!r}",
        expected="builtin, hf:owner/name, or a directory with train.tsv and dev.tsv",
        got=f"no such directory, nor one of that name in {', '.join(map(str, places))}",
        hint="name the directory that holds it in $MOBISIM_DATA",
    )


def data_directories() -> list[Path]:
    """Where tasks are looked for by name: $MOBISIM_DATA, then ../shared/data."""
    named = [Path(part) for part in os.environ.get("MOBISIM_DATA", "").split(os.pathsep) if part]
    checkout = Path(__file__).resolve().parents[2]
    return [*named, SHARED_DATA, (checkout / SHARED_DATA).resolve()]


def mini_batches(
    num_samples: int, batch_size: int, epochs: int, seed: int
) -> list[NDArray[np.int64]]:
    """Sample numbers of each mini-batch: a new order each epoch, the last batch perhaps short.

    The order of an epoch depends on the seed and its number only, so more epochs change nothing
    before them.
    """
    return [
        order[start : start + batch_size]
        for order in epoch_orders(num_samples, epochs, seed)
        for start in range(0, num_samples, batch_size)
    ]


def epoch_orders(num_samples: int, epochs: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """The order of each epoch's samples."""
    for epoch in range(epochs):
        yield _stream("mini-batches", seed, epoch).permutation(num_samples)


def _builtin() -> tuple[Examples, Examples]:
    from mobisim.training.builtin.language import labelled_task  # noqa: PLC0415 (generates text)

    splits = labelled_task()
    train, evaluation = (
        Examples(
            splits[name].texts,
            splits[name].labels,
            tuple(f"builtin[{name}]:{number}" for number in range(1, len(splits[name].texts) + 1)),
        )
        for name in ("train", "test")
    )
    return train, evaluation


def _num_classes(task: str, train: Examples, evaluation: Examples) -> int:
    """The number of classes, once the training labels are 0..C-1 and the others among them."""
    classes = sorted(set(train.labels))
    if classes != list(range(len(classes))) or len(classes) == 1:
        shown = ", ".join(map(str, classes[:10]))
        expected = "at least two labels, numbered 0, 1, 2 and so on"
        raise InputError("unusable labels", where=task, expected=expected, got=shown)
    for label, place in zip(evaluation.labels, evaluation.places, strict=True):
        if label >= len(classes):
            expected = f"a label below {len(classes)}, as in training"
            raise InputError("an unknown label", where=place, expected=expected, got=str(label))
    return len(classes)


def _subset(source: Examples, num_samples: int | None, seed: int) -> Examples:
    """A seeded subset in the order of the source."""
    if num_samples is None or num_samples >= len(source.texts):
        return source
    return _taken(source, _stream("subset", seed).permutation(len(source.texts))[:num_samples])


def _cut(source: Examples, share: float, seed: int) -> tuple[Examples, Examples]:
    """What is left to train on, and a seeded share of at least one sample."""
    total = len(source.texts)
    size = max(1, round(share * total))
    if size >= total:
        raise InputError(
            "nothing is left to train on",
            where="training.validation",
            expected="a share that leaves samples on both sides",
            got=f"{size} of {total}",
        )
    order = _stream("validation", seed).permutation(total)
    return _taken(source, order[size:]), _taken(source, order[:size])


def _taken(source: Examples, numbers: NDArray[np.int64]) -> Examples:
    """The examples of these numbers, in the order of the source."""
    chosen = np.sort(numbers)
    return Examples(
        tuple(source.texts[i] for i in chosen),
        tuple(source.labels[i] for i in chosen),
        tuple(source.places[i] for i in chosen),
    )


def _split(source: Examples, tokens: tuple[Tokens, ...]) -> Split:
    for ids, place in zip(tokens, source.places, strict=True):
        if not len(ids):
            raise InputError("a sample without tokens", where=place, expected="some text")
    return Split(tokens, np.array(source.labels, dtype=np.int64), source.texts)


def _stream(purpose: str, seed: int, number: int = 0) -> np.random.Generator:
    """The random stream of one purpose."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), number])


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
