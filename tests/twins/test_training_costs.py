"""Predicted costs of training on the device against what torch keeps, trains and computes."""

from __future__ import annotations

import pytest
import torch
import tuned_models
from tuned_models import CLASSES, CONFIGS, TUNED, Counts, classifier, counted, kept_bytes

from mobisim.cost.architecture import Architecture, architecture
from mobisim.cost.side_network import SideCost
from mobisim.cost.tape import Tally
from mobisim.cost.training import Head, Training
from mobisim.cost.work import BatchShape
from mobisim.scenario.methods import METHODS, AttentionKernel
from mobisim.training.side_network import Ragged, SideNetwork, SideNetworkConfig

SHAPES = [(4, 24), (1, 100)]  # samples, tokens of each
MAIN = ("opt", "gpt2", "llama")  # tried in all shapes, the other families in one
CASES = [
    pytest.param(family, method, *shape, id=f"{family}-{method}-{shape[0]}x{shape[1]}")
    for family in CONFIGS
    for method in TUNED
    for shape in (SHAPES if family in MAIN else SHAPES[:1])
]


def _sizes(family: str) -> Architecture:
    return architecture(CONFIGS[family])


def _predicted(
    family: str,
    method: str,
    num_samples: int,
    length: int,
    float_bytes: int = 4,
    attention: AttentionKernel = "eager",
) -> Tally:
    head = Head(CLASSES)
    run = Training(METHODS[method], _sizes(family), head, float_bytes, attention=attention)
    return run.tally(BatchShape.uniform(num_samples, length))


def _counted(family: str, method: str, num_samples: int, length: int) -> Counts:
    return counted(family, method, _sizes(family).embedding_width, num_samples, length)


@pytest.mark.parametrize(("family", "method", "num_samples", "length"), CASES)
def test_stored_bytes_are_what_autograd_keeps(
    family: str, method: str, num_samples: int, length: int
) -> None:
    """Unique storages kept for the backward, parameters apart; an index of positions may differ."""
    real = _counted(family, method, num_samples, length)
    predicted = _predicted(family, method, num_samples, length)
    assert predicted.kept_bytes == pytest.approx(real.kept_bytes, rel=0.001)


@pytest.mark.parametrize(("family", "method", "num_samples", "length"), CASES)
def test_stored_bytes_with_fused_attention(
    family: str, method: str, num_samples: int, length: int
) -> None:
    """Its inputs, its output and a number per query and head; scores are computed again."""
    if _sizes(family).score_cap:
        pytest.skip("no fused kernel caps scores, so transformers refuses it")
    model = classifier(family, method, _sizes(family).embedding_width, "fused")
    real, _ = kept_bytes(model, lambda: model(torch.full((num_samples, length), 5)))
    predicted = _predicted(family, method, num_samples, length, attention="fused")
    assert predicted.kept_bytes == pytest.approx(real, rel=0.001)


def test_where_scores_are_capped_attention_is_eager() -> None:
    """As transformers has it: Gemma 2 keeps the same either way."""
    kernels: tuple[AttentionKernel, ...] = ("fused", "eager")
    fused, eager = (_predicted("gemma2", "full", 4, 24, attention=kernel) for kernel in kernels)
    assert fused.kept == eager.kept


@pytest.mark.parametrize(("family", "method", "num_samples", "length"), CASES)
def test_parameters_are_exact(family: str, method: str, num_samples: int, length: int) -> None:
    """All parameters, and those that train."""
    real = _counted(family, method, num_samples, length)
    predicted = _predicted(family, method, num_samples, length)
    found = predicted.parameters, predicted.trainable
    assert found == (real.parameters, real.trainable)


@pytest.mark.parametrize(("family", "method", "num_samples", "length"), CASES)
def test_flops_equal_torchs_count(family: str, method: str, num_samples: int, length: int) -> None:
    """Forward and backward apart: frozen weights and inputs without gradient cost none."""
    real = _counted(family, method, num_samples, length)
    predicted = _predicted(family, method, num_samples, length)
    assert predicted.forward_flop == pytest.approx(real.forward_flop, rel=0.001)
    assert predicted.backward_flop == pytest.approx(real.backward_flop, rel=0.001)


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("method", TUNED)
def test_adamw_keeps_two_values_for_each_that_trains(family: str, method: str) -> None:
    """As the memory model has it."""
    real = _counted(family, method, *SHAPES[0])
    assert real.optimizer_values == 2 * _predicted(family, method, *SHAPES[0]).trainable


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("method", TUNED)
def test_stored_bytes_in_half_precision(family: str, method: str) -> None:
    """With bf16 weights and activations, what transformers computes in fp32 is kept in fp32."""
    num_samples, length = SHAPES[0]
    model = classifier(family, method, _sizes(family).embedding_width).to(torch.bfloat16)
    real, _ = kept_bytes(model, lambda: model(torch.full((num_samples, length), 5)))
    predicted = _predicted(family, method, num_samples, length, float_bytes=2)
    assert predicted.kept_bytes == pytest.approx(real, rel=0.001)


