"""Messages: what crosses the uplink for one mini-batch, byte for byte.

Axes: N real tokens of the mini-batch, L taps, R bytes of one encoded token.

A message is a header of 32 bytes, then (first message of a mini-batch only) one unsigned 16-bit
length per sample and the 32-bit labels, then the taps as the codec laid them out. The header, in
little-endian order: magic "MBSM", version u8, kind of labels u8, codec u16, device u32, batch u64,
first tap u16, number of taps u16, number of samples u32, number of tokens sent u32. Codec, block
size and width are agreed before the first payload; the header repeats the codec to catch a mix-up.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobisim.errors import InputError
from mobisim.training.codec import (
    CODECS,
    TapFormat,
    encode_rows,
    rows_to_wire,
    wire_to_rows,
)

Granularity = Literal["batch", "layer"]
LabelKind = Literal["sample", "token"]

MAGIC = b"MBSM"
VERSION = 1
NO_LABEL = -100  # a position without a next token, and padding; torch's own ignore index

_HEADER = struct.Struct("<4sBBHIQHHII")
HEADER_BYTES = _HEADER.size
_LABEL_KINDS: tuple[LabelKind, ...] = ("sample", "token")
_CODEC_NAMES = tuple(CODECS)


@dataclass(frozen=True)
class Payload:
    """One mini-batch on its way: encoded taps of real tokens, with lengths and labels.

    Shapes: lengths [B]; labels [B], or [N] for next-token; rows_LNR uint8 [L, N, R].
    """

    device: int
    batch: int
    label_kind: LabelKind
    lengths: NDArray[np.int64]
    labels: NDArray[np.int64]
    rows_LNR: Tensor


@dataclass(frozen=True)
class _Header:
    """The first 32 bytes of a message."""

    magic: bytes
    version: int
    label_kind: int
    codec: int
    device: int
    batch: int
    first_tap: int
    num_taps: int
    num_samples: int
    num_tokens: int

    @property
    def num_labels(self) -> int:
        return self.num_tokens if _LABEL_KINDS[self.label_kind] == "token" else self.num_samples


def pack(
    payload: Payload,
    layout: TapFormat,
    *,
    granularity: Granularity = "batch",
    padded_length: int | None = None,
) -> list[bytes]:
    """The messages of one mini-batch: one in all, or one per tap.

    With `padded_length`, every sample is sent as that many tokens; padding travels as zero
    activations and, for next-token, as positions without a label.
    """
    slots, num_sent = _slots(payload.lengths, padded_length)
    taps = [
        rows_to_wire(_spread(rows_NR, slots, num_sent, layout), layout).numpy().tobytes()
        for rows_NR in payload.rows_LNR
    ]
    parts = [b"".join(taps)] if granularity == "batch" else taps
    taps_each = len(taps) // len(parts)
    front = _front(payload, slots, num_sent)
    return [
        _header(payload, layout, 1 + part * taps_each, taps_each, num_sent)
        + (front if part == 0 else b"")
        + body
        for part, body in enumerate(parts)
    ]


def unpack(messages: Sequence[bytes], layout: TapFormat) -> Payload:
    """The mini-batch that the messages of `pack` carry, padding dropped.

    Raises: InputError where a message is cut, foreign, or contradicts the others.
    """
    headers = [_read_header(message, layout) for message in messages]
    head = _agreed(headers)
    lengths, labels, start = _read_front(messages[0], head)
    slots, num_sent = _slots(lengths, _padded_length(lengths, head))
    taps = [
        wire_to_rows(tap, num_sent, layout)[slots]
        for part, (message, header) in enumerate(zip(messages, headers, strict=True))
        for tap in _split(message, start if part == 0 else HEADER_BYTES, header, layout)
    ]
    kind = _LABEL_KINDS[head.label_kind]
    labels = labels[slots.numpy()] if kind == "token" else labels
    return Payload(head.device, head.batch, kind, lengths, labels, torch.stack(taps))


def num_bytes(
    layout: TapFormat,
    *,
    num_taps: int,
    num_samples: int,
    num_tokens: int,
    num_labels: int,
    granularity: Granularity = "batch",
) -> int:
    """Bytes of all messages of a mini-batch of `num_tokens` tokens sent."""
    num_messages = 1 if granularity == "batch" else num_taps
    front = 2 * num_samples + 4 * num_labels
    return HEADER_BYTES * num_messages + front + num_taps * layout.num_bytes(num_tokens)


def _slots(lengths: NDArray[np.int64], padded_length: int | None) -> tuple[Tensor, int]:
    """Where each real token stands among the tokens sent, and how many are sent."""
    num_real = int(lengths.sum())
    if padded_length is None:
        return torch.arange(num_real), num_real
    if int(lengths.max(initial=0)) > padded_length:
        raise InputError(
            "a sample is longer than the padded length",
            expected=f"at most {padded_length} tokens",
            got=f"{int(lengths.max())}",
        )
    shifts = padded_length * np.arange(len(lengths)) - (np.cumsum(lengths) - lengths)
    slots = np.arange(num_real) + np.repeat(shifts, lengths)
    return torch.from_numpy(slots), padded_length * len(lengths)


def _spread(rows_NR: Tensor, slots: Tensor, num_sent: int, layout: TapFormat) -> Tensor:
    """Rows of all tokens sent, the padding as encoded zeros."""
    if num_sent == len(slots):
        return rows_NR
    padding = encode_rows(torch.zeros(1, layout.width), layout)
    sent = padding.repeat(num_sent, 1)
    sent[slots] = rows_NR
    return sent


def _front(payload: Payload, slots: Tensor, num_sent: int) -> bytes:
    """Lengths and labels as bytes."""
    labels = payload.labels
    if payload.label_kind == "token":
        labels = np.full(num_sent, NO_LABEL, dtype=np.int64)
        labels[slots.numpy()] = payload.labels
    if int(payload.lengths.max(initial=0)) > np.iinfo(np.uint16).max:
        raise InputError("a sample has more than 65535 tokens", got=f"{payload.lengths.max()}")
    return payload.lengths.astype("<u2").tobytes() + labels.astype("<i4").tobytes()


def _header(
    payload: Payload, layout: TapFormat, first_tap: int, num_taps: int, num_sent: int
) -> bytes:
    return _HEADER.pack(
        MAGIC,
        VERSION,
        _LABEL_KINDS.index(payload.label_kind),
        _CODEC_NAMES.index(layout.codec),
        payload.device,
        payload.batch,
        first_tap,
        num_taps,
        len(payload.lengths),
        num_sent,
    )


def _read_header(message: bytes, layout: TapFormat) -> _Header:
    """The header of one message.

    Raises: InputError where it is cut, or not ours, or of another codec.
    """
    _expect("message length", len(message) >= HEADER_BYTES, f">= {HEADER_BYTES}", len(message))
    header = _Header(*_HEADER.unpack_from(message))
    ours = (MAGIC, VERSION)
    _expect("magic and version", (header.magic, header.version) == ours, ours, header)
    _expect("kind of labels", header.label_kind < len(_LABEL_KINDS), _LABEL_KINDS, header)
    codec = _CODEC_NAMES.index(layout.codec)
    _expect("codec", header.codec == codec, f"{codec} ({layout.codec})", header.codec)
    return header


def _agreed(headers: list[_Header]) -> _Header:
    """The first header, once the taps follow each other and all else agrees."""
    _expect("number of messages", bool(headers), "at least one", 0)
    expected = 1
    for header in headers:
        _expect("first tap", header.first_tap == expected, expected, header.first_tap)
        expected += header.num_taps
    common = {(h.label_kind, h.device, h.batch, h.num_samples, h.num_tokens) for h in headers}
    _expect("mini-batch", len(common) == 1, "one and the same in all messages", sorted(common))
    return headers[0]


def _read_front(message: bytes, head: _Header) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Lengths and labels, and where the taps start."""
    middle = HEADER_BYTES + 2 * head.num_samples
    end = middle + 4 * head.num_labels
    _expect("first message", len(message) >= end, f">= {end} bytes", len(message))
    lengths = np.frombuffer(message[HEADER_BYTES:middle], "<u2").astype(np.int64)
    labels = np.frombuffer(message[middle:end], "<i4").astype(np.int64)
    return lengths, labels, end


def _padded_length(lengths: NDArray[np.int64], head: _Header) -> int | None:
    """Tokens sent per sample where padding was sent, else None."""
    num_real = int(lengths.sum())
    if head.num_tokens == num_real:
        return None
    padded, rest = divmod(head.num_tokens, max(1, head.num_samples))
    whole = rest == 0 and padded >= int(lengths.max(initial=0))
    _expect("number of tokens", whole, f"{num_real}, or the padded samples", head.num_tokens)
    return padded


def _split(message: bytes, start: int, header: _Header, layout: TapFormat) -> list[Tensor]:
    """The taps of one message as byte tensors."""
    size = layout.num_bytes(header.num_tokens)
    expected = start + header.num_taps * size
    _expect("message length", len(message) == expected, f"{expected} bytes", len(message))
    body = torch.frombuffer(bytearray(message), dtype=torch.uint8)[start:]
    return [body[i * size : (i + 1) * size] for i in range(header.num_taps)]


def _expect(what: str, holds: bool, expected: object, got: object) -> None:
    if not holds:
        raise InputError(f"corrupt uplink message: {what}", expected=str(expected), got=str(got))
