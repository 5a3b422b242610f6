"""Plain transformer blocks in torch, with a lap after each kernel.

Axes: B samples, T positions, D width, A attention width (heads times head size), F inner width.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mobisim.profiling.stopwatch import Timed

# Of activations; with int8 the products alone are in integers, and theirs are quantised anew.
DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.float32,
}
Lap = Callable[[Timed], None]


@dataclass(frozen=True)
class BlockSizes:
    """The sizes of a block: OPT's make, or Llama's with `modern` (RMSNorm, rotary, gated)."""

    width: int
    num_heads: int
    head_dim: int
    num_kv_heads: int
    ff_width: int
    modern: bool

    @property
    def attention_width(self) -> int:
        """Width of the queries, all heads together."""
        return self.num_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of the keys, and of the values."""
        return self.num_kv_heads * self.head_dim

    @property
    def matrix_weights(self) -> int:
        """Weights of all matrices."""
        attention = 2 * self.width * (self.attention_width + self.kv_width)
        return attention + (3 if self.modern else 2) * self.width * self.ff_width

    def flop(self, batch: int, length: int) -> float:
        """FLOPs of a forward, attention taken as full."""
        tokens = batch * length
        return 2.0 * tokens * self.matrix_weights + 4.0 * tokens * length * self.attention_width


class Block(nn.Module):
    """A frozen pre-norm block."""

    def __init__(self, sizes: BlockSizes, precision: str, device: torch.device) -> None:
        super().__init__()
        self.sizes, self.precision = sizes, precision
        options: dict[str, Any] = {"dtype": DTYPES[precision], "device": device}
        linear: dict[str, Any] = options | {"bias": not sizes.modern}
        width, inner = sizes.width, sizes.ff_width
        norm = nn.RMSNorm if sizes.modern else nn.LayerNorm
        self.norms = nn.ModuleList(norm(width, **options) for _ in range(2))
        self.query = nn.Linear(width, sizes.attention_width, **linear)
        self.key = nn.Linear(width, sizes.kv_width, **linear)
        self.value = nn.Linear(width, sizes.kv_width, **linear)
        self.out = nn.Linear(sizes.attention_width, width, **linear)
        self.up = nn.Linear(width, inner, **linear)
        self.gate = nn.Linear(width, inner, **linear) if sizes.modern else None
        self.down = nn.Linear(inner, width, **linear)
        self.requires_grad_(requires_grad=False)

    @property
    def norm_name(self) -> str:
        """The operator of its norms."""
        return "norm:rms" if self.sizes.modern else "norm:layer"

    def forward(self, h_BTD: Tensor, lap: Lap | None = None) -> Tensor:
        """The block's output; with `lap`, each kernel's end is told."""
        run = _Run(self, h_BTD, lap)
        attended = run.linear(self.out, run.attend(run.norm(self.norms[0], h_BTD)))
        h_BTD = run.add(h_BTD, attended)
        h_BTD = run.add(h_BTD, run.mlp(run.norm(self.norms[1], h_BTD)))
        run.others()
        return h_BTD


def new_block(sizes: BlockSizes, precision: str, device: torch.device) -> Block:
    """A block of random weights at a precision."""
    block = Block(sizes, precision, device)
    return quantised(block) if precision == "int8" else block


def quantised(block: Block) -> Block:
    """The block with matrices of 8-bit integers, by torch's dynamic quantisation."""
    with warnings.catch_warnings():  # it is to move to torchao, whose kernels need compiling here
        warnings.simplefilter("ignore")
        quantise: Any = torch.ao.quantization.quantize_dynamic
        found: Block = quantise(block, {nn.Linear}, torch.qint8)
    return found


def usual_precisions(device: torch.device) -> tuple[str, ...]:
    """What is timed unless told otherwise: fp32, and bf16 where kernels compute in it.

    Elsewhere a processor converts value by value, ten and more times slower than fp32.
    """
    native = device.type != "cpu" or processor_kernels() in ("AVX512", "AMX")
    return ("fp32", "bf16") if native else ("fp32",)


