"""Labelled text from tables: GLUE's TSV layout, and data sets on the hub. Never imports torch."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobisim.errors import InputError
from mobisim.scenario.hub import HUB, import_hub
from mobisim.training.tokens import Text

LABEL_COLUMNS = ("label", "Quality", "is_duplicate")
# Pairs first: QNLI has both a question and a sentence.
TEXT_COLUMNS = (
    ("#1 String", "#2 String"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("premise", "hypothesis"),
    ("sentence",),
    ("text",),
)
_COLA_COLUMNS = ("source", "label", "mark", "sentence")  # CoLA has no header line

Row = tuple[str, Sequence[str]]  # where it stands, its fields


@dataclass(frozen=True)
class Examples:
    """Texts with integer labels, and where each was read."""

    texts: tuple[Text, ...]
    labels: tuple[int, ...]
    places: tuple[str, ...]


def read_directory(directory: Path) -> tuple[Examples, Examples]:
    """The training and evaluation examples of a directory in GLUE's TSV layout.

    Raises: InputError naming file and line where a file is missing, empty, or malformed.
    """
    return read_tsv(directory / "train.tsv"), read_tsv(directory / "dev.tsv")


def read_tsv(path: Path) -> Examples:
    """The examples of one tab-separated file, read with no quoting.

    Raises: InputError naming file and line.
    """
    rows = list(_rows(path))
    if not rows:
        raise InputError("an empty task file", where=str(path), expected="labelled sentences")
    header = list(rows[0][1])
    if not set(header) & {*LABEL_COLUMNS, *(name for names in TEXT_COLUMNS for name in names)}:
        header = _headless(rows[0])
    else:
        rows = rows[1:]
    return examples(header, rows, where=f"{path}:1")


def examples(header: Sequence[str], rows: Sequence[Row], *, where: str) -> Examples:
    """Texts and labels picked by column name.

    Raises: InputError where a column is missing, a row is ragged, or a label is no integer.
    """
    label = _columns(header, [(name,) for name in LABEL_COLUMNS], "label", where)[0]
    sources = _columns(header, TEXT_COLUMNS, "text", where)
    if not rows:
        raise InputError("a task without examples", where=where, expected="labelled sentences")
    texts: list[Text] = []
    labels: list[int] = []
    for place, fields in rows:
        if len(fields) != len(header):
            raise InputError(
                "a ragged row", where=place, expected=f"{len(header)} fields", got=str(len(fields))
            )
        texts.append(_text([fields[source] for source in sources]))
        labels.append(_label(fields[label], place))
    return Examples(tuple(texts), tuple(labels), tuple(place for place, _ in rows))


def read_hub(name: str) -> tuple[Examples, Examples]:
    """The training and evaluation examples of `hf:owner/name` or `hf:owner/name/configuration`.

    Raises: InputError where it cannot be fetched or has no labelled splits.
    """
    owner, _, rest = name.removeprefix(HUB).partition("/")
    repository, _, configuration = rest.partition("/")
    import_hub()
    try:
        datasets = importlib.import_module("datasets")
        splits = datasets.load_dataset(f"{owner}/{repository}", configuration or None)
    except ImportError as error:
        hint = "install it with: pip install 'mobisim[hub]'"
        raise InputError("tasks on the hub need the datasets library", hint=hint) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"cannot fetch {name}", got=str(error)) from error
    evaluation = next((s for s in ("validation", "dev", "test") if s in splits), "validation")
    return _hub_split(name, splits, "train"), _hub_split(name, splits, evaluation)


def _hub_split(name: str, splits: Any, split: str) -> Examples:
    where = f"{name}[{split}]"
    if split not in splits:
        raise InputError("no such split", where=where, expected=split, got=", ".join(splits))
    table = splits[split]
    header = list(table.column_names)
    rows = [
        (f"{where}:{number}", [str(row[column]) for column in header])
        for number, row in enumerate(table, 1)
    ]
    return examples(header, rows, where=where)


def _rows(path: Path) -> Iterator[Row]:
    """The fields of each line that is not blank."""
    try:
        content = path.read_text(encoding="utf-8-sig")  # MRPC starts with a byte order mark
    except OSError as error:
        raise InputError(
            "cannot read a task file", where=str(path), expected="a TSV file", got=error.strerror
        ) from error
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8 text", where=str(path), got=str(error)) from error
    # Not splitlines(): it also splits at characters that occur inside sentences.
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip("\r"):
            yield f"{path}:{number}", line.rstrip("\r").split("\t")


def _headless(row: Row) -> list[str]:
    """CoLA's columns, where the first line can be one of its rows."""
    place, fields = row
    if len(fields) != len(_COLA_COLUMNS):
        raise InputError(
            "no known column",
            where=place,
            expected=f"a header with one of {', '.join(LABEL_COLUMNS)}, or CoLA's four columns",
            got=", ".join(fields)[:80],
        )
    return list(_COLA_COLUMNS)


def _columns(
    header: Sequence[str], known: Sequence[tuple[str, ...]], what: str, where: str
) -> list[int]:
    """Positions of the first known group of columns that the header has."""
    for names in known:
        if set(names) <= set(header):
            return [header.index(name) for name in names]
    raise InputError(
        f"no {what} column",
        where=where,
        expected=" or ".join("+".join(names) for names in known),
        got=", ".join(header)[:80],
    )


def _text(parts: Sequence[str]) -> Text:
    return (parts[0], parts[1]) if len(parts) > 1 else parts[0]


def _label(field: str, place: str) -> int:
    try:
        value = int(field)
    except ValueError:
        value = -1
    if value < 0:
        expected = "an integer from 0 on"
        raise InputError("not a label", where=place, expected=expected, got=repr(field[:80]))
    return value
