"""The frozen backbone, tapped from outside by hooks on its blocks.

Axes: N real tokens, L tapped layers, G samples of a group, T positions of a group, D width.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import hashlib
import importlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mobisim.errors import InputError
from mobisim.scenario.depth import split_depth
from mobisim.training.threads import side_by_side
from mobisim.training.tokens import Tokens, backbone_config, backbone_directory

GROUP_SIZE = 8  # samples of like length that are forwarded together, to pad little
_FINGERPRINT_VALUES = 16
_Outputs = dict[int, dict[int, Tensor]]  # by thread, then by place
FINAL_NORMS = ("final_layer_norm", "ln_f", "final_layernorm", "norm")


class Backbone:
    """A frozen Hugging Face model in evaluation mode and single precision.

    `weights` names what its weights were rounded to, None where they are as they came.

    Raises: InputError where no list of blocks can be tapped.
    """

    def __init__(self, model: Any, name: str = "custom", weights: str | None = None) -> None:
        self.name, self.weights = name, weights
        self.model = model.float().eval().requires_grad_(requires_grad=False)
        self.base = getattr(model, "base_model", model)
        self.config = model.config
        self.stack, self.blocks = find_blocks(self.base, name)
        self.num_layers = len(self.blocks)
        self.width = int(self.config.get_text_config().hidden_size)
        self.vocab_size = int(self.config.get_text_config().vocab_size)
        self.is_decoder = _is_decoder(self.config)

    @property
    def max_length(self) -> int:
        """The most tokens of a sample that the position embeddings reach."""
        positions = int(getattr(self.config, "max_position_embeddings", None) or 1 << 30)
        # RoBERTa numbers positions from its padding id on.
        shift = (self.config.pad_token_id or 0) + 1 if "roberta" in self.config.model_type else 0
        return positions - shift

    @property
    def fingerprint(self) -> str:
        """A digest of names, shapes and sampled values of the weights: tells models apart."""
        digest = hashlib.sha256()
        for name, tensor in self.base.state_dict().items():
            sampled = tensor.flatten()[:: max(1, tensor.numel() // _FINGERPRINT_VALUES)]
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(sampled.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def taps(self, ids: Sequence[Tokens], tap_layers: Sequence[int]) -> list[Tensor]:
        """Outputs of the blocks `tap_layers` (from 1) at the real tokens, samples end to end.

        Samples of like length are forwarded together, padded on the right under a mask; what a
        sample gives depends, in its last bits, on the samples given with it.

        Shapes: L tensors [N, D].
        """
        self._check(ids, tap_layers)
        return self._outputs(ids, tap_layers)

    def states(self, ids: Sequence[Tokens]) -> list[Tensor]:
        """What comes into the first block at the real tokens, and what each one gives.

        Shapes: 1 + layers tensors [N, D].
        """
        self._check(ids, [])
        return self._outputs(ids, range(self.num_layers + 1))

    def _outputs(self, ids: Sequence[Tokens], tap_layers: Sequence[int]) -> list[Tensor]:
        order, inverse_N = _by_length(ids)
        groups = [order[i : i + GROUP_SIZE] for i in range(0, len(order), GROUP_SIZE)]
        with _captured([functools.partial(self._hook, layer) for layer in tap_layers]) as outputs:
            forwarded = side_by_side(
                lambda group: self._forward([ids[i] for i in group], outputs), groups
            )
        return [torch.cat(parts)[inverse_N] for parts in zip(*forwarded, strict=True)]

    @torch.no_grad()
    def stream(
        self,
        ids: Sequence[Tokens],
        tap_layers: Sequence[int],
        take: Callable[[Tensor], None],
        padded_length: int | None = None,
    ) -> None:
        """What `taps` gives, each [N, D] as soon as its block is done; then nothing more is run.

        All samples are forwarded together, padded to `padded_length` or to the longest of them: the
        very same bits as from `taps` where those shapes are the same.
        """
        self._check(ids, tap_layers)
        order, inverse_N = _by_length(ids)
        padding = getattr(self.config, "pad_token_id", None) or 0
        ids_GT, mask_GT = padded([ids[i] for i in order], padding, padded_length)
        real_GT = mask_GT.bool()
        last = tap_layers[-1]

        def tell(layer: int, tensor: Tensor) -> None:
            take(tensor[real_GT][inverse_N])
            if layer == last:
                raise _Enough

        with contextlib.ExitStack() as stack, contextlib.suppress(_Enough):
            for layer in tap_layers:
                hook = functools.partial(tell, layer)
                stack.callback(self._hook(layer, hook).remove)
            self.base(input_ids=ids_GT, attention_mask=mask_GT, **_NO_CACHE[self.is_decoder])

    def tail(self) -> nn.Module:
        """Final norm, projection and output embedding: from the last tap to the vocabulary.

        Raises: InputError where the model has none, or they do not give its own logits.
        """
        vocabulary = self._vocabulary()
        modules = [getattr(self.stack, name, None) for name in (*FINAL_NORMS, "project_out")]
        tail = nn.Sequential(*(m for m in modules if m is not None), *vocabulary)
        self._check_tail(tail)
        return tail

    def vocabulary(self) -> nn.Sequential:
        """The end of `tail` that comes after the last hidden state: the output embedding.

        Raises: InputError as `tail` does.
        """
        self.tail()
        return nn.Sequential(*self._vocabulary())

    def _vocabulary(self) -> list[nn.Module]:
        embedding = self.model.get_output_embeddings() if self.is_decoder else None
        if embedding is None:
            raise InputError(f"backbone {self.name!r} has no next-token head", hint="use a decoder")
        cap = getattr(self.config.get_text_config(), "final_logit_softcapping", None)
        return [embedding, *([] if cap is None else [_SoftCap(float(cap))])]

    def _check(self, ids: Sequence[Tokens], tap_layers: Sequence[int]) -> None:
        longest = max(map(len, ids))
        if longest > self.max_length:
            raise InputError(
                f"backbone {self.name!r} cannot read a sample",
                expected=f"at most {self.max_length} tokens",
                got=f"{longest}",
            )
        if wrong := [layer for layer in tap_layers if not 1 <= layer <= self.num_layers]:
            raise InputError(
                f"backbone {self.name!r} has no such layer to tap",
                expected=f"1 to {self.num_layers}",
                got=", ".join(map(str, wrong)),
            )
        highest = max(int(sample.max()) for sample in ids)
        if highest >= self.vocab_size:
            raise InputError(
                f"backbone {self.name!r} does not know a token; is the tokeniser its own?",
                expected=f"ids below {self.vocab_size}",
                got=f"{highest}",
            )

    def _hook(self, layer: int, take: Callable[[Tensor], None]) -> Any:
        """Hands what a layer gives on, each time; the handle that ends this."""
        return (
            _on_output(self.blocks[layer - 1], take) if layer else _on_input(self.blocks[0], take)
        )

    @torch.no_grad()
    def _forward(self, ids: Sequence[Tokens], outputs: _Outputs) -> list[Tensor]:
        """Captured outputs at the real tokens of one group, sample after sample."""
        ids_GT, mask_GT = padded(ids, getattr(self.config, "pad_token_id", None) or 0)
        self.base(input_ids=ids_GT, attention_mask=mask_GT, **_NO_CACHE[self.is_decoder])
        own = outputs.pop(threading.get_ident())
        return [own[place][mask_GT.bool()] for place in sorted(own)]

    def _check_tail(self, tail: nn.Module) -> None:
        """Refuses a tail that differs from what the model itself does after its last block."""
        probe = np.arange(min(4, self.vocab_size), dtype=np.int32)
        with torch.no_grad():
            own = self.model(input_ids=torch.from_numpy(probe).long()[None]).logits[0]
            ours = tail(self.taps([probe], [self.num_layers])[0])
        if own.shape != ours.shape or not torch.allclose(own, ours, rtol=1e-3, atol=1e-3):
            raise InputError(f"backbone {self.name!r} ends in a way that next-token cannot copy")


class _Enough(Exception):  # noqa: N818 - no error: all taps are taken
    """Ends a forward after its last tap."""


class _SoftCap(nn.Module):
    """Gemma 2's bound on logits: cap * tanh(logits / cap)."""

    def __init__(self, cap: float) -> None:
        super().__init__()
        self.cap = cap

    def forward(self, logits: Tensor) -> Tensor:
        return self.cap * torch.tanh(logits / self.cap)


