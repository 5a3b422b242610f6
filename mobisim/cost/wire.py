"""Bytes of a mini-batch on the uplink: codes, block scales, labels and framing.

The layout is written down in DESIGN.md; mobisim.training produces the very bytes that this module
counts, and tests hold the two together.
"""

from __future__ import annotations

import math

from mobisim.cost.work import BatchShape
from mobisim.errors import InputError
from mobisim.scenario.method_options import Codec
from mobisim.scenario.schema import Wire

CODEC_BITS: dict[Codec, int] = {
    "fp32": 32,
    "fp16": 16,
    "bf16": 16,
    "int8": 8,
    "int4": 4,
    "int3": 3,
    "int2": 2,
    "fp4": 4,
    "nf4": 4,
}
SCALE_BYTES = 4  # one fp32 absolute maximum per block, as bitsandbytes keeps it
UNSCALED: tuple[Codec, ...] = ("fp32", "fp16", "bf16")
HEADER_BYTES = 32
LENGTH_BYTES = 2
LABEL_BYTES = 4


def encoded_bytes(num_tokens: int, width: int, codec: Codec, block_size: int) -> int:
    """Bytes of one tap's activations: scales, then codes packed tight."""
    scales = 0 if codec in UNSCALED else num_tokens * math.ceil(width / block_size) * SCALE_BYTES
    return scales + math.ceil(num_tokens * width * CODEC_BITS[codec] / 8)


def payload_parts(
    wire: Wire, shape: BatchShape | None, width: int, num_taps: int, *, by_layer: bool
) -> tuple[int, ...]:
    """Bytes of each message of a mini-batch: one, or with `by_layer` one per tap.

    Raises:
        InputError: a stated payload of fewer bytes than messages.
    """
    num_messages = num_taps if by_layer else 1
    if wire.payload_bytes is not None:
        return _split(wire.payload_bytes, num_messages)
    assert shape is not None
    assert wire.codec is not None
    tap = encoded_bytes(shape.num_tokens, width, wire.codec, wire.block_size)
    taps_each = num_taps // num_messages
    labels = LENGTH_BYTES * shape.num_samples + LABEL_BYTES * shape.num_labels
    first = HEADER_BYTES + labels + taps_each * tap
    return (first, *[HEADER_BYTES + tap] * (num_messages - 1))


def _split(total: int, parts: int) -> tuple[int, ...]:
    if total < parts:
        raise InputError(
            "too small: each tap's message needs at least one byte",
            where="wire.payload_bytes",
            expected=f"at least {parts} with layer granularity",
            got=str(total),
        )
    each, rest = divmod(total, parts)
    return tuple(each + (part < rest) for part in range(parts))
