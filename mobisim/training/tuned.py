"""Backbones that train on a device: whole, by LoRA, by biases, by adapters, or by a ladder.

What trains follows from a method's description (mobisim.scenario.methods). Dropout is off, as where
a backbone only runs forward.

Axes: G samples, T positions, N real tokens laid end to end, D width.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from mobisim.errors import InputError
from mobisim.scenario.methods import Adapters, Ladder, Lora, MethodInfo, OwnWeights
from mobisim.training.backbone import FINAL_NORMS, Backbone, find_blocks, padded
from mobisim.training.tokens import Tokens

# Where a block's attention and its MLP end, by the ends of their modules' names.
_ENDS = {
    "opt": ("out_proj", "fc2"),
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    "bert": ("output.dense",),
    "roberta": ("output.dense",),
    "phi": ("self_attn.dense", "fc2"),
}
_USUAL_ENDS = ("o_proj", "down_proj")
_BERT = {"query": "query", "key": "key", "value": "value", "out": "attention.output.dense"}
_PROJECTIONS = {
    "opt": {"out": "out_proj"},
    "gpt2": {"query": "c_attn", "key": "c_attn", "value": "c_attn", "out": "attn.c_proj"},
    "bert": _BERT,
    "roberta": _BERT,
    "phi": {"out": "dense"},
}
_USUAL_PROJECTIONS = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj"}
_WIDTHS = ("hidden_size", "intermediate_size", "ffn_dim", "n_embd", "n_inner", "head_dim")
_GATE_TEMPERATURE = 0.1  # LST's gates are sigmoid(alpha / temperature)


class Tuned(nn.Module):
    """A copy of a backbone that trains by a method; the backbone itself stays as it is.

    With `checkpointing` its blocks keep their input only and run again in the backward; the rungs
    of a ladder do not.

    Raises: InputError where the backbone has nothing that the method could train.
    """

    def __init__(
        self, backbone: Backbone, method: MethodInfo, *, seed: int = 0, checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.real_GT = torch.empty(0, 0, dtype=torch.bool)  # of the samples under way
        self.config, self.is_decoder = backbone.config, backbone.is_decoder
        base = copy.deepcopy(backbone.base).requires_grad_(requires_grad=False)
        with _seeded(seed):
            self.base: Any = _BYPASS[type(method.bypass)](base, method.bypass, self.config)
        for name, parameter in _own_parameters(base):
            if any(_TRAINS[sort](name) for sort in method.trains):
                parameter.requires_grad = True
        if not any(parameter.requires_grad for parameter in self.parameters()):
            raise InputError(
                f"backbone {backbone.name!r} has nothing that {method.title} trains",
                hint="choose another method",
            )
        if checkpointing:
            _checkpoint(self.blocks)
        self.eval()  # no dropout in what was added either

    @property
    def backbone(self) -> Any:
        """The copied backbone, what was added to its blocks included."""
        return self.base.base if isinstance(self.base, LadderNetwork) else self.base

    @property
    def blocks(self) -> nn.ModuleList:
        """The backbone's blocks."""
        return find_blocks(self.backbone, "")[1]

    @property
    def output_width(self) -> int:
        """The width of the last hidden state."""
        return _output_width(self.config)

    def forward(self, ids: Sequence[Tokens]) -> Tensor:
        """The last hidden states of the real tokens, samples end to end: [N, D]."""
        ids_GT, mask_GT = padded(ids, getattr(self.config, "pad_token_id", None) or 0)
        self.real_GT = mask_GT.bool()
        options = {"use_cache": False} if self.is_decoder else {}
        out = self.base(input_ids=ids_GT, attention_mask=mask_GT, **options)
        hidden_ND: Tensor = out.last_hidden_state[self.real_GT]
        return hidden_ND


def _output_width(config: Any) -> int:
    return int(getattr(config, "word_embed_proj_dim", config.hidden_size))


def _checkpoint(blocks: nn.ModuleList) -> None:
    for block in blocks:
        again = functools.partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
        block.forward = functools.partial(again, block.forward)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Torch's own stream, which libraries draw initial weights from, for a while."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _own_parameters(base: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The backbone's own parameters, without a bypass, and without a pooler that nothing reads."""
    added = {id(p) for m in base.modules() if isinstance(m, Bottleneck) for p in m.added()}
    for name, parameter in base.named_parameters():
        if id(parameter) not in added and "pooler" not in name:
            yield name, parameter


def _is_norm(name: str) -> bool:
    return "norm" in name.lower() or ".ln_" in f".{name}"


_TRAINS: dict[OwnWeights, Callable[[str], bool]] = {
    "all": lambda name: True,
    "biases": lambda name: name.endswith("bias"),
    "norms": _is_norm,
}


def _as_it_is(base: nn.Module, _bypass: None, _config: Any) -> nn.Module:
    return base


def _with_lora(base: nn.Module, bypass: Lora, config: Any) -> nn.Module:
    """Low-rank matrices beside the projections, by peft."""
    try:
        import peft  # noqa: PLC0415 (an extra, and slow to import)
    except ImportError as error:
        raise InputError("LoRA needs peft", hint="pip install 'mobisim[baselines]'") from error
    names = _USUAL_PROJECTIONS | _PROJECTIONS.get(config.model_type, {})
    targets = sorted({names[target] for target in bypass.targets})
    with warnings.catch_warnings():  # peft asks transformers by a name that goes away
        warnings.simplefilter("ignore", FutureWarning)
        asked = peft.LoraConfig(
            r=bypass.rank, target_modules=targets, fan_in_fan_out=config.model_type == "gpt2"
        )
        return peft.inject_adapter_in_model(asked, base)


class Bottleneck(nn.Module):
    """A layer, and after it a bottleneck with GELU and a residual, which begins as nothing."""

    def __init__(self, inner: nn.Module, width: int, bottleneck: int) -> None:
        super().__init__()
        self.inner = inner
        self.down, self.up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def added(self) -> Iterator[nn.Parameter]:
        """What is trained beside the layer."""
        yield from self.down.parameters()
        yield from self.up.parameters()

    def forward(self, h: Tensor) -> Tensor:
        """The layer's output, adapted."""
        h = self.inner(h)
        adapted: Tensor = h + self.up(functional.gelu(self.down(h)))
        return adapted