_NO_CACHE: dict[bool, dict[str, Any]] = {True: {"use_cache": False}, False: {}}


def load_backbone(name: str) -> Backbone:
    """A backbone by name: builtin, minilm, hf:owner/name, or a local directory.

    With `:3` after its name, it has the first three layers alone.

    Raises: InputError naming the file that is missing or broken, or a depth that it has not.
    """
    directory = backbone_directory(name)
    check_files(directory)
    backbone_config(name)  # which refuses more layers than there are
    with _silent_transformers():
        model, info = _from_pretrained(directory, split_depth(name)[1])
    # A missing pooler does no harm: it comes after the blocks, and nothing is read from it.
    missing = sorted(key for key in info["missing_keys"] if "pooler" not in key)
    if missing:
        raise InputError(
            "weights are missing", where=str(directory), got=f"no {', '.join(missing[:3])}"
        )
    return Backbone(model, name)


def check_files(directory: Path) -> None:
    """Refuses a model directory whose configuration or weights cannot be read.

    Raises: InputError naming the file.
    """
    config = directory / "config.json"
    try:
        known = isinstance(json.loads(config.read_text(encoding="utf-8")), dict)
    except (OSError, ValueError) as error:
        raise InputError("not a model configuration", where=str(config), got=str(error)) from error
    if not known:
        raise InputError("not a model configuration", where=str(config), expected="a JSON object")
    weights = sorted(directory.glob("*.safetensors"))
    if not weights and not list(directory.glob("pytorch_model*.bin")):
        raise InputError(
            "no weights", where=str(directory), expected="model.safetensors", got="no such file"
        )
    for path in weights:
        _check_weights(path)