@pytest.mark.parametrize("family", ["opt", "gpt2", "qwen2"])
@pytest.mark.parametrize("method", ["full", "bitfit"])
def test_stored_bytes_with_the_next_token_as_target(family: str, method: str) -> None:
    """The logarithms of all words' probabilities are kept besides, for every token."""
    model = tuned_models.language_model(family, method)
    ids = torch.full((4, 24), 5)
    real = tuned_models.count(model, lambda: model(input_ids=ids, labels=ids, use_cache=False).loss)
    head = Head(next_token=True)
    run = Training(METHODS[method], _sizes(family), head, attention="eager")
    predicted = run.tally(BatchShape.uniform(4, 24))
    assert predicted.kept_bytes == pytest.approx(real.kept_bytes, rel=0.001)
    assert predicted.trainable == real.trainable
    flop = predicted.forward_flop + predicted.backward_flop
    assert flop == pytest.approx(real.forward_flop + real.backward_flop, rel=0.001)


@pytest.mark.parametrize("family", ["opt", "gpt2"])
def test_the_ladder_keeps_less_with_fused_attention(family: str) -> None:
    """Its heads are as many as the backbone's, so that its scores are as large."""
    model = tuned_models.Ladder(family, attention="fused")
    real, _ = kept_bytes(model, lambda: model(torch.full(SHAPES[0], 5)))
    predicted = _predicted(family, "lst", *SHAPES[0], attention="fused")
    assert predicted.kept_bytes == pytest.approx(real, rel=0.001)


@pytest.mark.parametrize("family", ["opt", "gpt2"])
@pytest.mark.parametrize(("num_samples", "length"), SHAPES)
def test_the_ladder_costs_what_a_real_one_does(family: str, num_samples: int, length: int) -> None:
    """Parameters and FLOPs exact, kept bytes within an index of positions."""
    model = tuned_models.Ladder(family)
    ids = torch.full((num_samples, length), 5)
    real = tuned_models.count(model, lambda: model(ids))
    predicted = _predicted(family, "lst", num_samples, length)
    assert (predicted.parameters, predicted.trainable) == (real.parameters, real.trainable)
    assert predicted.kept_bytes == pytest.approx(real.kept_bytes, rel=0.001)
    assert predicted.forward_flop == pytest.approx(real.forward_flop, rel=0.001)
    assert predicted.backward_flop == pytest.approx(real.backward_flop, rel=0.001)


@pytest.mark.parametrize("family", ["opt", "bert"])
def test_checkpointing_keeps_block_inputs_and_computes_blocks_twice(family: str) -> None:
    """Kept in the forward: all but what a block keeps; in the backward one block at a time."""
    sizes, shape = _sizes(family), BatchShape.uniform(*SHAPES[0])
    head = Head(CLASSES)
    plain = Training(METHODS["full"], sizes, head, attention="eager").tally(shape)
    run = Training(METHODS["full"], sizes, head, checkpointing=True, attention="eager")
    spared = run.tally(shape)
    model = classifier(family, "full", sizes.embedding_width)
    tuned_models.checkpoint_blocks(model.base)
    real, _ = kept_bytes(model, lambda: model(torch.full(SHAPES[0], 5)))
    layers = sizes.num_layers
    inputs = spared.kept["block inputs"]
    around = (layers * spared.kept_bytes - plain.kept_bytes - layers * inputs) // (layers - 1)
    assert around + inputs == pytest.approx(real, rel=0.01)  # positions' indices differ
    extra = spared.backward_flop - plain.backward_flop
    assert extra == layers * sizes.block_flop(shape.num_tokens, shape.num_pairs)


@pytest.mark.parametrize("family", MAIN)
@pytest.mark.parametrize(("num_samples", "length"), SHAPES)
def test_side_tuning_keeps_what_autograd_keeps(family: str, num_samples: int, length: int) -> None:
    """MobiLLM's side network: bytes within 5 %, parameters exact, FLOPs within 1 %."""
    sizes, shape = _sizes(family), BatchShape.uniform(num_samples, length)
    config = SideNetworkConfig(
        width=sizes.width, num_taps=sizes.num_layers, bottleneck=16, num_classes=CLASSES
    )
    model = SideNetwork(config)
    taps = [torch.randn(shape.num_tokens, sizes.width) for _ in range(sizes.num_layers)]
    samples = Ragged.of(torch.full((num_samples,), length))
    labels = torch.zeros(num_samples, dtype=torch.long)
    real = tuned_models.count(model, lambda: model.loss(taps, samples, labels))
    cost = SideCost(sizes.num_layers, sizes.width, config.bottleneck, CLASSES)
    assert cost.stored_bytes(shape) == pytest.approx(real.kept_bytes, rel=0.05)
    assert cost.trainable_parameters == real.trainable
    assert cost.step(shape).flop == pytest.approx(real.forward_flop + real.backward_flop, rel=0.01)
    assert cost.state_bytes == 4 * (2 * real.trainable + real.optimizer_values)
