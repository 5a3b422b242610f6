"""Codecs: activations to really packed bytes and back.

Axes: N tokens, D width, K blocks of one token, R bytes of one token, T any leading axes.

A block lies along the width of one token, so no scale is shared between tokens. On the wire a tap
is all fp32 absmax scales (N·K), then all codes, packed most significant bit first over the flat N·D
values and filled with zero bits to a whole byte. In a cache a tap is *rows*: one token's scales and
its codes side by side, each token on a whole byte, so that tokens can be gathered. Both hold the
same scales and codes. Numbers are little-endian, as on every machine that torch supports.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mobisim.errors import InputError, unknown_name

SCALE_BYTES = 4
_BYTE = 8


@dataclass(frozen=True)
class Codec:
    """A quantiser pair and its bits per value; `levels` in code order where blocks are scaled."""

    name: str
    bits: int
    description: str
    source: str
    levels: tuple[float, ...] = ()
    dtype: torch.dtype | None = None

    @property
    def has_scales(self) -> bool:
        """Whether each block carries an absmax scale."""
        return bool(self.levels)


def _integer(bits: int) -> Codec:
    """The symmetric absmax quantiser of `bits` bits: code 0 is the lowest level."""
    top = 2 ** (bits - 1) - 1
    levels = tuple(value / top for value in range(-top, top + 1))
    text = f"symmetric integers -{top}..{top} times the block's absmax, rounded to nearest"
    return Codec(f"int{bits}", bits, text, "absmax quantisation: Dettmers et al. 2022", levels)


# The tables of bitsandbytes 0.50 (functional.get_4bit_type); a twin test holds them equal.
_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
_FP4_MAGNITUDES = (0.0, 0.0625 / 12, 8 / 12, 1.0, 4 / 12, 6 / 12, 2 / 12, 3 / 12)
_FP4 = (*_FP4_MAGNITUDES, *(-magnitude for magnitude in _FP4_MAGNITUDES))

CODECS: dict[str, Codec] = {
    codec.name: codec
    for codec in (
        Codec("fp32", 32, "IEEE single precision, unchanged", "IEEE 754", dtype=torch.float32),
        Codec("fp16", 16, "IEEE half precision; beyond 65504 refused", "IEEE 754",
              dtype=torch.float16),
        Codec("bf16", 16, "bfloat16: the upper half of fp32, rounded", "Kalamkar et al. 2019",
              dtype=torch.bfloat16),
        *(_integer(bits) for bits in (8, 4, 3, 2)),
        Codec("fp4", 4, "1 sign, 2 exponent, 1 mantissa bit times the block's absmax",
              "bitsandbytes", _FP4),
        Codec("nf4", 4, "16 quantiles of the normal distribution times the block's absmax",
              "QLoRA: Dettmers et al. 2023", _NF4),
    )
}  # fmt: skip


@dataclass(frozen=True)
class TapFormat:
    """How one tap is laid out in bytes, agreed by both sides before the first payload."""

    codec: str
    block_size: int
    width: int

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise unknown_name("codec", self.codec, CODECS)
        if self.block_size < 1:
            raise InputError("a block holds at least one value", got=str(self.block_size))

    @property
    def bits(self) -> int:
        """Bits per value, scales excluded."""
        return CODECS[self.codec].bits

    @property
    def num_blocks(self) -> int:
        """Blocks of one token (K); zero where the codec has no scales."""
        return math.ceil(self.width / self.block_size) if CODECS[self.codec].has_scales else 0

    @property
    def row_bytes(self) -> int:
        """Bytes of one token in a cache (R)."""
        return SCALE_BYTES * self.num_blocks + math.ceil(self.width * self.bits / 8)

    @property
    def is_aligned(self) -> bool:
        """Whether the codes of each token end on a whole byte."""
        return self.width * self.bits % 8 == 0

    def num_bytes(self, num_tokens: int) -> int:
        """Bytes of a tap of `num_tokens` tokens on the wire."""
        scales = SCALE_BYTES * self.num_blocks * num_tokens
        return scales + math.ceil(num_tokens * self.width * self.bits / 8)


def encode(values_ND: Tensor, codec: str, block_size: int) -> Tensor:
    """The wire bytes of one tap.

    Shapes: [N, D] -> uint8 [TapFormat.num_bytes(N)].
    Raises: InputError where a value is NaN, infinite, or beyond the range of fp16.
    """
    layout = TapFormat(codec, block_size, values_ND.shape[1])
    return rows_to_wire(encode_rows(values_ND, layout), layout)


def decode(packed: Tensor, num_tokens: int, width: int, codec: str, block_size: int) -> Tensor:
    """The values that `encode` kept.

    Shapes: uint8 [TapFormat.num_bytes(N)] -> fp32 [N, D].
    """
    layout = TapFormat(codec, block_size, width)
    return decode_rows(wire_to_rows(packed, num_tokens, layout), layout)


def encode_rows(values_TD: Tensor, layout: TapFormat) -> Tensor:
    """Tokens encoded side by side, each on whole bytes.

    Shapes: [..., D] -> uint8 [..., R].
    Raises: InputError where a value is NaN, infinite, or beyond the range of fp16.
    """
    values_TD = _finite(values_TD.float())
    if not CODECS[layout.codec].has_scales:
        return _cast(values_TD, CODECS[layout.codec]).view(torch.uint8)
    scales_TK, codes_TD = _quantise(values_TD, layout)
    return torch.cat([scales_TK.view(torch.uint8), _pack(codes_TD, layout.bits)], dim=-1)


def decode_rows(rows_TR: Tensor, layout: TapFormat) -> Tensor:
    """The values of encoded tokens.

    Shapes: uint8 [..., R] -> fp32 [..., D].
    """
    codec = CODECS[layout.codec]
    if codec.dtype is not None:
        return rows_TR.contiguous().view(codec.dtype).float()
    cut = SCALE_BYTES * layout.num_blocks
    # clone, not contiguous(): the latter keeps odd strides where there is one token only
    scales = rows_TR[..., :cut].clone(memory_format=torch.contiguous_format)
    scales_TK = scales.view(torch.float32)
    levels_TD = _look_up(rows_TR[..., cut:], layout)
    return _times_scale(levels_TD, scales_TK, layout.block_size)


def rows_to_wire(rows_NR: Tensor, layout: TapFormat) -> Tensor:
    """The wire layout of cached rows.

    Shapes: uint8 [N, R] -> uint8 [TapFormat.num_bytes(N)].
    """
    cut = SCALE_BYTES * layout.num_blocks
    codes = rows_NR[:, cut:]
    if not layout.is_aligned:
        codes = _pack(_unpack(codes, layout.bits)[:, : layout.width].flatten(), layout.bits)
    return torch.cat([rows_NR[:, :cut].flatten(), codes.flatten()])


def wire_to_rows(packed: Tensor, num_tokens: int, layout: TapFormat) -> Tensor:
    """The cached rows of a tap that came over the wire.

    Shapes: uint8 [TapFormat.num_bytes(N)] -> uint8 [N, R].
    """
    if packed.numel() != layout.num_bytes(num_tokens):
        raise InputError(
            f"a {layout.codec} tap of {num_tokens} tokens has the wrong length",
            expected=f"{layout.num_bytes(num_tokens)} bytes",
            got=f"{packed.numel()} bytes",
        )
    cut = SCALE_BYTES * layout.num_blocks * num_tokens
    codes = packed[cut:]
    if not layout.is_aligned:
        flat = _unpack(codes, layout.bits)[: num_tokens * layout.width]
        codes = _pack(flat.view(num_tokens, layout.width), layout.bits)
    return torch.cat([packed[:cut].view(num_tokens, -1), codes.view(num_tokens, -1)], dim=1)


def _finite(values: Tensor) -> Tensor:
    if not torch.isfinite(values).all():
        raise InputError(
            "activations hold NaN or infinity",
            hint="the backbone's weights or its input are broken; no codec can carry them",
        )
    return values


def _cast(values: Tensor, codec: Codec) -> Tensor:
    """The values in the codec's own float type."""
    assert codec.dtype is not None
    cast = values.contiguous().to(codec.dtype)
    # Saturating would hide the very outliers that matter most in decoders.
    if not torch.isfinite(cast).all():
        raise InputError(
            f"activations overflow {codec.name}",
            expected=f"at most {torch.finfo(codec.dtype).max:g}",
            got=f"{values.abs().max().item():g}",
            hint="use bf16, or a codec with block scales",
        )
    return cast


