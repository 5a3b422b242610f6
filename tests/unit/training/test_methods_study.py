"""The published study of methods: its text is its tables', and what may be said of them."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

GALLERY = Path(__file__).parents[3] / "results" / "gallery"


@pytest.fixture(scope="module")
def study() -> Any:
    """The command that made it."""
    path = GALLERY / "methods" / "make.py"
    spec = importlib.util.spec_from_file_location("methods_study", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look annotations up
    spec.loader.exec_module(module)
    return module


def _codecs_on_minilm() -> dict[str, list[float]]:
    """Accuracy by codec in percent, seeds in order."""
    found: dict[str, list[float]] = {}
    with (GALLERY / "minilm_codecs" / "points.csv").open(newline="", encoding="utf-8") as file:
        for row in sorted(csv.DictReader(file), key=lambda row: int(row["seed"])):
            found.setdefault(row["codec"], []).append(100 * float(row["final_metric"]))
    return found


def _codecs_on_the_built_in_task(study: Any) -> dict[str, list[float]]:
    names = {"fp16": "mobillm, fp16", "fp4": "mobillm, fp4", "int2": "mobillm, int2"}
    found = study.Study("builtin")
    return {codec: found.accuracies(name) for codec, name in (names | {"nf4": "mobillm"}).items()}


@pytest.mark.parametrize("task", ["builtin", "minilm"])
def test_four_bits_cost_at_most_a_point_and_two_bits_cost_something(study: Any, task: str) -> None:
    """In the mean over five seeds, against fp16."""
    found = _codecs_on_minilm() if task == "minilm" else _codecs_on_the_built_in_task(study)
    assert all(len(found[codec]) == 5 for codec in ("fp16", "fp4", "nf4", "int2"))
    assert fmean(found["fp4"]) > fmean(found["fp16"]) - 1
    assert fmean(found["nf4"]) > fmean(found["fp16"]) - 1
    assert fmean(found["int2"]) < fmean(found["fp16"])


def test_the_text_is_what_the_tables_say(study: Any) -> None:
    """Nobody has edited it, and the tables have not changed since."""
    studies = [one for one in map(study.Study, study.TASKS) if one.done()]
    text = (GALLERY / "methods" / "README.md").read_text(encoding="utf-8")
    assert text == study.text_of(studies)
