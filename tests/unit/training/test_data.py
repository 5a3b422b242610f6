from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobisim.errors import InputError
from mobisim.training.data import TaskData, find_directory, load_task, mini_batches, read_task


def test_task_is_tokenised_and_labelled(task: TaskData) -> None:
    """Each sample has its own tokens, cut to the sequence length, and its label."""
    assert (len(task.train), len(task.evaluation), task.num_classes) == (44, 40, 2)
    assert task.train.lengths.max() == 12
    words = str(task.train.texts[0]).split()[:12]
    assert task.train.tokens[0].tolist() == [int(word[1:]) + 2 for word in words]


@given(
    num_samples=st.integers(1, 50),
    batch_size=st.integers(1, 60),
    epochs=st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_each_epoch_sees_each_sample_once(
    num_samples: int, batch_size: int, epochs: int, seed: int
) -> None:
    """An epoch is a permutation cut into batches of which only the last may be short."""
    batches = mini_batches(num_samples, batch_size, epochs, seed)
    each = -(-num_samples // batch_size)
    assert len(batches) == each * epochs
    for epoch in range(epochs):
        own = batches[epoch * each : (epoch + 1) * each]
        assert sorted(np.concatenate(own)) == list(range(num_samples))
        assert all(len(batch) == batch_size for batch in own[:-1])


def test_more_epochs_change_nothing_before_them() -> None:
    """The batches of the first epochs do not depend on how many follow."""
    short, long = (mini_batches(20, 6, epochs, seed=3) for epochs in (2, 5))
    assert all(np.array_equal(a, b) for a, b in zip(short, long, strict=False))


def test_epochs_and_seeds_differ() -> None:
    """Every epoch has an order of its own, and so has every seed."""
    first, second = mini_batches(50, 50, 2, seed=0)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, mini_batches(50, 50, 1, seed=1)[0])


def subset(
    directory: Path,
    backbone: Path,
    num_samples: int,
    seed: int = 0,
    validation: float | None = None,
) -> TaskData:
    return load_task(
        str(directory),
        backbone=str(backbone),
        sequence_length=8,
        num_samples=num_samples,
        validation=validation,
        seed=seed,
    )


def test_smaller_subset_lies_in_the_larger(
    tmp_path: Path, model_directory: Path, make_task: Callable[..., Path]
) -> None:
    """The subset is seeded, nested, and leaves the evaluation whole."""
    make_task(tmp_path)
    small, large, other = (
        subset(tmp_path, model_directory, *pair) for pair in ((5, 0), (20, 0), (5, 1))
    )
    assert len(small.train) == 5
    assert set(small.train.texts) <= set(large.train.texts)
    assert small.train.texts != other.train.texts
    assert len(small.evaluation) == 40


def test_validation_is_cut_from_the_training_samples(
    tmp_path: Path, model_directory: Path, make_task: Callable[..., Path]
) -> None:
    """A seeded share of them, none of it left to train on; the held-out split stays whole."""
    task = make_task(tmp_path)
    whole = subset(task, model_directory, 1000)
    cut, other = (subset(task, model_directory, 1000, seed, validation=0.25) for seed in (0, 1))
    assert (len(cut.train), len(cut.evaluation)) == (33, 11)
    assert sorted([*cut.train.texts, *cut.evaluation.texts]) == sorted(whole.train.texts)
    assert cut.evaluation.texts != other.evaluation.texts
    assert cut.held_out is not None
    assert cut.held_out.texts == cut.at_the_end.evaluation.texts == whole.evaluation.texts


def test_validation_leaves_something_to_train_on(
    tmp_path: Path, model_directory: Path, make_task: Callable[..., Path]
) -> None:
    """A share of nearly all samples is refused."""
    task = make_task(tmp_path)
    with pytest.raises(InputError, match="nothing is left to train on"):
        subset(task, model_directory, 1, validation=0.9)


def test_subset_beyond_the_task_is_the_task(
    tmp_path: Path, model_directory: Path, make_task: Callable[..., Path]
) -> None:
    """num_samples bounds the data and never repeats it."""
    assert len(subset(make_task(tmp_path), model_directory, 1000).train) == 44


@pytest.mark.parametrize("name", ["SST-2", "sst2", "sst-2"])
def test_names_are_looked_up_loosely(tmp_path: Path, name: str) -> None:
    """A task's directory is found whatever the case and hyphens of its name."""
    (tmp_path / "SST-2").mkdir()
    assert find_directory(name, [tmp_path / "absent", tmp_path]) == tmp_path / "SST-2"


def test_data_directory_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """$MOBISIM_DATA is searched before the shared data."""
    (tmp_path / "cola").mkdir()
    monkeypatch.setenv("MOBISIM_DATA", str(tmp_path))
    assert find_directory("CoLA") == tmp_path / "cola"


def test_unknown_task_names_the_places(tmp_path: Path) -> None:
    """A task found nowhere says where it was looked for."""
    with pytest.raises(InputError, match=r"no task 'nosuch'(.|\n)*MOBISIM_DATA") as caught:
        read_task("nosuch", [tmp_path])
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("train", "dev", "message"),
    [
        ("a\t1\nb\t1\n", "a\t1\n", r"unusable labels(.|\n)*got: 1"),
        ("a\t0\nb\t1000000\n", "a\t0\n", "unusable labels"),
        ("a\t0\nb\t1\n", "a\t2\n", r"dev\.tsv:2\n  an unknown label"),
        ("a\t0\n\t1\n", "a\t0\n", r"train\.tsv:3\n  a sample without tokens"),
    ],
)
def test_unusable_tasks_are_refused(
    tmp_path: Path, model_directory: Path, train: str, dev: str, message: str
) -> None:
    """One class only, gaps among labels, labels unseen in training and empty texts are named."""
    for name, rows in (("train", train), ("dev", dev)):
        (tmp_path / f"{name}.tsv").write_text("sentence\tlabel\n" + rows)
    with pytest.raises(InputError, match=message):
        load_task(str(tmp_path), backbone=str(model_directory), sequence_length=8)


def test_data_never_imports_torch() -> None:
    """A timing-only run tokenises without loading torch or transformers."""
    check = (
        "import sys, mobisim.training.data as d; d.mini_batches(9, 2, 1, 0); "
        "import mobisim.training.tokens, tokenizers; "
        "sys.exit(bool({'torch', 'transformers', 'pandas'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
