from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from mobisim.errors import InputError
from mobisim.training.glue import read_directory, read_hub, read_tsv


def write(tmp_path: Path, content: str, encoding: str = "utf-8") -> Path:
    path = tmp_path / "train.tsv"
    path.write_bytes(content.encode(encoding))
    return path


def test_sst2_layout(tmp_path: Path) -> None:
    """A header names sentence and label; each example knows its line."""
    found = read_tsv(write(tmp_path, "sentence\tlabel\nfine film \t1\nnot so\t0\n"))
    assert found.texts == ("fine film ", "not so")
    assert found.labels == (1, 0)
    assert found.places[1].endswith("train.tsv:3")


def test_mrpc_layout_with_byte_order_mark(tmp_path: Path) -> None:
    """Pairs come from the two strings; the mark does not hide the label column."""
    header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
    found = read_tsv(write(tmp_path, header + "1\t5\t6\tHe said.\tShe said.\r\n", "utf-8-sig"))
    assert found.texts == (("He said.", "She said."),)
    assert found.labels == (1,)


def test_cola_layout_without_header(tmp_path: Path) -> None:
    """The first line of a headless file is an example and not lost."""
    found = read_tsv(write(tmp_path, "gj04\t1\t\tIt rained.\ngj04\t0\t*\tRained it.\n"))
    assert found.texts == ("It rained.", "Rained it.")
    assert found.labels == (1, 0)


def test_quotes_are_text(tmp_path: Path) -> None:
    """An open quotation mark does not swallow the following lines."""
    found = read_tsv(write(tmp_path, 'sentence\tlabel\n" so it began\t1\nand ended "\t0\n'))
    assert found.texts == ('" so it began', 'and ended "')


def test_only_newlines_end_lines(tmp_path: Path) -> None:
    """Exotic separators inside a sentence do not split it."""
    found = read_tsv(write(tmp_path, "sentence\tlabel\none\x85two\u2028three\t1\n"))
    assert found.texts == ("one\x85two\u2028three",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"train\.tsv\n  an empty task file"),
        ("\n\n", r"train\.tsv\n  an empty task file"),
        ("sentence\tlabel\n", r"train\.tsv:1\n  a task without examples"),
        ("sentence\tmark\nfine\t1\n", r"train\.tsv:1\n  no label column"),
        ("words\tlabel\nfine\t1\n", r"train\.tsv:1\n  no text column"),
        ("fine\t1\n", r"train\.tsv:1\n  no known column"),
        ("sentence\tlabel\nfine\tgood\n", r"train\.tsv:2\n  not a label\n.*\n  got: 'good'"),
        ("sentence\tlabel\nfine\t-1\n", r"train\.tsv:2\n  not a label"),
        ("sentence\tlabel\nfine\t0.5\n", r"train\.tsv:2\n  not a label"),
        ("sentence\tlabel\nfine\t1\nbad\n", r"train\.tsv:3\n  a ragged row"),
    ],
)
def test_malformed_files_name_file_and_line(tmp_path: Path, content: str, message: str) -> None:
    """Each way to be wrong is told with the line that it is on."""
    with pytest.raises(InputError, match=message):
        read_tsv(write(tmp_path, content))


def test_other_encodings_are_refused(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 are an error and not silently replaced."""
    with pytest.raises(InputError, match="not UTF-8"):
        read_tsv(write(tmp_path, "sentence\tlabel\ncafé\t1\n", "latin-1"))


def test_missing_split_is_named(tmp_path: Path) -> None:
    """A directory without dev.tsv cannot be judged on."""
    write(tmp_path, "sentence\tlabel\nfine\t1\n")
    with pytest.raises(InputError, match=r"dev\.tsv"):
        read_directory(tmp_path)


class Table(list[dict[str, Any]]):
    """A split as the datasets library gives it: rows, and their columns."""

    @property
    def column_names(self) -> list[str]:
        return list(self[0])


def fake_hub(monkeypatch: pytest.MonkeyPatch, splits: dict[str, Table]) -> list[Any]:
    """Replaces the hub's libraries by one that serves these splits."""
    asked: list[Any] = []

    def load_dataset(name: str, configuration: str | None) -> dict[str, Table]:
        asked.append((name, configuration))
        return splits

    monkeypatch.setitem(sys.modules, "huggingface_hub", ModuleType("huggingface_hub"))
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return asked


def test_hub_splits_are_read_by_column(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub task gives its train and validation splits, the configuration after the name."""
    rows = Table([{"idx": 0, "sentence": "fine", "label": 1}])
    asked = fake_hub(monkeypatch, {"train": rows, "validation": rows, "test": rows})
    train, evaluation = read_hub("hf:nyu-mll/glue/sst2")
    assert asked == [("nyu-mll/glue", "sst2")]
    assert (train.texts, train.labels) == (("fine",), (1,))
    assert evaluation.places == ("hf:nyu-mll/glue/sst2[validation]:1",)


def test_hub_task_without_training_split_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set that has only a test split cannot be trained on."""
    fake_hub(monkeypatch, {"test": Table([{"text": "fine", "label": 1}])})
    with pytest.raises(InputError, match="no such split"):
        read_hub("hf:someone/data")


def test_missing_datasets_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the datasets library the message says how to get it."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"mobisim\[hub\]"):
        read_hub("hf:someone/data")
