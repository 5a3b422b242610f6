"""Bytes of each method's messages, counted by the costs, against what its trainer really packs."""

from __future__ import annotations

import json

import pytest

from mobisim.cost.system import System
from mobisim.cost.traffic import Traffic, traffic
from mobisim.lessons import make_trainer
from mobisim.scenario.document import read_text
from mobisim.scenario.load import load
from mobisim.scenario.profiles import TransformerProfile
from mobisim.training.learner import Learner
from mobisim.training.tokens import backbone_directory
from mobisim.training.trainer import Trainer
from mobisim.training.tuned_trainer import ForwardTrainer, SplitTrainer, TunedTrainer
from mobisim.workload import Planned, plan

SMALL = ("training.num_samples=20", "training.epochs=2", "training.batch_size=8")
NEXT_TOKEN = ("training.head=next_token", "training.target=null")


def _run(*overrides: str) -> tuple[System, Planned, Learner]:
    """A small training of the built-in backbone, timed as itself."""
    config = json.loads(read_text(backbone_directory("builtin") / "config.json", "configuration"))
    scenario = load("wifi_5mbps", [*SMALL, *overrides]).model_copy(
        update={"model": TransformerProfile(name="builtin", config=config)}
    )
    planned = plan(scenario)
    assert planned.data is not None
    system = System(scenario, planned.data.num_classes)
    return system, planned, make_trainer(system, planned)


def _predicted(system: System, planned: Planned, batch: int) -> Traffic:
    assert planned.workload.order is not None
    return traffic(system, planned.workload.shapes[planned.workload.order[batch]])


def _packed(trainer: Learner, planned: Planned, batch: int) -> Traffic:
    """What the trainer packs of what the server has not kept."""
    if isinstance(trainer, Trainer):
        samples = planned.samples[batch]
        if planned.hits:
            samples = samples[~planned.hits[batch]]
        sent = trainer.messages(batch, samples=samples) if len(samples) else []
        return Traffic(tuple(map(len, sent)))
    if isinstance(trainer, SplitTrainer | ForwardTrainer):
        up, down = map(len, trainer.exchange(batch))
        return Traffic((up,), down)
    assert isinstance(trainer, TunedTrainer)
    return Traffic((len(trainer.upload(batch)),))


@pytest.mark.parametrize(
    "overrides",
    [
        ("method=pae-mobillm",),
        ("method=pae-mobillm", "granularity=layer"),
        ("method=pae-mobillm", "training.pooling=mean", "training.padding=longest"),
        ("method=pae-mobillm", "side_network.learns=labels", *NEXT_TOKEN),
        ("wire.tokens=loss", *NEXT_TOKEN),
        ("wire.tokens=loss", "training.pooling=first"),
        ("wire.keep={score: norm, tokens: 0.3, taps: 2}", "training.pooling=mean"),
        ("wire.keep={score: norm, tokens: 0.5}", *NEXT_TOKEN),
        ("side_network.learns=residuals", "side_network.prediction=head"),
        ("method=split-lora", "wire.codec=int8"),
        ("method=split-lora", "wire.codec=fp16", "tuning.cut=1", "training.padding=none"),
        ("method=fwdllm", "tuning.perturbations=3"),
        ("method=server-only",),
        ("method=server-only", "training.padding=none"),
        ("method=server-only", *NEXT_TOKEN),
    ],
    ids=" ".join,
)
def test_bytes_up_and_down_are_those_packed(overrides: tuple[str, ...]) -> None:
    """Each message of the first mini-batches, exactly."""
    system, planned, trainer = _run(*overrides)
    for batch in (0, 2):  # of eight samples and of four
        assert _predicted(system, planned, batch) == _packed(trainer, planned, batch)


@pytest.mark.parametrize("eviction", ["fifo", "lru"])
def test_what_was_kept_is_not_sent_again(eviction: str) -> None:
    """A cache for half of the samples: each mini-batch brings those that are not in it."""
    system, planned, trainer = _run(
        "method=pae-mobillm", "cache.capacity=5 kB", f"cache.eviction={eviction}"
    )
    hits = sum(int(hit.sum()) for hit in planned.hits)
    assert 0 < hits < 20
    assert 0 < planned.workload.kept_bytes <= 5000
    for batch in range(6):
        assert _predicted(system, planned, batch) == _packed(trainer, planned, batch)


def test_everything_is_kept_unless_the_capacity_ends() -> None:
    """The second epoch sends nothing; what is kept is what came up, headers apart."""
    system, planned, _ = _run("method=pae-mobillm", "training.padding=none")
    sent = [_predicted(system, planned, batch).up for batch in range(6)]
    assert sent[3:] == [()] * 3
    assert planned.workload.kept_bytes == sum(sum(up) - 32 for up in sent[:3])
