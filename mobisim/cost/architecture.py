"""Transformer shapes from Hugging Face configurations: parameters and FLOPs, block by block.

One multiply-add counts two FLOPs; only matrix products count; attention is taken as full (no
causal halving), as torch's own counter does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mobisim.errors import InputError, unknown_name


@dataclass(frozen=True)
class Architecture:
    """The sizes of a frozen backbone from which every count follows."""

    num_layers: int
    width: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ff_width: int
    vocab_size: int
    max_positions: int
    position_rows: int  # rows of the learned position table; 0 with rotary positions
    embedding_width: int  # OPT-350M embeds in a narrower space and projects
    type_rows: int = 0
    gated_mlp: bool = False
    qkv_bias: bool = True
    dense_bias: bool = True  # attention output and MLP
    norm_width_factor: int = 2  # LayerNorm has weight and bias, RMSNorm a weight only
    norms_per_block: int = 2
    head_norm: bool = False  # Gemma 3 normalises queries and keys per head
    embedding_norm: bool = False
    final_norm: bool = True
    tied_head: bool = True
    head_bias: bool = False
    is_decoder: bool = True
    activation: str = "gelu"  # as transformers names it
    pre_norm: bool = True  # norms before attention and MLP, or after their residual sums
    parallel: bool = False  # attention and MLP side by side from one norm
    fused_qkv: bool = False  # one matrix for queries, keys and values
    wide_softmax: bool = True  # attention probabilities come in fp32 first, whatever the precision
    score_cap: bool = False  # tanh bounds the attention scores
    rotary_dim: int = 0  # values of each head that rotary positions turn

    @property
    def is_gemma(self) -> bool:
        """Whether a block has four norms and each scales by 1 + weight."""
        return self.norms_per_block == 4  # noqa: PLR2004 - Gemma's

    @property
    def rms_norm(self) -> bool:
        """Whether norms are RMSNorm, with a weight only."""
        return self.norm_width_factor == 1

    @property
    def attention_width(self) -> int:
        """Values of a token's queries, all heads together."""
        return self.num_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Values of a token's keys, and of its values, all heads together."""
        return self.num_kv_heads * self.head_dim

    @property
    def _projects(self) -> bool:
        return self.embedding_width != self.width

    @property
    def linear_sizes(self) -> tuple[tuple[int, int, int], ...]:
        """Inputs and outputs of a block's linear layers, and how many there are of each."""
        attended, kv = self.attention_width, self.kv_width
        apart = (self.width, attended, 1), (self.width, kv, 2)
        queries = ((self.width, attended + 2 * kv, 1),) if self.fused_qkv else apart
        inner = (self.width, self.ff_width, 2 if self.gated_mlp else 1)
        return (*queries, (attended, self.width, 1), inner, (self.ff_width, self.width, 1))

    @property
    def _block_matrix_weights(self) -> int:
        return sum(fan_in * fan_out * count for fan_in, fan_out, count in self.linear_sizes)

    @property
    def block_parameters(self) -> int:
        """Parameters of one block."""
        norms = self.norms_per_block * self.norm_width_factor * self.width
        head_norms = 2 * self.head_dim if self.head_norm else 0
        qkv = (self.attention_width + 2 * self.kv_width) * self.qkv_bias
        dense = (2 * self.width + self.ff_width) * self.dense_bias
        return self._block_matrix_weights + norms + head_norms + qkv + dense

    @property
    def embedding_parameters(self) -> int:
        """Parameters before the first block: tables, their norm, the projection."""
        tables = self.vocab_size * self.embedding_width
        tables += (self.position_rows + self.type_rows) * self.width
        norm = self.norm_width_factor * self.width * self.embedding_norm
        return tables + norm + self.embedding_width * self.width * self._projects

    @property
    def final_parameters(self) -> int:
        """Parameters after the last block: final norm and projection, without the head."""
        norm = self.norm_width_factor * self.width * self.final_norm
        return norm + self.embedding_width * self.width * self._projects

    @property
    def backbone_parameters(self) -> int:
        """Parameters of the headless backbone."""
        blocks = self.num_layers * self.block_parameters
        return self.embedding_parameters + blocks + self.final_parameters

    @property
    def language_model_parameters(self) -> int:
        """Parameters with the output head of a causal language model."""
        head = 0 if self.tied_head else self.vocab_size * self.embedding_width
        return self.backbone_parameters + head + self.vocab_size * self.head_bias

    def block_flop(self, num_tokens: int, num_pairs: int) -> float:
        """Forward FLOPs of one block over `num_tokens` tokens, `num_pairs` attended pairs."""
        attention = 4 * num_pairs * self.attention_width
        return 2.0 * num_tokens * self._block_matrix_weights + attention

    def projection_flop(self, num_tokens: int) -> float:
        """FLOPs of the projection before the first block, or of the one after the last."""
        return 2.0 * num_tokens * self.embedding_width * self.width * self._projects

    @property
    def block_ops(self) -> int:
        """Operators that one block launches: products, norms, softmax, activation, additions."""
        linear = 7 if self.gated_mlp else 6
        rotary = 2 if not self.position_rows else 0
        return linear + self.norms_per_block + 2 * self.head_norm + rotary + 3 + 1 + 2


def architecture(config: Mapping[str, Any], where: str = "model.config") -> Architecture:
    """The architecture of a Hugging Face configuration.

    Raises:
        InputError: an unknown model_type, or a missing or non-positive size.
    """
    reader = _FAMILIES.get(str(config.get("model_type")))
    if reader is None:
        raise unknown_name("model_type", str(config.get("model_type")), _FAMILIES, where=where)
    try:
        return reader(config)
    except _BadSizeError as error:
        raise InputError(
            f"no usable {error.key}", where=where, expected="a whole number above 0", got=error.got
        ) from error