def processor_kernels() -> str:
    """For which instructions torch's kernels run on this processor, such as AVX2."""
    return torch.backends.cpu.get_cpu_capability()


def quantises(device: torch.device) -> bool:
    """Whether this machine's torch runs products of 8-bit integers."""
    engines = set(torch.backends.quantized.supported_engines) - {"none"}
    known = hasattr(getattr(torch.ao, "quantization", None), "quantize_dynamic")
    return device.type == "cpu" and known and bool(engines)


class _Run:
    """One pass through a block."""

    def __init__(self, block: Block, h_BTD: Tensor, lap: Lap | None) -> None:
        self.block, self.sizes, self._lap = block, block.sizes, lap
        self.batch, self.length, self.width = h_BTD.shape
        self._others: list[Callable[[], object]] = []

    def others(self) -> None:
        """What other blocks do in place of this one's kernels, on this one's tensors."""
        if self._lap is not None:
            for other in self._others:
                other()

    def told(self, result: Tensor, operator: str, width: int, width_out: int = 1) -> Tensor:
        if self._lap is not None:
            shape = (self.batch, self.length, width, width_out, self.block.precision)
            self._lap(Timed(operator, *shape))
        return result

    def norm(self, norm: nn.Module, h_BTD: Tensor) -> Tensor:
        return self.told(norm(h_BTD), self.block.norm_name, self.width)

    def linear(self, linear: nn.Linear, h: Tensor) -> Tensor:
        return self.told(linear(h), "linear", linear.in_features, linear.out_features)

    def add(self, left: Tensor, right: Tensor) -> Tensor:
        return self.told(left + right, "add", self.width)

    def attend(self, x_BTD: Tensor) -> Tensor:
        block, sizes = self.block, self.sizes
        query, key, value = (self.linear(m, x_BTD) for m in (block.query, block.key, block.value))
        if sizes.modern:
            query, key = rotate(sizes, query), rotate(sizes, key)
            self.told(query, "rotary", sizes.attention_width + sizes.kv_width)
        self._others.append(lambda: self._attention(query, key, value, causal=False))
        return self._attention(query, key, value, causal=True)

    def _attention(self, query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> Tensor:
        sizes, name = self.sizes, "attention:causal" if causal else "attention:full"
        mixed = attend(sizes, query, key, value, causal=causal)
        return self.told(mixed, name, sizes.attention_width, sizes.head_dim)

    def mlp(self, x_BTD: Tensor) -> Tensor:
        """The two or three products around the activation."""
        up, width = self.linear(self.block.up, x_BTD), self.sizes.ff_width
        if self.block.gate is None:
            inner = self.told(functional.relu(up), "activation:relu", width)
            self._others.append(lambda: self.told(functional.gelu(up), "activation:gelu", width))
        else:
            gated = functional.silu(self.linear(self.block.gate, x_BTD)) * up
            inner = self.told(gated, "activation:gated", width)
        return self.linear(self.block.down, inner)


def attend(sizes: BlockSizes, query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> Tensor:
    """Attention of all heads, the few key heads repeated; fused, as transformers runs it.

    Shapes: [B, T, A], [B, T, K], [B, T, K] -> [B, T, A].
    """
    query, key, value = (_heads(x, sizes.head_dim) for x in (query, key, value))
    repeats = sizes.num_heads // sizes.num_kv_heads
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
    return mixed.transpose(1, 2).flatten(2)


def _heads(x: Tensor, head_dim: int) -> Tensor:
    return x.view(*x.shape[:2], -1, head_dim).transpose(1, 2)


def rotate(sizes: BlockSizes, x_BTA: Tensor) -> Tensor:
    """Rotary positions as common implementations apply them; the angles are any."""
    x_BHTE = _heads(x_BTA, sizes.head_dim)
    left, right = x_BHTE.chunk(2, dim=-1)
    angles = x_BHTE[:1, :1].detach()
    turned = x_BHTE * angles + torch.cat((-right, left), dim=-1) * angles
    return turned.transpose(1, 2).flatten(2)
