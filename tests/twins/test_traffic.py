"""Bytes of each method's messages, counted by the costs, against what its trainer really packs."""

from __future__ import annotations

import re

import pytest
import torch
from builtin_runs import Run, small_run

from mobisim.cost.traffic import Traffic, delivered_bytes, round_traffic, traffic
from mobisim.scenario.methods import METHODS
from mobisim.training.plain_messages import pack_slopes, pack_update
from mobisim.training.trainer import Trainer
from mobisim.training.tuned_trainer import ForwardTrainer, SplitTrainer, TunedTrainer

ONCE = ("training.epochs=1",)
BELOW = re.compile(r"layers\.0\.")  # what lies below a cut after the first layer
NEXT_TOKEN = ("training.head=next_token", "training.target=null")


def _predicted(run: Run, batch: int) -> Traffic:
    return traffic(run.system, run.shape(batch))


def _packed(run: Run, batch: int) -> Traffic:
    """What the trainer packs of what the server has not kept."""
    trainer, planned = run.trainer, run.planned
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
        *(
            (f"method={name}", *ONCE)
            for name, info in METHODS.items()
            if info.up and (info.rounds is None or info.replies)
        ),
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
        ("method=server-only", "training.padding=none"),
        ("method=server-only", *NEXT_TOKEN),
    ],
    ids=" ".join,
)
def test_bytes_up_and_down_are_those_packed(overrides: tuple[str, ...]) -> None:
    """Each message of the first mini-batches, exactly."""
    run = small_run(*overrides)
    for batch in (0, 2):  # of eight samples and of four
        assert _predicted(run, batch) == _packed(run, batch)


@pytest.mark.parametrize("method", [name for name, info in METHODS.items() if info.rounds])
@pytest.mark.parametrize("head", [(), NEXT_TOKEN], ids=["classification", "next-token"])
def test_bytes_of_a_round_are_those_packed(method: str, head: tuple[str, ...]) -> None:
    """All that trains on the device, down and up, or slopes up; what else is a mini-batch's."""
    run = small_run(f"method={method}", "tuning.cut=1", *ONCE, *head)
    cut, up = METHODS[method].site == "split", METHODS[method].up
    trained = run.trainer.trained().items()
    own = [value for key, value in trained if BELOW.search(key) or not cut]
    model = len(pack_update(0, own))
    slopes = len(pack_slopes(0, torch.zeros(run.system.scenario.tuning.perturbations)))
    found = round_traffic(run.system, run.shape(0))
    assert (found.down, found.up) == (model, slopes if up == ("scalars",) else model)
    assert bool(_predicted(run, 0).up) == cut


@pytest.mark.parametrize("eviction", ["fifo", "lru"])
def test_what_was_kept_is_not_sent_again(eviction: str) -> None:
    """A cache for half of the samples: each mini-batch brings those that are not in it."""
    run = small_run("method=pae-mobillm", "cache.capacity=5 kB", f"cache.eviction={eviction}")
    hits = sum(int(hit.sum()) for hit in run.planned.hits)
    assert 0 < hits < 20
    assert 0 < run.planned.workload.kept_bytes <= 5000
    for batch in range(6):
        assert _predicted(run, batch) == _packed(run, batch)


def test_everything_is_kept_unless_the_capacity_ends() -> None:
    """The second epoch sends nothing; what is kept is what came up, headers apart."""
    run = small_run("method=pae-mobillm", "training.padding=none")
    sent = [_predicted(run, batch).up for batch in range(6)]
    assert sent[3:] == [()] * 3
    assert run.planned.workload.kept_bytes == sum(sum(up) - 32 for up in sent[:3])


@pytest.mark.parametrize("name", METHODS)
def test_what_is_delivered_is_what_trained_at_the_server(name: str) -> None:
    """In fp32, where the device has not got it already; of a cut backbone, what lies above."""
    run = small_run(f"method={name}", *ONCE, "tuning.cut=1")
    method = METHODS[name]
    has_it = "update" in method.down or (method.site == "device" and method.rounds is None)
    trained = {} if has_it else run.trainer.trained()
    has_half = method.site == "split" and method.rounds is None
    there = (value for key, value in trained.items() if not (has_half and BELOW.search(key)))
    assert delivered_bytes(run.system) == 4 * sum(value.numel() for value in there)
