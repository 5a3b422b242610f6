"""Small transformers made trainable by each method, and what torch counts of their steps."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import peft
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from mobisim.scenario.methods import AttentionKernel

_AUTO: Any = transformers  # its constructors carry no types
CLASSES, RANK, BOTTLENECK, WORDS = 3, 8, 64, 101
_SIZES = {"vocab_size": WORDS, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
_ENCODER = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_QUIET = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
_OPT = {"ffn_dim": 256, "dropout": 0.0, "attention_dropout": 0.0, "word_embed_proj_dim": 64}
_ROTARY = {"intermediate_size": 160, "num_key_value_heads": 2, "tie_word_embeddings": True}

CONFIGS: dict[str, dict[str, Any]] = {
    "opt": {"model_type": "opt", **_SIZES, **_OPT},
    "opt-post-norm": {
        "model_type": "opt", **_SIZES, **_OPT,
        "do_layer_norm_before": False, "word_embed_proj_dim": 32,
    },
    "gpt2": {
        "model_type": "gpt2", "vocab_size": WORDS, "n_embd": 64, "n_layer": 3, "n_head": 4,
        "n_positions": 128, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
    },
    "llama": {"model_type": "llama", **_SIZES, **_ROTARY},
    "qwen2": {"model_type": "qwen2", **_SIZES, **_ROTARY},
    "bert": {"model_type": "bert", **_SIZES, **_ENCODER, "intermediate_size": 256},
    "gemma3": {"model_type": "gemma3_text", **_SIZES, **_ROTARY, "head_dim": 16},
    "gemma2": {
        "model_type": "gemma2", **_SIZES, **_ROTARY, "head_dim": 16, "attn_logit_softcapping": 50.0,
    },
    "phi": {
        "model_type": "phi", **_SIZES, "intermediate_size": 256, "num_key_value_heads": 4,
        "partial_rotary_factor": 0.5, "hidden_act": "gelu_new", "resid_pdrop": 0.0,
    },
}  # fmt: skip
for _config in CONFIGS.values():
    _config.update(_QUIET)
    if _config["model_type"] != "gpt2":
        _config["max_position_embeddings"] = 128
KERNELS: dict[AttentionKernel, str] = {"fused": "sdpa", "eager": "eager"}
# Where attention and MLP end, by the names of the modules: Houlsby adapters come after them.
_ENDS = {
    "opt": ("out_proj", "fc2"),
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    "bert": ("attention.output.dense", "output.dense"),
    "phi": ("self_attn.dense", "fc2"),
}
_LORA_TARGETS = {"gpt2": ["c_attn"], "bert": ["query", "value"]}


class Adapter(nn.Module):
    """A layer with a bottleneck, GELU and a residual after it."""

    def __init__(self, inner: nn.Module, width: int) -> None:
        super().__init__()
        self.inner = inner
        self.down, self.up = nn.Linear(width, BOTTLENECK), nn.Linear(BOTTLENECK, width)

    def forward(self, h: Tensor) -> Tensor:
        """The layer's output, adapted."""
        h = self.inner(h)
        adapted: Tensor = h + self.up(functional.gelu(self.down(h)))
        return adapted


class Classifier(nn.Module):
    """The mean of a sample's hidden states, one linear layer, cross-entropy."""

    def __init__(self, base: Any, width: int, *, is_decoder: bool) -> None:
        super().__init__()
        self.base, self.head = base, nn.Linear(width, CLASSES)
        self.options = {"use_cache": False} if is_decoder else {}

    def forward(self, ids: Tensor) -> Tensor:
        """The loss, all samples being of class 0."""
        found = self.base(input_ids=ids, attention_mask=torch.ones_like(ids), **self.options)
        logits = self.head(found.last_hidden_state.mean(1))
        return functional.cross_entropy(logits.float(), ids.new_zeros(len(ids)))


def backbone(family: str, attention: AttentionKernel = "eager") -> Any:
    """The headless backbone with random weights.

    With eager attention by default: torch's counter of FLOPs does not see the fused kernel.
    """
    config = transformers.AutoConfig.for_model(**CONFIGS[family])
    config._attn_implementation = KERNELS[attention]
    options = {"add_pooling_layer": False} if family == "bert" else {}
    return _AUTO.AutoModel.from_config(config, **options)


def _freeze(base: nn.Module, trains: Callable[[str], bool]) -> nn.Module:
    for name, parameter in base.named_parameters():
        parameter.requires_grad_(trains(name))
    return base


def _with_lora(base: Any, family: str) -> Any:
    config = peft.LoraConfig(
        r=RANK,
        target_modules=_LORA_TARGETS.get(family, ["q_proj", "v_proj"]),
        fan_in_fan_out=family == "gpt2",
    )
    with warnings.catch_warnings():  # peft asks transformers by a name that goes away
        warnings.simplefilter("ignore", FutureWarning)
        return peft.get_peft_model(base, config, autocast_adapter_dtype=False)


def _is_norm(name: str) -> bool:
    return "norm" in name.lower() or ".ln_" in f".{name}"


def _with_adapters(base: nn.Module, family: str) -> nn.Module:
    _freeze(base, _is_norm)
    width = CONFIGS[family].get("hidden_size", 64)
    ends = _ENDS.get(CONFIGS[family]["model_type"], ("o_proj", "down_proj"))
    for name, module in list(base.named_modules()):
        if name.endswith(ends):
            parent, _, own = name.rpartition(".")
            setattr(base.get_submodule(parent), own, Adapter(module, width))
    return base