def _quantise(values_TD: Tensor, layout: TapFormat) -> tuple[Tensor, Tensor]:
    """Absmax scales [..., K] and codes [..., D] of the values."""
    missing = layout.num_blocks * layout.block_size - layout.width
    blocks = _grouped(functional.pad(values_TD, (0, missing)), layout.block_size)
    scales_TK = blocks.abs().amax(dim=-1)
    divisors = torch.where(scales_TK > 0, scales_TK, torch.ones_like(scales_TK))
    codes = _codes(blocks / divisors.unsqueeze(-1), CODECS[layout.codec])
    return scales_TK, codes.flatten(-2)[..., : layout.width]


def _codes(ratios: Tensor, codec: Codec) -> Tensor:
    """The code of the level nearest to each ratio in [-1, 1]."""
    if codec.name.startswith("int"):
        top = len(codec.levels) // 2
        return ratios.mul_(top).round_().add_(top).to(torch.uint8)
    midpoints, order = _nearest_table(codec.name)
    return order[torch.bucketize(ratios, midpoints, out_int32=True)]


@functools.cache
def _nearest_table(name: str) -> tuple[Tensor, Tensor]:
    """Midpoints between the sorted levels, and the code of each interval."""
    levels = torch.tensor(CODECS[name].levels)
    # fp4 has two zeros; a stable sort keeps the positive one first, and the other gets no interval.
    ordered, order = torch.sort(levels, stable=True)
    keep = torch.cat([torch.tensor([True]), ordered[1:] != ordered[:-1]])
    ordered, order = ordered[keep], order[keep]
    return (ordered[1:] + ordered[:-1]) / 2, order.to(torch.uint8)