def _with_adapters(base: nn.Module, bypass: Adapters, config: Any) -> nn.Module:
    """Houlsby's two bottlenecks in each block."""
    ends = _ENDS.get(config.model_type, _USUAL_ENDS)
    for name, module in list(base.named_modules()):
        if name.endswith(ends):
            parent, _, own = name.rpartition(".")
            adapted = Bottleneck(module, config.hidden_size, bypass.bottleneck)
            setattr(base.get_submodule(parent), own, adapted)
    return base


class LadderNetwork(nn.Module):
    """LST: rungs of the backbone's own sort of block, narrower, beside a frozen backbone.

    Rung i reads mu_i s_{i-1} + (1 - mu_i) W_i a_i, where a_i is the output of block i; the last
    state is projected up and mixed with what the backbone gives.
    """

    def __init__(self, base: Any, reduction: int) -> None:
        super().__init__()
        self.base = base
        self.side: Any = _narrower(base, reduction)
        _, blocks = find_blocks(base, "")
        _, rungs = find_blocks(self.side, "")
        width, narrow = base.config.hidden_size, self.side.config.hidden_size
        self.downs = nn.ModuleList(nn.Linear(width, narrow) for _ in range(len(blocks) + 1))
        self.gates = nn.Parameter(torch.zeros(len(blocks) + 1))
        self.up = nn.Linear(narrow, _output_width(base.config))
        self._taps: list[Tensor] = []
        blocks[0].register_forward_pre_hook(self._keep_input, with_kwargs=True)
        for block in blocks:
            block.register_forward_hook(self._keep_output)
        for number, rung in enumerate(rungs):
            rung.register_forward_pre_hook(self._mixing(number), with_kwargs=True)

    def forward(self, **inputs: Any) -> Any:
        """The backbone's output with the ladder's in its last hidden state."""
        self._taps.clear()
        with torch.no_grad():
            found = self.base(**inputs)
        # The rungs' own embeddings are dropped: the first rung reads the taps alone.
        state = self.side(**inputs).last_hidden_state
        found.last_hidden_state = self._mix(-1, self.up(state), found.last_hidden_state)
        self._taps.clear()
        return found

    def _mix(self, gate: int, a: Tensor, b: Tensor) -> Tensor:
        return torch.lerp(b, a, torch.sigmoid(self.gates[gate] / _GATE_TEMPERATURE))

    def _keep_input(self, _module: nn.Module, given: Any, named: Any) -> None:
        self._taps.append(given[0] if given else named["hidden_states"])

    def _keep_output(self, _module: nn.Module, _given: Any, out: Any) -> None:
        self._taps.append(out[0] if isinstance(out, tuple) else out)

    def _mixing(self, number: int) -> Callable[..., tuple[Any, Any]]:
        def mix(_module: nn.Module, given: Any, named: Any) -> tuple[Any, Any]:
            state = given[0] if given else named["hidden_states"]
            if number == 0:
                state = self.downs[0](self._taps[0])
            mixed = self._mix(number, state, self.downs[number + 1](self._taps[number + 1]))
            return ((mixed, *given[1:]), named) if given else ((), named | {"hidden_states": mixed})

        return mix


def _narrower(base: Any, reduction: int) -> Any:
    """A model like the backbone's, with its width divided and as many heads, freshly made."""
    config = copy.deepcopy(base.config)
    stated = config.to_dict()  # GPT-2 answers to two names for one width
    for key in _WIDTHS:
        if stated.get(key):
            setattr(config, key, max(1, getattr(config, key) // reduction))
    if hasattr(config, "word_embed_proj_dim"):
        config.word_embed_proj_dim = config.hidden_size
    side = type(base)(config)
    owner, blocks = find_blocks(side, "")
    trained = {id(parameter) for parameter in blocks.parameters()}
    norms = {id(p) for name, p in owner.named_parameters() if "." in name and _is_final(name)}
    for parameter in side.parameters():
        parameter.requires_grad_(id(parameter) in trained | norms)
    return side


def _is_final(name: str) -> bool:
    return name.partition(".")[0] in FINAL_NORMS


def _with_ladder(base: nn.Module, bypass: Ladder, _config: Any) -> nn.Module:
    return LadderNetwork(base, bypass.reduction)


_BYPASS: dict[type, Callable[..., nn.Module]] = {
    type(None): _as_it_is,
    Lora: _with_lora,
    Adapters: _with_adapters,
    Ladder: _with_ladder,
}
