"""The tiny backbone and task that these tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import SEQUENCE_LENGTH, opt, save_backbone, write_task
from transformers import OPTForCausalLM

from mobisim.training.backbone import Backbone, load_backbone
from mobisim.training.data import TaskData, load_task


@pytest.fixture(scope="session")
def make_opt() -> Callable[..., OPTForCausalLM]:
    return opt


@pytest.fixture(scope="session")
def make_task() -> Callable[..., Path]:
    return write_task


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("opt"))


@pytest.fixture(scope="session")
def backbone(model_directory: Path) -> Backbone:
    return load_backbone(str(model_directory))


@pytest.fixture(scope="session")
def task(model_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> TaskData:
    directory = write_task(tmp_path_factory.mktemp("task"))
    return load_task(str(directory), backbone=str(model_directory), sequence_length=SEQUENCE_LENGTH)
