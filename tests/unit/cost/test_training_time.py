"""A training step's time: which operators each method calls, and when nothing is said."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import tuned_models
from bundles import law_s, rows, write_bundle

from mobisim.cost.architecture import Architecture, architecture
from mobisim.cost.operators import Operators
from mobisim.cost.tape import Calls
from mobisim.cost.training import Head, Training
from mobisim.cost.training_time import MeasuredTraining, training_model
from mobisim.cost.work import BatchShape
from mobisim.fit_methods import device_seconds, fit_of
from mobisim.scenario.load import load
from mobisim.scenario.methods import METHODS, Lora
from mobisim.scenario.profiles import Roofline
from mobisim.scenario.schema import DeviceGroup

SHAPE = BatchShape.uniform(4, 24)
ON_DEVICE = [name for name, method in METHODS.items() if method.site == "device"]
OPT_125M = {
    "model_type": "opt", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "ffn_dim": 3072, "vocab_size": 50272, "max_position_embeddings": 2048,
}  # fmt: skip


def sizes(family: str) -> Architecture:
    """A small architecture of that family."""
    return architecture(tuned_models.CONFIGS[family])


def flop(calls: Calls) -> float:
    """FLOPs of the products and attentions among these calls."""
    total = 0.0
    for (operator, its), count in calls.items():
        name, _, part = operator.partition(":")
        if name == "linear" and part != "grad_bias":
            total += count * 2 * math.prod(its)
        elif name == "attention":
            tokens, length, width, _ = its
            total += count * 4 * tokens * length * width * (2 if "backward" in part else 1)
    return total


@pytest.mark.parametrize("method", ON_DEVICE)
@pytest.mark.parametrize(
    "family", ["opt", "opt-post-norm", "gpt2", "llama", "bert", "gemma3", "phi"]
)
def test_the_calls_are_all_of_the_products(family: str, method: str) -> None:
    """Their FLOPs are those that the tape counts, which torch's own counter confirms."""
    backbone = sizes(family)
    found = Training(METHODS[method], backbone, Head(2)).tally(SHAPE)
    head = 2.0 * SHAPE.num_samples * backbone.embedding_width * 2  # is not timed
    assert flop(found.forward_calls) == pytest.approx(found.forward_flop - head, rel=1e-9)
    backward = found.backward_flop - head * (2 if found.backward_calls else 1)
    if isinstance(METHODS[method].bypass, Lora) and family != "gpt2":
        # Fused attention computes the gradient of the first block's key, which nothing needs.
        backward += 2 * SHAPE.num_pairs * backbone.attention_width
    assert flop(found.backward_calls) == pytest.approx(backward, rel=1e-9)


@pytest.mark.parametrize("method", ON_DEVICE)
def test_the_updated_tensors_are_all_that_trains(method: str) -> None:
    """Sizes times numbers are the trainable parameters."""
    found = Training(METHODS[method], sizes("opt"), Head(2)).tally(SHAPE)
    assert sum(size * count for size, count in found.updated.items()) == found.trainable


def called(method: str, operator: str, *, checkpointing: bool = False) -> int:
    """How often a step on the small OPT, of three blocks, calls an operator."""
    run = Training(METHODS[method], sizes("opt"), Head(2), checkpointing=checkpointing)
    found = run.tally(SHAPE)
    both = found.forward_calls + found.backward_calls
    return sum(count for (name, _), count in both.items() if name == operator)


def test_each_method_calls_what_its_gradients_need() -> None:
    """Matrices' gradients where they train, and inputs' from the first trained part on."""
    blocks = 3
    assert called("full", "linear:grad_weight") == 6 * blocks
    assert called("bitfit", "linear:grad_weight") == 0
    assert called("bitfit", "linear:grad_bias") == 6 * blocks
    assert called("lora", "linear:grad_weight") == 4 * blocks
    # In the first block nothing before the low-rank pairs needs a gradient, nor the key.
    first, rest = 3 + 2, 6 + 4
    assert called("lora", "linear:grad_input") == first + (blocks - 1) * rest
    assert called("lora", "linear") == 3
    # Where a value was read by two, or by three, gradients are added up.
    assert called("full", "add:backward") == blocks * (1 + 1 + 2)


