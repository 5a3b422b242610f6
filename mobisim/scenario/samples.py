"""The sample table beside a measured profile: one line per operator and shape, in CSV."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from mobisim.errors import InputError
from mobisim.scenario.document import Document, read_text

Positive = Annotated[float, Field(gt=0)]
Whole = Annotated[int, Field(ge=1)]


class Sample(NamedTuple):
    """How long one operator lasted at one shape: median and tenth and ninetieth percentile.

    `width_out` is the second size of operators that have one: fan-out, head size, bottleneck,
    block size.
    """

    operator: str
    batch: Whole
    length: Whole
    width: Whole
    width_out: Whole
    precision: str
    threads: Whole
    median_s: Positive
    p10_s: Positive
    p90_s: Positive
    repeats: Whole


HEADER = ",".join(Sample._fields)
_WORDS = ("operator", "precision")


def with_samples(document: Document, folder: Path) -> Document:
    """The document of a measured profile with its table read in; any other as it is.

    Raises:
        InputError: the table is missing, truncated, or holds what cannot have been measured.
    """
    name = document.data.get("samples")
    if document.data.get("kind") != "measured" or not isinstance(name, str):
        return document
    place = document.places["samples",]
    if Path(name).name != name:
        raise InputError("no file beside this one", where=place, got=name)
    rows = list(_rows(read_text(_present(folder / name, place), "CSV"), name))
    expected = document.data.get("num_samples")
    if expected != len(rows):
        raise InputError(
            "the table of samples is not complete",
            where=f"{name}:{len(rows) + 1}",
            expected=f"{expected} samples, as num_samples says",
            got=str(len(rows)),
            hint="it was cut or changed after it was measured; profile again",
        )
    places = {("samples", index): f"{name}:{index + 2}" for index in range(len(rows))}
    data = document.data | {"samples": [list(row) for row in rows]}
    return Document(data, document.places | places)


def _present(path: Path, place: str) -> Path:
    if not path.is_file():
        raise InputError(
            "the table of samples is missing", where=place, expected=f"{path.name} beside it"
        )
    return path


def _rows(text: str, name: str) -> Iterator[Sample]:
    lines = text.split("\n")
    if lines[0] != HEADER:
        raise InputError(
            "these are not the columns of a profile",
            where=f"{name}:1",
            expected=HEADER,
            got=lines[0][:120],
        )
    if lines[-1]:
        raise InputError("the last line is cut off", where=f"{name}:{len(lines)}", got=lines[-1])
    for number, line in enumerate(lines[1:-1], start=2):
        yield _sample(line, f"{name}:{number}")


def _sample(line: str, where: str) -> Sample:
    cells = dict(zip(Sample._fields, line.split(","), strict=False))
    if len(cells) < len(Sample._fields) or line.count(",") >= len(Sample._fields):
        raise InputError(
            "a line with another number of cells",
            where=where,
            expected=str(len(Sample._fields)),
            got=str(line.count(",") + 1),
        )
    sample = Sample(**{key: _cell(key, cell, where) for key, cell in cells.items()})  # type: ignore[arg-type]  # by column
    if not sample.p10_s <= sample.median_s <= sample.p90_s:
        raise InputError("percentiles out of order", where=where, expected="p10 <= median <= p90")
    return sample


def _cell(key: str, cell: str, where: str) -> str | int | float:
    if key in _WORDS:
        return cell
    try:
        value = float(cell) if key.endswith("_s") else int(cell)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        sort = "a time above zero" if key.endswith("_s") else "a whole number of at least 1"
        raise InputError(f"{key} is wrong", where=where, expected=sort, got=repr(cell))
    return value
