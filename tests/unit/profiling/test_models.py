"""Shapes of named models, precisions and heads: what is timed beside the grid."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mobisim.cost.architecture import Architecture, architecture
from mobisim.cost.measured import block_calls
from mobisim.cost.operators import Operators
from mobisim.cost.work import BatchShape
from mobisim.errors import InputError
from mobisim.profiling import profile as profiling
from mobisim.profiling.blocks import new_block, quantises
from mobisim.profiling.bundle import summarise
from mobisim.profiling.cases import Bench, Grid, device_cases, head_case, like
from mobisim.profiling.profile import Plan, profile
from mobisim.profiling.stopwatch import Timed

CPU = torch.device("cpu")
TINY = Grid((1, 2), (8, 16), (64, 128, 256), (8, 32), (1, 4**4), (64, 512))
WIDE_HEADS: Architecture = architecture(
    {
        "model_type": "gemma3_text", "hidden_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 256,
        "intermediate_size": 160, "vocab_size": 500, "max_position_embeddings": 40,
    }
)  # fmt: skip


def test_a_models_own_heads_are_measured_at_their_size() -> None:
    """Heads wider together than the block, few keys, and samples up to the model's positions."""
    grid = Grid(TINY.batches, TINY.lengths, TINY.widths, models=(WIDE_HEADS,))
    assert grid.model_shapes(WIDE_HEADS) == [(1, 8), (2, 16), (1, 32), (1, 40)]
    cases = device_cases(Bench(CPU), grid, ("fp32",), codecs=())
    own = [case for case in cases if case.block and case.block.sizes == like(WIDE_HEADS)]
    assert len(own) == 4
    taken = {case.name: [case.start()()] for case in cases if case.flop < 1e9}
    operators = Operators("own", tuple(summarise(taken, 1)), "fp32", 1)
    attention = [one for one in operators.samples if one.operator == "attention:causal"]
    assert (512, 256) in {(one.width, one.width_out) for one in attention}
    calls = block_calls(WIDE_HEADS, BatchShape.uniform(1, 40))
    assert operators.covers([call for call in calls if call.operator != "norm:rms"])


def test_a_next_token_head_is_timed_there_and_back() -> None:
    """One lap at tokens, width and vocabulary."""
    (timed,) = head_case(Bench(CPU), 16, 32, 100).start()()
    assert timed == Timed("head:next_token", 1, 16, 32, 100, "fp32")


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_blocks_run_at_every_precision(precision: str) -> None:
    """Near what fp32 gives; samples carry the precision's name."""
    if precision == "int8" and not quantises(CPU):
        pytest.skip("no products of integers here")
    sizes, told = like(WIDE_HEADS), list[Timed]()
    torch.manual_seed(0)
    exact = new_block(sizes, "fp32", CPU)
    torch.manual_seed(0)
    block = new_block(sizes, precision, CPU)
    h_BTD = torch.randn(2, 8, sizes.width)
    with torch.inference_mode():
        dtype = torch.float32 if precision == "int8" else block.norms[0].weight.dtype
        found = block(h_BTD.to(dtype), told.append).float()  # type: ignore[arg-type]
        expected = exact(h_BTD)
    assert torch.linalg.norm(found - expected) < 0.05 * torch.linalg.norm(expected)
    assert {one.precision for one in told} == {precision}


def test_int8_is_refused_where_torch_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is measured, with the option's name."""
    monkeypatch.setattr(profiling, "quantises", lambda _: False)
    with pytest.raises(InputError, match="8-bit integers") as caught:
        profile(Plan("x", tmp_path, precisions=("int8",)), lambda _: None)
    assert "--precisions" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_precisions_and_models_are_named_as_elsewhere(tmp_path: Path) -> None:
    """An unknown one is refused with the nearest name; the first precision is the profile's."""
    plan = Plan("x", tmp_path)
    assert plan.at("bf16,fp32").precisions == ("bf16", "fp32")
    with pytest.raises(InputError, match="did you mean 'fp16'"):
        plan.at("fp61")
    with pytest.raises(InputError, match="twice"):
        plan.at("fp32,fp32")
    with pytest.raises(InputError, match="did you mean 'opt-125m'"):
        plan.of_models("opt-125n")
    (found,) = plan.of_models("opt-125m").grid.models
    assert found.width == 768
