"""How far predicted training steps are off: models of transformers and peft that no grid has seen.

Steps are forward, loss, backward, AdamW's update, by full fine-tuning, LoRA and BitFit, timed
between the grid's own cases, in one run. Not part of the default run: on a machine that is not
busy, `pytest tests/benchmarks/test_held_out_training.py -s`; or, to publish,
`PYTHONPATH=tests python tests/benchmarks/test_held_out_training.py SECONDS THREADS CLOCK FOLDER`.
"""

from __future__ import annotations

import gc
import os
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from test_held_out_shapes import SEED, VOCABULARY, Log, Outcome, said, write_shapes
from torch import nn
from transformers import AutoConfig, AutoModel
from tuned_models import CLASSES, TUNED, Classifier, checkpoint_blocks

from mobisim.cost.architecture import architecture
from mobisim.cost.operators import Operators
from mobisim.cost.training import Head, Training
from mobisim.cost.training_time import MeasuredTraining
from mobisim.cost.work import BatchShape
from mobisim.profiling.bundle import summarise
from mobisim.profiling.cases import FULL, Bench, Case, Grid, Laps, device_cases
from mobisim.profiling.measure import Limits, Session
from mobisim.profiling.stopwatch import Timed
from mobisim.profiling.training_cases import training_cases
from mobisim.scenario.methods import METHODS

PRECISION = "fp32"
MODELS: dict[str, dict[str, Any]] = {
    "OPT-125M, 6 of 12 layers": {
        "model_type": "opt", "hidden_size": 768, "num_attention_heads": 12, "ffn_dim": 3072,
        "num_hidden_layers": 6, "max_position_embeddings": 2048, "word_embed_proj_dim": 768,
        "dropout": 0.0, "attention_dropout": 0.0,
    },
    "MobileLLM-125M, 6 of 30 layers": {
        "model_type": "llama", "hidden_size": 576, "num_attention_heads": 9,
        "num_key_value_heads": 3, "intermediate_size": 1536, "num_hidden_layers": 6,
        "max_position_embeddings": 2048,
    },
    "MiniLM-L6": {
        "model_type": "bert", "hidden_size": 384, "num_attention_heads": 12,
        "intermediate_size": 1536, "num_hidden_layers": 6, "max_position_embeddings": 512,
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    },
}  # fmt: skip
METHODS_OF = {
    "opt": ("full", "lora", "bitfit"),
    "llama": ("full", "lora"),
    "bert": tuple(TUNED)[:3],
}
SHAPES = ((1, 100), (4, 48), (8, 24), (3, 120))
TARGETS = {"full": (0.05, 0.12), "lora": (0.05, 0.12), "bitfit": (0.05, 0.12)}
TARGETS["checkpointing"] = TARGETS["all"] = (0.05, 0.12)


@dataclass(frozen=True)
class HeldOut:
    """A step that the grid does not have: how it is timed, and what cost/ calls it."""

    group: str
    case: Case
    training: Training
    batch: int
    length: int

    def predicted_s(self, operators: Operators) -> float:
        """Its time from the grid's samples."""
        shape = BatchShape.uniform(self.batch, self.length)
        found = MeasuredTraining(operators, "adamw").step(self.training, shape)
        assert found is not None, f"{self.case.name} is not covered"
        return found.total_s


def held_out(bench: Bench) -> Iterator[HeldOut]:
    """All models with their methods, each at two of the shapes, drawn by a seed."""
    draw = random.Random(SEED)
    for name, sizes in MODELS.items():
        config = AutoConfig.for_model(**(sizes | {"vocab_size": VOCABULARY, "pad_token_id": 1}))
        for method in METHODS_OF[config.model_type]:
            for batch, length in draw.sample(SHAPES, 2):
                yield one(bench, name, config, method, batch, length)
        if config.model_type == "opt":
            yield one(bench, name, config, "full", *SHAPES[0], checkpointing=True)


