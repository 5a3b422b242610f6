from __future__ import annotations

import pytest
import torch

from mobisim.training.codec import CODECS, decode, encode

REASON = "bitsandbytes is not installed: its code tables cannot be compared"


@pytest.mark.parametrize("codec", ["nf4", "fp4"])
def test_code_table_is_that_of_bitsandbytes(codec: str) -> None:
    """Each 4-bit code stands for the value that bitsandbytes gives it, up to one rounding."""
    twin = pytest.importorskip("bitsandbytes.functional", reason=REASON)
    theirs = twin.get_4bit_type(codec, device="cpu")
    torch.testing.assert_close(torch.tensor(CODECS[codec].levels), theirs, rtol=2e-7, atol=0)


@pytest.mark.parametrize("codec", ["nf4", "fp4"])
def test_round_trip_is_that_of_bitsandbytes(codec: str) -> None:
    """Real activations come back as bitsandbytes would give them back, but for values on a tie."""
    twin = pytest.importorskip("bitsandbytes.functional", reason=REASON)
    values = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    packed, state = twin.quantize_4bit(values, blocksize=64, quant_type=codec)
    theirs = twin.dequantize_4bit(packed, state)
    ours = decode(encode(values, codec, 64), 64, 128, codec, 64)
    apart = (ours - theirs).abs() > 1e-5
    assert apart.float().mean() < 1e-3


def test_nf4_codes_are_packed_as_bitsandbytes_packs_them() -> None:
    """The code bytes themselves agree: two to a byte, the first in the high half."""
    twin = pytest.importorskip("bitsandbytes.functional", reason=REASON)
    values = torch.randn(16, 64, generator=torch.Generator().manual_seed(1))
    packed, _ = twin.quantize_4bit(values, blocksize=64, quant_type="nf4")
    ours = encode(values, "nf4", 64)[16 * 4 :]
    assert (packed.flatten() != ours).float().mean() < 1e-2