def test_a_frozen_backbone_runs_without_a_graph() -> None:
    """LST's backbone is forward only; gradients stay within the ladder."""
    found = Training(METHODS["lst"], sizes("opt"), Head(2)).tally(SHAPE)
    wide = [its for (name, its), _ in found.backward_calls.items() if name == "linear:grad_input"]
    assert all(min(its[1:]) < sizes("opt").width for its in wide)
    assert called("lst", "attention:causal") == 3


def test_checkpointing_computes_blocks_once_without_and_once_with_a_graph() -> None:
    """The first forward keeps nothing; the second comes with the backward."""
    assert called("full", "attention:causal") == 0
    assert called("full", "attention:causal", checkpointing=True) == 3
    assert called("full", "attention:causal:training", checkpointing=True) == 3
    assert called("full", "linear", checkpointing=True) == 6 * 3


OPERATORS = Operators("bench", tuple(rows(training=True)), "fp32", 1)


def test_a_step_is_the_sum_of_its_operators() -> None:
    """BitFit of a twelve-layer model on a machine whose every operator follows a known law."""
    model = MeasuredTraining(OPERATORS, "adamw")
    shape = BatchShape.uniform(4, 64)
    found = model.step(Training(METHODS["bitfit"], architecture(OPT_125M), Head(2)), shape)
    assert found is not None
    t, d = 256, 768
    linears = 4 * law_s(t, d, d) + law_s(t, d, 4 * d) + law_s(t, 4 * d, d)
    around = 2 * law_s(t, d) + law_s(t, d, 64) + law_s(t, 4 * d) + 2 * law_s(t, d)
    bias = 4 * law_s(t, d, d) + law_s(t, d, 4 * d) + law_s(t, 4 * d, d)
    back = linears + law_s(t, d, 64) + law_s(t, 4 * d) + 2 * 2 * law_s(t, d) + 4 * law_s(t, d)
    updates = 7 * law_s(1, d) + law_s(1, 4 * d)
    assert found.forward_s == pytest.approx(12 * (linears + around), rel=0.05)
    assert found.backward_s == pytest.approx(12 * (bias + back), rel=0.05)
    assert found.update_s == pytest.approx(12 * updates, rel=0.1)  # three sizes of a bent law
    assert found.total_s == pytest.approx(12 * (linears + around + bias + back + updates), rel=0.05)


def test_nothing_is_said_of_what_was_not_measured(tmp_path: Path) -> None:
    """Backward parts that nobody timed, other precisions and larger shapes: None."""
    run = Training(METHODS["bitfit"], architecture(OPT_125M), Head(2))
    forward_only = Operators("bench", tuple(rows()), "fp32", 1)
    assert MeasuredTraining(forward_only, "adamw").step(run, SHAPE) is None
    assert MeasuredTraining(OPERATORS, "adamw").step(run, BatchShape.uniform(64, 64)) is None
    scenario = load("wifi_5mbps", (f"devices[0].profile={write_bundle(tmp_path)}",))
    scenario = load(
        "wifi_5mbps",
        (f"devices[0].profile={write_bundle(tmp_path)}", "devices[0].profile.memory=8 GiB"),
    )
    assert device_seconds(fit_of(scenario), "lora") is None


def test_a_roofline_tells_of_training_too() -> None:
    """Bound by compute, a step lasts at least its FLOPs over the rate; the update comes besides."""
    scenario = load("wifi_5mbps")
    group: DeviceGroup = scenario.devices[0]
    assert isinstance(group.profile, Roofline)
    model = training_model(group.profile, "adamw")
    assert model is not None
    architecture_ = architecture(OPT_125M)
    shape = BatchShape.uniform(16, 128)
    times = {}
    for method in ("full", "lora", "bitfit"):
        run = Training(METHODS[method], architecture_, Head(2))
        tally = run.tally(shape)
        step = model.step(run, shape)
        assert step is not None
        times[method] = step.total_s
        least = (tally.forward_flop + tally.backward_flop) / group.profile.flop_per_s.value
        assert least <= times[method] < 2 * least
    assert times["bitfit"] < times["full"]
    assert times["lora"] < times["full"]
