"""The built-in task's size: one full fine-tuning and the default run, on two cores.

Not part of the default run: `pytest tests/benchmarks -s`, on a machine that is not busy.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from transformers import OPTModel

from mobisim import Options, load, run
from mobisim.training.data import load_task, mini_batches
from mobisim.training.tokens import backbone_directory

CORES = 2
PROBE_STEPS = 15
FULL_FINE_TUNING_S, DEFAULT_RUN_S = 25.0, 60.0


@contextmanager
def threads(count: int) -> Iterator[None]:
    """That many threads per kernel."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


def full_fine_tuning(num_steps: int | None = None) -> float:
    """Seconds of the default scenario's 375 steps with all of the backbone trained."""
    data = load_task("builtin", backbone="builtin", sequence_length=64).train
    backbone: Any = OPTModel.from_pretrained(backbone_directory("builtin")).train()
    head = torch.nn.Linear(backbone.config.hidden_size, 2)
    optimizer = torch.optim.AdamW([*backbone.parameters(), *head.parameters()], lr=1e-4)
    begun = time.perf_counter()
    for batch in mini_batches(len(data), 16, 3, 0)[:num_steps]:
        lengths = torch.tensor([len(data.tokens[i]) for i in batch])
        ids = torch.full((len(batch), int(lengths.max())), backbone.config.pad_token_id)
        for row, sample in enumerate(batch):
            ids[row, : lengths[row]] = torch.from_numpy(data.tokens[sample]).long()
        mask = torch.arange(ids.shape[1])[None, :] < lengths[:, None]
        hidden = backbone(ids, attention_mask=mask.long(), use_cache=False).last_hidden_state
        last = hidden[torch.arange(len(batch)), lengths - 1]
        loss = torch.nn.functional.cross_entropy(head(last), torch.from_numpy(data.labels[batch]))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return time.perf_counter() - begun


def report(what: str, seconds: float, limit: float) -> None:
    """One line; too long fails."""
    line = f"{what:<52} {seconds:6.1f} s, limit {limit:g}"
    sys.stderr.write(f"\n{line}\n")
    assert seconds <= limit, line


def fastest_threads() -> int:
    """How many threads to use: a second one costs more than it brings where a core is taken."""
    tried = {}
    for count in range(1, CORES + 1):
        with threads(count):
            tried[count] = full_fine_tuning(PROBE_STEPS)
    return min(tried, key=lambda count: tried[count])


def test_full_fine_tuning(benchmark: BenchmarkFixture) -> None:
    """One full-fine-tuning trajectory of the built-in task takes at most 25 s on two cores."""
    with threads(fastest_threads()):
        seconds = benchmark.pedantic(full_fine_tuning, rounds=1)  # type: ignore[no-untyped-call]
    report("full fine-tuning of the built-in task", seconds, FULL_FINE_TUNING_S)


@pytest.mark.filterwarnings("ignore")
def test_default_run(tmp_path: Path) -> None:
    """The default run, training and pictures included, takes at most 60 s on two cores."""
    begun = time.perf_counter()
    run(load("wifi_5mbps"), Options(out=tmp_path / "out"))
    report("the default run", time.perf_counter() - begun, DEFAULT_RUN_S)