def one(
    bench: Bench, name: str, config: Any, method: str, batch: int, length: int,
    *, checkpointing: bool = False,
) -> HeldOut:  # fmt: skip
    """A model with its method at one shape."""
    sizes, tokens = architecture(config.to_dict()), batch * length
    training = Training(METHODS[method], sizes, Head(CLASSES), checkpointing=checkpointing)
    flop = 3 * sizes.num_layers * sizes.block_flop(tokens, tokens * length)
    group = "checkpointing" if checkpointing else method
    build = Step(bench, config, method, batch, length, checkpointing)
    case = Case(f"{name} {group} {batch}x{length}", flop, build)
    return HeldOut(group, case, training, batch, length)


@dataclass(frozen=True)
class Step:
    """Builds a model made trainable by a method, and what times one of its steps."""

    bench: Bench
    config: Any
    method: str
    batch: int
    length: int
    checkpointing: bool

    def __call__(self) -> Callable[[], Laps]:
        """Built anew for each case: what trains differs, and is kept."""
        family = self.config.model_type
        options = {"add_pooling_layer": False} if family == "bert" else {}
        base = AutoModel.from_config(self.config, **options)  # type: ignore[no-untyped-call]
        if self.checkpointing:
            checkpoint_blocks(base)
        base = TUNED[self.method](base, family)
        model = Classifier(base, self.config.hidden_size, is_decoder=family != "bert").train()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        ids = torch.randint(2, VOCABULARY, (self.batch, self.length))
        optimizer = torch.optim.AdamW(trained, lr=1e-5)
        return lambda: self._laps(model, optimizer, ids)

    def _laps(self, model: nn.Module, optimizer: torch.optim.Optimizer, ids: Any) -> Laps:
        watch = self.bench.watch
        gc.collect()
        watch.begin()
        model(ids).backward()
        optimizer.step()
        optimizer.zero_grad()
        watch.lap(Timed("whole", 1, 1, 1, 1, PRECISION))
        return watch.laps()


def measured(
    budget_s: float, threads: int, clock: str = "wall", grid: Grid = FULL
) -> tuple[list[HeldOut], Log]:
    """Grid and held-out steps, timed interleaved."""
    torch.set_num_threads(threads)
    bench = Bench(torch.device("cpu"), clock)
    own = device_cases(bench, grid, (PRECISION,), codecs=())
    own += training_cases(bench, grid, PRECISION)
    held = list(held_out(bench))
    log = Log(frozenset(case.name for case in own))
    Session(Limits(budget_s, width=0.01, seed=SEED), log.add, print).run(
        [*own, *(one.case for one in held)]
    )
    return held, log


def outcomes(held: list[HeldOut], log: Log, threads: int) -> list[Outcome]:
    """All held-out steps, predicted from the grid's samples; once more as one group."""
    samples = tuple(summarise(log.until(log.spent_s), threads))
    operators = Operators("grid", samples, PRECISION, threads)
    timed = {name for _, name, _ in log.rows}
    found = [
        Outcome(one.group, one.case.name, one.predicted_s(operators), log.actual_s(one.case.name))
        for one in held
        if one.case.name in timed
    ]
    return found + [Outcome("all", o.name, o.predicted_s, o.actual_s) for o in found]


def test_held_out_training() -> None:
    """Median and 90th percentile of all steps keep their targets."""
    held, log = measured(float(os.environ.get("MOBISIM_BENCH_S", "420")), threads=1)
    found = [one for one in outcomes(held, log, 1) if one.group == "all"]
    sys.stderr.write(said(found, {"all": TARGETS["all"]}))
    errors = sorted(abs(one.error) for one in found)
    assert errors[len(errors) // 2] <= TARGETS["all"][0]
    assert errors[int(len(errors) * 0.9)] <= TARGETS["all"][1]


def publish(budget_s: float, threads: int, clock: str, folder: Path) -> None:
    """Measure, and write the steps and the table."""
    held, log = measured(budget_s, threads, clock)
    found = outcomes(held, log, threads)
    folder.mkdir(parents=True, exist_ok=True)
    steps = [one for one in found if one.group != "all"]
    write_shapes(folder / f"training-{threads}t-{clock}.csv", steps)
    print(f"grid measured for {log.spent_s:.0f} s")  # noqa: T201
    print(said(found, TARGETS))  # noqa: T201


if __name__ == "__main__":
    publish(float(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