def _check_weights(path: Path) -> None:
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 (only to load)

    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise InputError(
            "not a weights file", where=str(path), expected="safetensors", got=str(error)
        ) from error


def _from_pretrained(directory: Path, num_layers: int | None) -> tuple[Any, dict[str, Any]]:
    """The model in its smallest useful form: a decoder with its output embedding, else the base."""
    from transformers import (  # noqa: PLC0415 (takes seconds)
        AutoConfig,
        AutoModel,
        AutoModelForCausalLM,
    )

    try:
        config = AutoConfig.from_pretrained(directory)
        if num_layers is not None:  # the weights of those above are then left out
            config.get_text_config().num_hidden_layers = num_layers
        kind: Any = AutoModelForCausalLM if _is_decoder(config) else AutoModel
        model, info = kind.from_pretrained(
            directory, config=config, output_loading_info=True, local_files_only=True
        )
    except Exception as error:  # each model class fails in its own way on broken files
        raise InputError(
            "cannot load the backbone", where=str(directory), got=_first_line(error)
        ) from error
    return model, info


def _is_decoder(config: Any) -> bool:
    """Whether the model reads left to right; encoders are those that also do masked words."""
    from transformers.models.auto import modeling_auto as auto  # noqa: PLC0415 (takes seconds)

    kind = config.model_type
    causal = kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return causal and kind not in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES


def find_blocks(base: nn.Module, name: str) -> tuple[nn.Module, nn.ModuleList]:
    """The module that owns the list of blocks, and the list.

    Raises: InputError where no list has one entry per hidden layer.
    """
    config: Any = base.config
    depth = config.get_text_config().num_hidden_layers
    if not getattr(config, "is_encoder_decoder", False):
        for owner in base.modules():
            for child in owner.children():
                if isinstance(child, nn.ModuleList) and len(child) == depth:
                    return owner, child
    raise InputError(
        f"backbone {name!r} cannot be tapped",
        expected=f"one stack of {depth} blocks",
        got=f"model type {config.model_type!r} without one",
    )


@contextlib.contextmanager
def _captured(hooks: Sequence[Callable[[Callable[[Tensor], None]], Any]]) -> Iterator[_Outputs]:
    """What each of these hooks hands on, per thread and place, while the context is open."""
    outputs: _Outputs = collections.defaultdict(dict)

    def keep(place: int, tensor: Tensor) -> None:
        outputs[threading.get_ident()][place] = tensor

    handles = [hook(functools.partial(keep, place)) for place, hook in enumerate(hooks)]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _on_input(block: nn.Module, take: Callable[[Tensor], None]) -> Any:
    """Hands what comes into a block on."""

    def hook(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        take(inputs[0] if inputs else named["hidden_states"])

    return block.register_forward_pre_hook(hook, with_kwargs=True)


def _on_output(block: nn.Module, take: Callable[[Tensor], None]) -> Any:
    """Hands each output of a block on; the handle that ends this."""

    def hook(_module: nn.Module, _inputs: object, output: Any) -> None:
        take(output[0] if isinstance(output, tuple) else output)

    return block.register_forward_hook(hook)


def _by_length(ids: Sequence[Tokens]) -> tuple[NDArray[np.int64], Tensor]:
    """The samples in order of their lengths, and how to put their tokens back: [B] and [N]."""
    lengths = np.array([len(sample) for sample in ids])
    order = np.argsort(lengths, kind="stable")
    starts = np.cumsum(lengths) - lengths
    rows_N = np.concatenate([np.arange(lengths[i]) + starts[i] for i in order])
    return order, torch.from_numpy(np.argsort(rows_N))


def padded(
    ids: Sequence[Tokens], padding: int, padded_length: int | None = None
) -> tuple[Tensor, Tensor]:
    """Token ids padded on the right, and the mask of real tokens."""
    longest = padded_length or max(map(len, ids))
    ids_GT = torch.full((len(ids), longest), padding)
    mask_GT = torch.zeros(len(ids), longest, dtype=torch.long)
    for row, sample in enumerate(ids):
        ids_GT[row, : len(sample)] = torch.from_numpy(sample)
        mask_GT[row, : len(sample)] = 1
    return ids_GT, mask_GT


@contextlib.contextmanager
def _silent_transformers() -> Iterator[None]:
    """No progress bars or advice on standard error while the context is open."""
    logging: Any = importlib.import_module("transformers.utils.logging")  # takes seconds
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