def _times_scale(levels_TD: Tensor, scales_TK: Tensor, block_size: int) -> Tensor:
    """Each value times the scale of its block."""
    width = levels_TD.shape[-1]
    if width % block_size == 0:
        blocks = _grouped(levels_TD, block_size)
        return (blocks * scales_TK.unsqueeze(-1)).flatten(-2)
    return levels_TD * scales_TK.repeat_interleave(block_size, dim=-1)[..., :width]


def _grouped(values: Tensor, size: int) -> Tensor:
    """The last axis cut into groups: [..., n] -> [..., n / size, size]."""
    return values.reshape(*values.shape[:-1], values.shape[-1] // size, size)


def _group(bits: int) -> tuple[int, int]:
    """The fewest codes that fill whole bytes, and those bytes."""
    num_codes = 8 // math.gcd(8, bits)
    return num_codes, num_codes * bits // 8


def _pack(codes: Tensor, bits: int) -> Tensor:
    """Codes packed along the last axis, first code highest, filled up with zero bits."""
    if bits == _BYTE:
        return codes
    num_codes, num_bytes = _group(bits)
    length = codes.shape[-1]
    groups = _grouped(functional.pad(codes, (0, -length % num_codes)), num_codes).int()
    words = (groups << _shifts(num_codes, bits)).sum(dim=-1, keepdim=True, dtype=torch.int32)
    packed = (words >> _shifts(num_bytes, 8)).to(torch.uint8)
    return packed.flatten(-2)[..., : math.ceil(length * bits / 8)]


def _unpack(packed: Tensor, bits: int) -> Tensor:
    """Codes along the last axis, those of the filling bits included."""
    if bits == _BYTE:
        return packed
    num_codes, num_bytes = _group(bits)
    padded = functional.pad(packed, (0, -packed.shape[-1] % num_bytes))
    groups = _grouped(padded, num_bytes).int()
    words = (groups << _shifts(num_bytes, 8)).sum(dim=-1, keepdim=True, dtype=torch.int32)
    codes: Tensor = (words >> _shifts(num_codes, bits)) & (2**bits - 1)
    return codes.to(torch.uint8).flatten(-2)


@functools.cache
def _shifts(count: int, bits: int) -> Tensor:
    return torch.arange(count - 1, -1, -1, dtype=torch.int32) * bits


def _look_up(codes_TR: Tensor, layout: TapFormat) -> Tensor:
    """The level of each code [..., D], by a table that answers one byte at a time."""
    if _BYTE % layout.bits:  # codes straddle bytes
        codes = _unpack(codes_TR, layout.bits)[..., : layout.width]
        return _level_table(layout.codec)[codes.int()].squeeze(-1)
    table = _level_table(layout.codec)
    values: Tensor = functional.embedding(codes_TR.int(), table)
    return values.flatten(-2)[..., : layout.width]


@functools.cache
def _level_table(name: str) -> Tensor:
    """The levels behind every index: a byte of codes, or one code where they straddle bytes."""
    codec = CODECS[name]
    levels = torch.zeros(2**codec.bits)
    levels[: len(codec.levels)] = torch.tensor(codec.levels)
    if _BYTE % codec.bits:
        return levels.unsqueeze(-1)
    return levels[_unpack(torch.arange(256, dtype=torch.uint8).unsqueeze(-1), codec.bits).int()]
