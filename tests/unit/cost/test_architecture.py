"""Architectures from configurations: what cannot be one is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from mobisim.cost.architecture import architecture
from mobisim.errors import InputError

OPT: dict[str, Any] = {
    "model_type": "opt",
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "ffn_dim": 64,
    "vocab_size": 100,
    "max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_attention_heads", 0),
        ("hidden_size", "wide"),
        ("num_hidden_layers", None),
        ("ffn_dim", -64),
        ("vocab_size", 1e99),
        ("word_embed_proj_dim", -16),
    ],
)
def test_a_size_that_is_none_is_named(key: str, value: object) -> None:
    """Missing, zero, negative, endless or no number at all: the key says which."""
    with pytest.raises(InputError, match=f"no usable {key}"):
        architecture(OPT | {key: value})


def test_an_unknown_family_gets_the_nearest_name() -> None:
    """A typing error is answered with what was meant."""
    with pytest.raises(InputError, match="did you mean 'llama'"):
        architecture(OPT | {"model_type": "lama"})


def test_a_projecting_opt_counts_both_projections() -> None:
    """OPT-350M embeds in a narrower space: a projection in and one out."""
    plain, narrow = architecture(OPT), architecture(OPT | {"word_embed_proj_dim": 16})
    saved = (100 - 2 * 32) * 16
    assert plain.backbone_parameters - narrow.backbone_parameters == saved
