"""The cost room's counts against the real modules, built on the meta device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from mobisim.cost.architecture import Architecture, architecture
from mobisim.scenario import catalog
from mobisim.scenario.load import validate_profile
from mobisim.scenario.profiles import TransformerProfile

_AUTO: Any = transformers  # its constructors carry no types
BATCH, LENGTH = 3, 48


def _profile(name: str) -> TransformerProfile:
    found = validate_profile(TransformerProfile, catalog.profile("models", name))
    assert isinstance(found, TransformerProfile)
    return found


def _numel(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _config(profile: TransformerProfile) -> Any:
    config = transformers.AutoConfig.for_model(**profile.config)
    config._attn_implementation = "eager"
    return config


def _headless(profile: TransformerProfile, sizes: Architecture) -> Any:
    options = {} if sizes.is_decoder else {"add_pooling_layer": False}
    with torch.device("meta"):
        return _AUTO.AutoModel.from_config(_config(profile), **options)


@pytest.mark.parametrize("name", catalog.names("models"))
def test_parameters_equal_numel_of_the_module(name: str) -> None:
    """Predicted parameters are those of the module that the configuration builds."""
    profile = _profile(name)
    sizes = architecture(profile.config)
    assert sizes.backbone_parameters == _numel(_headless(profile, sizes))
    if sizes.is_decoder:
        with torch.device("meta"):
            whole = _AUTO.AutoModelForCausalLM.from_config(_config(profile))
        assert sizes.language_model_parameters == _numel(whole) == profile.num_parameters


@pytest.mark.parametrize("name", catalog.names("models"))
def test_forward_flops_equal_torchs_count(name: str) -> None:
    """Predicted forward FLOPs are those that torch counts, with full attention."""
    profile = _profile(name)
    sizes = architecture(profile.config)
    ids = torch.zeros(BATCH, LENGTH, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter:
        _forward(_headless(profile, sizes), ids, is_decoder=sizes.is_decoder)
    tokens = BATCH * LENGTH
    predicted = sizes.num_layers * sizes.block_flop(tokens, tokens * LENGTH)
    predicted += 2 * sizes.projection_flop(tokens)
    assert predicted == pytest.approx(counter.get_total_flops(), rel=0.005)


def _forward(module: Any, ids: torch.Tensor, *, is_decoder: bool) -> None:
    if is_decoder:
        module(ids, attention_mask=torch.ones_like(ids), use_cache=False)
        return
    # Encoders look into the mask's values, which a meta tensor does not have: feed the blocks.
    hidden = torch.zeros(*ids.shape, module.config.hidden_size, device="meta")
    module.encoder(hidden)


def test_a_shipped_model_states_its_own_parameter_count() -> None:
    """Encoders state the count with their pooler, as published: one more dense layer."""
    for name in ("bert-base-uncased", "roberta-base", "all-minilm-l6-v2"):
        profile = _profile(name)
        sizes = architecture(profile.config)
        pooler = sizes.width * (sizes.width + 1)
        assert profile.num_parameters == sizes.backbone_parameters + pooler