TUNED: dict[str, Callable[[Any, str], Any]] = {
    "full": lambda base, family: base,
    "lora": _with_lora,
    "bitfit": lambda base, family: _freeze(base, lambda name: name.endswith("bias")),
    "adapters": _with_adapters,
}


def classifier(
    family: str, method: str, width: int, attention: AttentionKernel = "eager"
) -> Classifier:
    """A classifier on a backbone of that family, made trainable by that method."""
    base = TUNED[method](backbone(family, attention), family)
    return Classifier(base, width, is_decoder=family != "bert").train()


def checkpoint_blocks(base: Any) -> None:
    """Let every block keep its input only, and be computed again in the backward."""
    with warnings.catch_warnings():  # transformers renames it; both names are supported
        warnings.simplefilter("ignore", FutureWarning)
        base.gradient_checkpointing_enable({"use_reentrant": True})


def kept_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> tuple[int, Tensor]:
    """Bytes of the storages that autograd keeps, parameters and buffers apart; and the loss."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = forward()
    return sum(kept.values()), loss


@dataclass(frozen=True)
class Counts:
    """What torch itself counts of one training step."""

    kept_bytes: int
    parameters: int
    trainable: int
    forward_flop: int
    backward_flop: int
    optimizer_values: int


def count(model: nn.Module, forward: Callable[[], Tensor]) -> Counts:
    """One training step with AdamW, counted."""
    with FlopCounterMode(display=False) as ahead:
        kept, loss = kept_bytes(model, forward)
    with FlopCounterMode(display=False) as back:
        loss.backward()  # type: ignore[no-untyped-call]
    trained = [p for p in model.parameters() if p.requires_grad]
    return Counts(
        kept,
        sum(p.numel() for p in model.parameters()),
        sum(p.numel() for p in trained),
        ahead.get_total_flops(),
        back.get_total_flops(),
        _states(trained),
    )


def _states(trained: list[nn.Parameter]) -> int:
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    optimizer.step()
    states = optimizer.state.values()
    return sum(state[name].numel() for state in states for name in ("exp_avg", "exp_avg_sq"))


@functools.cache
def counted(family: str, method: str, width: int, num_samples: int, length: int) -> Counts:
    """The counts of one step of that method on that family; worked out once."""
    model = classifier(family, method, width)
    ids = torch.full((num_samples, length), 5)
    return count(model, lambda: model(ids))


def language_model(family: str, method: str) -> Any:
    """A causal language model with eager attention, made trainable by that method."""
    config = transformers.AutoConfig.for_model(**CONFIGS[family])
    config._attn_implementation = "eager"
    return TUNED[method](_AUTO.AutoModelForCausalLM.from_config(config), family).train()


class Ladder(nn.Module):
    """LST beside a frozen backbone: rungs of the backbone's own blocks, eight times narrower."""

    def __init__(
        self, family: str, reduction: int = 8, attention: AttentionKernel = "eager"
    ) -> None:
        super().__init__()
        self.base = backbone(family, attention)
        self.side = _narrow(family, reduction, attention)
        self.base.requires_grad_(False)
        blocks, width = _blocks(self.base), CONFIGS[family].get("hidden_size", 64)
        self.taps: list[Tensor] = []
        for block in blocks:
            block.register_forward_hook(lambda module, given, out: self.taps.append(_hidden(out)))
        narrow, rungs = width // reduction, len(blocks) + 1
        self.downs = nn.ModuleList(nn.Linear(width, narrow) for _ in range(rungs))
        self.gates = nn.ParameterList(nn.Parameter(torch.zeros(())) for _ in range(rungs))
        self.up, self.head = nn.Linear(narrow, width), nn.Linear(width, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        """The loss, all samples being of class 0."""
        self.taps.clear()
        found = self.base(input_ids=ids, output_hidden_states=True, use_cache=False)
        *rungs, norm = self.side
        state = self.downs[0](found.hidden_states[0])
        for index, (tap, rung) in enumerate(zip(self.taps, rungs, strict=True)):
            mixed = _mix(self.gates[index], state, self.downs[index + 1](tap))
            state = _hidden(rung(mixed))
        out = _mix(self.gates[-1], self.up(norm(state)), found.last_hidden_state)
        return functional.cross_entropy(self.head(out.mean(1)), ids.new_zeros(len(ids)))


def _mix(alpha: Tensor, a: Tensor, b: Tensor) -> Tensor:
    gate = torch.sigmoid(alpha / 0.1)
    return gate * a + (1 - gate) * b


def _hidden(out: Any) -> Tensor:
    hidden: Tensor = out[0] if isinstance(out, tuple) else out
    return hidden


def _blocks(base: Any) -> nn.ModuleList:
    found = base.decoder.layers if hasattr(base, "decoder") else base.h
    assert isinstance(found, nn.ModuleList)
    return found


def _narrow(family: str, reduction: int, attention: AttentionKernel) -> nn.ModuleList:
    """The blocks and the final norm of a backbone that is narrower throughout."""
    divided = ("hidden_size", "ffn_dim", "n_embd", "word_embed_proj_dim")
    stated = CONFIGS[family]
    sizes = {key: value // reduction if key in divided else value for key, value in stated.items()}
    config = transformers.AutoConfig.for_model(**sizes)
    config._attn_implementation = KERNELS[attention]
    base = _AUTO.AutoModel.from_config(config)
    norm = base.decoder.final_layer_norm if hasattr(base, "decoder") else base.ln_f
    return nn.ModuleList([*_blocks(base), norm])
