"""The tape: what each operator keeps, trains and costs."""

from __future__ import annotations

import pytest

from mobisim.cost.architecture import architecture
from mobisim.cost.block import activation
from mobisim.cost.tape import Tape, Value
from mobisim.cost.training import Head, Training, narrowed
from mobisim.cost.work import BatchShape
from mobisim.errors import InputError
from mobisim.scenario.methods import METHODS

ROWS, WIDTH, OUT = 10, 4, 6
FLOP = 2 * ROWS * WIDTH * OUT


def _value(name: str = "x", *, needs_grad: bool) -> Value:
    return Value(name, ROWS, WIDTH, needs_grad)


@pytest.mark.parametrize("needs_grad", [False, True])
@pytest.mark.parametrize("weight", [False, True])
def test_a_matrix_keeps_its_input_only_where_it_trains(needs_grad: bool, weight: bool) -> None:
    """And the backward costs one product for each gradient that somebody needs."""
    tape = Tape()
    out = tape.linear("y", _value(needs_grad=needs_grad), OUT, weight=weight, biases=OUT)
    found = tape.tally()
    assert found.kept == ({"x": 4 * ROWS * WIDTH} if weight else {})
    assert found.backward_flop == FLOP * (weight + needs_grad)
    assert (found.parameters, found.trainable) == (WIDTH * OUT + OUT, WIDTH * OUT * weight)
    assert out.needs_grad == (weight or needs_grad)


def test_a_bias_trains_without_keeping_anything() -> None:
    """Its gradient is a sum of the output's; but all before the output now needs none."""
    tape = Tape()
    out = tape.linear("y", _value(needs_grad=False), OUT, weight=False, bias=True, biases=OUT)
    assert out.needs_grad
    assert (tape.tally().kept_bytes, tape.tally().trainable) == (0, OUT)


def test_a_product_of_activations_keeps_each_for_the_other() -> None:
    """So a frozen key is kept for an adapted query, and the query is not."""
    tape = Tape()
    query, key = _value("query", needs_grad=True), _value("key", needs_grad=False)
    tape.matmul(Value("scores", ROWS, ROWS, needs_grad=False), query, key, flop=100.0)
    assert set(tape.tally().kept) == {"key"}
    assert tape.tally().backward_flop == 100.0


def test_one_storage_counts_once() -> None:
    """Three projections of one input keep it once."""
    tape = Tape()
    for name in ("query", "key", "value"):
        tape.linear(name, _value(needs_grad=False), OUT, weight=True)
    assert tape.tally().kept_bytes == 4 * ROWS * WIDTH


def test_a_wide_softmax_is_kept_twice_in_half_precision() -> None:
    """In fp32 for itself, and cast for the product that follows."""
    tape = Tape(float_bytes=2)
    seen = tape.softmax("p", _value(needs_grad=True), wide=True)
    tape.multiply("out", seen, _value("value", needs_grad=True))
    assert tape.tally().kept["p.fp32"] == 2 * tape.tally().kept["p"] == 4 * ROWS * WIDTH


def test_a_frozen_pass_keeps_nothing() -> None:
    """Forward only: no activations, no backward, all parameters held."""
    tape = Tape()
    x = tape.layer_norm("norm", _value(needs_grad=False), weight=False, bias=False)
    tape.loss("loss", tape.linear("y", x, OUT, weight=False))
    found = tape.tally()
    assert (found.kept_bytes, found.trainable, found.backward_flop) == (0, 0, 0.0)


def test_an_unknown_activation_is_refused() -> None:
    """What it keeps is not guessed."""
    with pytest.raises(InputError, match="it is not known what 'mish' keeps"):
        activation(Tape(), "a", _value(needs_grad=True), "mish")


OPT = architecture(
    {
        "model_type": "opt", "vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 4,
        "num_attention_heads": 4, "ffn_dim": 256, "max_position_embeddings": 64,
    }
)  # fmt: skip


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.site == "device"])
def test_kept_bytes_grow_in_proportion_to_the_samples(name: str) -> None:
    """Nothing is kept twice for a larger mini-batch; shared scalars apart."""
    run = Training(METHODS[name], OPT, Head())
    one, ten = (run.tally(BatchShape.uniform(count, 32)).kept_bytes for count in (1, 10))
    assert ten == pytest.approx(10 * one, rel=1e-3)


def test_full_fine_tuning_trains_all_there_is() -> None:
    """Backbone and head; frozen methods hold as much and their own."""
    found = Training(METHODS["full"], OPT, Head(3)).tally(BatchShape.uniform(1, 8))
    assert found.trainable == found.parameters == OPT.backbone_parameters + 3 * (OPT.width + 1)


def test_a_ladder_is_narrower_throughout_with_as_many_heads() -> None:
    """Eight times here."""
    side = narrowed(OPT, 8)
    found = side.width, side.ff_width, side.head_dim, side.num_heads
    assert found == (OPT.width // 8, OPT.ff_width // 8, OPT.head_dim // 8, OPT.num_heads)
