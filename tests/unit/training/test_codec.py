from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mobisim.errors import InputError
from mobisim.training.codec import (
    CODECS,
    TapFormat,
    decode,
    decode_rows,
    encode,
    encode_rows,
    rows_to_wire,
    wire_to_rows,
)

SCALED = sorted(name for name, codec in CODECS.items() if codec.has_scales)
# The widest gap between neighbouring levels, as a part of absmax, halved.
HALF_STEP = {
    name: max(b - a for a, b in itertools.pairwise(levels)) / 2
    for name in SCALED
    for levels in [sorted(set(CODECS[name].levels))]
}


@st.composite
def arrays(draw: st.DrawFn) -> tuple[torch.Tensor, int]:
    tokens, width = draw(st.integers(1, 5)), draw(st.integers(1, 40))
    source = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    scale = 10.0 ** draw(st.integers(-30, 4))
    return torch.randn(tokens, width, generator=source) * scale, draw(st.integers(1, 48))


def absmax_of_block(values: torch.Tensor, block_size: int) -> torch.Tensor:
    """Each value's block maximum, by plain loops."""
    result = torch.empty_like(values)
    for token in range(values.shape[0]):
        for start in range(0, values.shape[1], block_size):
            block = slice(start, start + block_size)
            result[token, block] = values[token, block].abs().max()
    return result


@pytest.mark.parametrize("codec", SCALED)
@given(case=arrays())
def test_error_is_at_most_half_a_step(codec: str, case: tuple[torch.Tensor, int]) -> None:
    """No value comes back further off than half the widest step of its own block."""
    values, block_size = case
    packed = encode(values, codec, block_size)
    decoded = decode(packed, len(values), values.shape[1], codec, block_size)
    bound = absmax_of_block(values, block_size) * (HALF_STEP[codec] + 1e-6)
    assert ((decoded - values).abs() <= bound).all()


@pytest.mark.parametrize(("codec", "relative"), [("fp32", 0), ("fp16", 2**-11), ("bf16", 2**-8)])
@given(seed=st.integers(0, 1000))
def test_floats_round_to_nearest(codec: str, relative: float, seed: int) -> None:
    """A float codec errs by at most half a unit in the last place."""
    values = torch.randn(3, 17, generator=torch.Generator().manual_seed(seed)) + 3
    decoded = decode(encode(values, codec, 64), 3, 17, codec, 64)
    assert ((decoded - values).abs() <= values.abs() * relative).all()


@pytest.mark.parametrize("codec", sorted(CODECS))
@given(case=arrays())
def test_length_follows_the_formula(codec: str, case: tuple[torch.Tensor, int]) -> None:
    """A tap takes 4 bytes per block and its codes packed tight, to the byte."""
    values, block_size = case
    values = values.clamp(-1e4, 1e4)
    tokens, width = values.shape
    blocks = math.ceil(width / block_size) if codec in SCALED else 0
    expected = 4 * tokens * blocks + math.ceil(tokens * width * CODECS[codec].bits / 8)
    assert encode(values, codec, block_size).numel() == expected


@pytest.mark.parametrize("codec", sorted(CODECS))
@given(case=arrays())
def test_rows_and_wire_hold_the_same(codec: str, case: tuple[torch.Tensor, int]) -> None:
    """Cached rows survive the wire byte for byte, and both decode to the same values."""
    values, block_size = case
    values = values.clamp(-1e4, 1e4)
    layout = TapFormat(codec, block_size, values.shape[1])
    rows = encode_rows(values, layout)
    assert torch.equal(wire_to_rows(rows_to_wire(rows, layout), len(values), layout), rows)
    wire = decode(rows_to_wire(rows, layout), len(values), layout.width, codec, block_size)
    assert torch.equal(wire, decode_rows(rows, layout))


def test_layout_of_int4_by_hand() -> None:
    """Scales first, then codes two to a byte, the first in the high half, the last filled up."""
    values = torch.tensor([[7.0, -7.0, 1.0], [0.0, 3.5, -2.0]])
    scales = b"".join(torch.tensor(scale).numpy().tobytes() for scale in (7.0, 1.0, 3.5, 2.0))
    # codes are level + 7: 14 0 | 14, 7 14 | 0
    codes = bytes([14 << 4 | 0, 14 << 4 | 7, 14 << 4 | 0])
    assert encode(values, "int4", 2).numpy().tobytes() == scales + codes


def test_layout_of_int3_straddles_bytes() -> None:
    """Three-bit codes run on across byte borders and across tokens."""
    values = torch.tensor([[3.0, -3.0], [2.0, 3.0]])
    bits = "110000101110" + "0000"
    expected = int(bits, 2).to_bytes(2, "big")
    assert encode(values, "int3", 2).numpy().tobytes()[8:] == expected


def test_blocks_never_cross_tokens() -> None:
    """An outlier in one token leaves every other token as it was."""
    values = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    spoiled = values.clone()
    spoiled[1, -1] = 1e6
    others = [0, 2, 3]
    for codec in SCALED:
        before, after = (decode(encode(x, codec, 64), 4, 10, codec, 64) for x in (values, spoiled))
        assert torch.equal(before[others], after[others])


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_zeros_stay_zero(codec: str) -> None:
    """A block of zeros has scale zero and comes back as zeros."""
    assert not decode(encode(torch.zeros(2, 5), codec, 3), 2, 5, codec, 3).any()


@pytest.mark.parametrize("codec", sorted(CODECS))
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_no_codec_carries_nan_or_infinity(codec: str, bad: float) -> None:
    """A value that is no number is refused before it is hidden in a code."""
    with pytest.raises(InputError, match="NaN or infinity"):
        encode(torch.tensor([[1.0, bad]]), codec, 2)


def test_fp16_refuses_what_it_cannot_hold() -> None:
    """Overflow names the value and a codec that would do, in place of saturating."""
    with pytest.raises(InputError, match=r"got: 70000\n.*bf16"):
        encode(torch.tensor([[7e4]]), "fp16", 1)


def test_unknown_codec_names_the_nearest() -> None:
    """A mistyped codec is answered with the one meant."""
    with pytest.raises(InputError, match="did you mean 'nf4'"):
        TapFormat("nf44", 64, 8)


def test_empty_block_is_refused() -> None:
    """A block of no values cannot be laid out."""
    with pytest.raises(InputError, match="at least one value"):
        TapFormat("nf4", 0, 8)


def test_cut_tap_is_refused() -> None:
    """Bytes missing at the end are noticed, and both lengths told."""
    packed = encode(torch.ones(2, 8), "int8", 8)
    with pytest.raises(InputError, match=r"expected: 24 bytes\n.*got: 23 bytes"):
        decode(packed[:-1], 2, 8, "int8", 8)