class _BadSizeError(Exception):
    """A size of a configuration that is missing or no size."""

    def __init__(self, key: str, value: object) -> None:
        self.key, self.got = key, "nothing" if value is None else repr(value)
        super().__init__(key)


_LARGEST = 10**8  # of any size; beyond it counts would mean nothing


def _size(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _LARGEST:
        raise _BadSizeError(key, value)
    return value


def _attention(width: int, heads: int, kv_heads: int, head_dim: int) -> dict[str, Any]:
    return {
        "width": width,
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
    }


def _plain(width: int, heads: int) -> dict[str, Any]:
    """Attention with as many keys and values as queries, and embeddings as wide as the blocks."""
    return _attention(width, heads, heads, width // heads) | {"embedding_width": width}


def _opt(config: Mapping[str, Any]) -> Architecture:
    width, positions = _size(config, "hidden_size"), _size(config, "max_position_embeddings")
    bias = bool(config.get("enable_bias", True))
    pre_norm = bool(config.get("do_layer_norm_before", True))
    sizes = _plain(width, _size(config, "num_attention_heads"))
    sizes["embedding_width"] = _size(config, "word_embed_proj_dim", width)
    return Architecture(
        **sizes,
        num_layers=_size(config, "num_hidden_layers"),
        ff_width=_size(config, "ffn_dim"),
        vocab_size=_size(config, "vocab_size"),
        max_positions=positions,
        position_rows=positions + 2,  # OPT keeps two rows before the first position
        qkv_bias=bias,
        dense_bias=bias,
        final_norm=pre_norm and not config.get("_remove_final_layer_norm", False),
        pre_norm=pre_norm,
        activation=str(config.get("activation_function", "relu")),
        tied_head=bool(config.get("tie_word_embeddings", True)),
    )


def _gpt2(config: Mapping[str, Any]) -> Architecture:
    width = _size(config, "n_embd")
    return Architecture(
        **_plain(width, _size(config, "n_head")),
        num_layers=_size(config, "n_layer"),
        ff_width=_size(config, "n_inner", 4 * width),
        vocab_size=_size(config, "vocab_size"),
        max_positions=_size(config, "n_positions"),
        position_rows=_size(config, "n_positions"),
        activation=str(config.get("activation_function", "gelu_new")),
        fused_qkv=True,
        wide_softmax=False,
        tied_head=bool(config.get("tie_word_embeddings", True)),
    )


def _bert(config: Mapping[str, Any]) -> Architecture:
    rows = _size(config, "max_position_embeddings")
    unused_rows = 2 if config.get("model_type") == "roberta" else 0
    return Architecture(
        **_plain(_size(config, "hidden_size"), _size(config, "num_attention_heads")),
        num_layers=_size(config, "num_hidden_layers"),
        ff_width=_size(config, "intermediate_size"),
        vocab_size=_size(config, "vocab_size"),
        max_positions=rows - unused_rows,
        position_rows=rows,
        type_rows=_size(config, "type_vocab_size", 2),
        embedding_norm=True,
        final_norm=False,
        is_decoder=False,
        activation=str(config.get("hidden_act", "gelu")),
        pre_norm=False,
        wide_softmax=False,
    )


def _rotary(config: Mapping[str, Any], **differences: Any) -> Architecture:
    width, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    kv_heads = _size(config, "num_key_value_heads", heads)
    head_dim = int(differences.pop("head_dim", _size(config, "head_dim", width // heads)))
    sizes: dict[str, Any] = {
        **_attention(width, heads, kv_heads, head_dim),
        "rotary_dim": int(head_dim * config.get("partial_rotary_factor", 1.0)),
        "activation": str(config.get("hidden_act", "silu")),
        "embedding_width": width,
        "num_layers": _size(config, "num_hidden_layers"),
        "ff_width": _size(config, "intermediate_size"),
        "vocab_size": _size(config, "vocab_size"),
        "max_positions": _size(config, "max_position_embeddings"),
        "position_rows": 0,
        "gated_mlp": True,
        "qkv_bias": bool(config.get("attention_bias", False)),
        "dense_bias": False,
        "norm_width_factor": 1,
        "tied_head": bool(config.get("tie_word_embeddings", False)),
    }
    return Architecture(**(sizes | differences))


def _gemma(config: Mapping[str, Any], *, head_norm: bool) -> Architecture:
    return _rotary(
        config,
        norms_per_block=4,
        head_norm=head_norm,
        activation=str(config.get("hidden_activation", "gelu_pytorch_tanh")),
        score_cap=config.get("attn_logit_softcapping") is not None,
        tied_head=bool(config.get("tie_word_embeddings", True)),
        head_dim=_size(config, "head_dim", 256),
    )


def _phi(config: Mapping[str, Any]) -> Architecture:
    return _rotary(
        config,
        gated_mlp=False,
        qkv_bias=True,
        dense_bias=True,
        norm_width_factor=2,
        norms_per_block=1,  # attention and MLP run side by side from one norm
        head_bias=True,
        parallel=True,
        activation=str(config.get("hidden_act", "gelu_new")),
    )


_FAMILIES: dict[str, Callable[[Mapping[str, Any]], Architecture]] = {
    "opt": _opt,
    "gpt2": _gpt2,
    "llama": _rotary,
    "mistral": _rotary,
    "qwen2": lambda config: _rotary(config, qkv_bias=True),
    "gemma2": lambda config: _gemma(config, head_norm=False),
    "gemma3_text": lambda config: _gemma(config, head_norm=True),
    "phi": _phi,
    "bert": _bert,
    "roberta": _bert,
}
