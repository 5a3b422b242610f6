"""Backbones that train on the device: what the costs count is what really trains."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import peft
import pytest
import torch
import tuned_models

from mobisim.cost.architecture import architecture
from mobisim.cost.training import Head, Training
from mobisim.cost.work import BatchShape
from mobisim.errors import InputError
from mobisim.scenario.methods import METHODS
from mobisim.training.backbone import Backbone
from mobisim.training.tuned import Tuned

ON_DEVICE = [name for name, info in METHODS.items() if info.site == "device"]
FAMILIES = [family for family in tuned_models.CONFIGS if family != "opt-post-norm"]
IDS = [np.array([5, 6, 7, 8], dtype=np.int32), np.array([9, 10], dtype=np.int32)]
CLASSES = 2


def _backbone(family: str) -> Backbone:
    torch.manual_seed(0)
    return Backbone(tuned_models.backbone(family), family)


def _tuned(family: str, method: str) -> tuple[Backbone, Tuned]:
    backbone = _backbone(family)
    return backbone, Tuned(backbone, METHODS[method])


@pytest.mark.parametrize("method", ON_DEVICE)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_trains_is_what_is_counted(family: str, method: str) -> None:
    """Trainable parameters equal the cost model's, head apart; each one gets a gradient."""
    sizes: Any = architecture(tuned_models.CONFIGS[family])
    expected = Training(METHODS[method], sizes, Head(CLASSES)).tally(BatchShape.uniform(2, 8))
    if expected.trainable == CLASSES * (sizes.embedding_width + 1):
        with pytest.raises(InputError, match="nothing that"):
            _tuned(family, method)
        return
    _, tuned = _tuned(family, method)
    tuned(IDS).square().sum().backward()
    trained = {name: p for name, p in tuned.named_parameters() if p.requires_grad}
    head = CLASSES * (sizes.embedding_width + 1)
    assert sum(p.numel() for p in trained.values()) == expected.trainable - head
    assert [name for name, p in trained.items() if p.grad is None] == []


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")  # peft's, in theirs
@pytest.mark.parametrize("family", ["opt", "bert", "llama", "gpt2"])
def test_lora_trains_what_peft_trains(family: str) -> None:
    """By its own defaults, peft adds the same matrices, and nothing else trains."""
    base = _backbone(family).base
    asked = peft.LoraConfig(r=8, fan_in_fan_out=family == "gpt2")
    theirs = peft.get_peft_model_state_dict(peft.get_peft_model(deepcopy(base), asked))
    _, tuned = _tuned(family, "lora")
    ours = {name: p for name, p in tuned.named_parameters() if p.requires_grad}
    plain = {
        name.replace(".default", "").removeprefix("base."): p.shape for name, p in ours.items()
    }
    assert plain == {n.removeprefix("base_model.model."): v.shape for n, v in theirs.items()}


@pytest.mark.parametrize("family", ["opt", "bert", "gpt2"])
@pytest.mark.parametrize(("method", "ending"), [("full", ""), ("bitfit", "bias")])
def test_own_weights_are_entries_of_the_state_dict(family: str, method: str, ending: str) -> None:
    """All of them, or those called bias; a pooler, which nothing reads, is left alone."""
    backbone, tuned = _tuned(family, method)
    entries = dict(backbone.base.named_parameters())
    expected = {name for name in entries if name.endswith(ending) and "pooler" not in name}
    trained = {n.removeprefix("base.") for n, p in tuned.named_parameters() if p.requires_grad}
    assert trained == expected


@pytest.mark.parametrize(
    ("family", "method"),
    [
        (family, method)
        for family in ("opt", "bert", "llama", "gpt2")
        for method in ON_DEVICE
        if method != "lst" and (family, method) != ("llama", "bitfit")  # Llama has no biases
    ],
)
def test_training_begins_at_the_backbone_itself(family: str, method: str) -> None:
    """What is added begins as nothing; and padding changes nothing."""
    backbone, tuned = _tuned(family, method)
    alone = torch.cat([tuned([ids]) for ids in IDS])
    with torch.no_grad():
        out = [backbone.base(input_ids=torch.from_numpy(ids).long()[None]) for ids in IDS]
    expected = torch.cat([o.last_hidden_state[0] for o in out])
    assert torch.allclose(alone, expected, atol=1e-5)
    assert torch.allclose(tuned(IDS), expected, atol=1e-5)


@pytest.mark.parametrize("method", ON_DEVICE)
def test_the_backbone_stays_as_it_is(method: str) -> None:
    """Training moves what trains, and neither the backbone nor what is frozen in the copy."""
    backbone, tuned = _tuned("opt", method)
    before = deepcopy(backbone.base.state_dict())
    frozen = {n: p.detach().clone() for n, p in tuned.named_parameters() if not p.requires_grad}
    trained = [p for p in tuned.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in trained]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = tuned(IDS).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert any(not torch.equal(a, b) for a, b in zip(start, trained, strict=True))
    for name, value in backbone.base.state_dict().items():
        assert torch.equal(value, before[name]), name
    for name, parameter in tuned.named_parameters():
        assert name not in frozen or torch.equal(parameter, frozen[name]), name


def test_a_seed_decides_where_it_begins() -> None:
    """The same seed gives the same start, whatever was drawn before; another one another."""
    backbone = _backbone("opt")
    torch.manual_seed(1)
    first = Tuned(backbone, METHODS["lora"], seed=3)
    torch.manual_seed(2)
    again, other = (Tuned(backbone, METHODS["lora"], seed=seed) for seed in (3, 4))
    pairs = list(zip(first.parameters(), again.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not all(torch.equal(a, c) for a, _, c in pairs)
