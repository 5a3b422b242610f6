"""Messages: what crosses the uplink for one mini-batch, byte for byte.

Axes: N real tokens of the mini-batch, L taps, R bytes of one encoded token.

A message is a header of 32 bytes, then (first message of a mini-batch only) one unsigned 16-bit
length per sample and the 32-bit labels, integers or, as residuals of predictions, one float per
sample and class, then the taps as the codec laid them out. The header, in
little-endian order: magic "MBSM", version u8, kind of labels u8, codec u16, device u32, batch u64,
first tap u16, number of taps u16, number of samples u32, number of tokens sent u32. Codec, block
size, width and classes are agreed before the first payload; the header repeats the codec to catch a
mix-up.
"""

from __future__ import annotations

import dataclasses
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
LabelKind = Literal["sample", "token", "residual"]
Labels = NDArray[np.int64] | NDArray[np.float32]

MAGIC = b"MBSM"
VERSION = 1
NO_LABEL = -100  # a position without a next token, and padding; torch's own ignore index

_HEADER = struct.Struct("<4sBBHIQHHII")
HEADER_BYTES = _HEADER.size
_LABEL_KINDS: tuple[LabelKind, ...] = ("sample", "token", "residual")
_CODEC_NAMES = tuple(CODECS)


@dataclass(frozen=True)
class Payload:
    """One mini-batch on its way: encoded taps of real tokens, with lengths and labels.

    Shapes: lengths [B]; labels [B], [N] for next-token, [B, C] as residuals; rows_LNR uint8
    [L, N, R].
    """

    device: int
    batch: int
    label_kind: LabelKind
    lengths: NDArray[np.int64]
    labels: Labels
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
    def mini_batch(self) -> tuple[int, ...]:
        """What all messages of a mini-batch have in common."""
        return self.label_kind, self.device, self.batch, self.num_samples, self.num_tokens

    def num_labels(self, num_classes: int) -> int:
        kind = _LABEL_KINDS[self.label_kind]
        if kind == "token":
            return self.num_tokens
        return self.num_samples * (num_classes if kind == "residual" else 1)


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
    rows_LNR = payload.rows_LNR
    size = len(rows_LNR) if granularity == "batch" else 1
    return [
        pack_part(
            dataclasses.replace(payload, rows_LNR=rows_LNR[start : start + size]),
            layout,
            first_tap=1 + start,
            padded_length=padded_length,
        )
        for start in range(0, len(rows_LNR), size)
    ]


def pack_part(
    payload: Payload, layout: TapFormat, *, first_tap: int, padded_length: int | None = None
) -> bytes:
    """One message: the payload's taps, of which the first is number `first_tap` (from 1)."""
    slots, num_sent = _slots(payload.lengths, padded_length)
    taps = [
        rows_to_wire(_spread(rows_NR, slots, num_sent, layout), layout).numpy().tobytes()
        for rows_NR in payload.rows_LNR
    ]
    first = front(payload, padded_length) if first_tap == 1 else b""
    return b"".join([_header(payload, layout, first_tap, len(taps), num_sent), first, *taps])


def unpack(messages: Sequence[bytes], layout: TapFormat, num_classes: int = 0) -> Payload:
    """The mini-batch that the messages of `pack` carry, padding dropped.

    `num_classes` is needed where labels are residuals.

    Raises: InputError where a message is cut, foreign, or contradicts the others.
    """
    unpacking = Unpacking(layout, num_classes)
    rows = [unpacking.add(message) for message in messages]
    return unpacking.payload(rows)


class Unpacking:
    """One mini-batch on its way in, message by message."""

    def __init__(self, layout: TapFormat, num_classes: int = 0) -> None:
        self.layout, self.num_classes = layout, num_classes
        self.next_tap = 1
        self.lengths = np.zeros(0, np.int64)
        self.labels: Labels = np.zeros(0, np.int64)
        self._head: _Header | None = None
        self._slots = torch.zeros(0)

    @property
    def label_kind(self) -> LabelKind:
        """Whether labels are those of samples or of tokens."""
        return _LABEL_KINDS[self._first().label_kind]

    @property
    def batch(self) -> int:
        """The mini-batch's number."""
        return self._first().batch

    def add(self, message: bytes) -> Tensor:
        """The encoded taps of the next message, padding dropped.

        Shapes: uint8 [taps of the message, N, R].
        Raises: InputError where it is cut, foreign, or contradicts the messages before.
        """
        header = _read_header(message, self.layout)
        _expect("first tap", header.first_tap == self.next_tap, self.next_tap, header.first_tap)
        start = HEADER_BYTES
        if self._head is None:
            start = self._open(message, header)
        expected, got = self._first().mini_batch, header.mini_batch
        _expect("mini-batch", got == expected, f"as before: {expected}", got)
        taps = _split(message, start, header, self.layout)
        self.next_tap += header.num_taps
        rows = [wire_to_rows(tap, header.num_tokens, self.layout)[self._slots] for tap in taps]
        return torch.stack(rows)

    def payload(self, rows: Sequence[Tensor]) -> Payload:
        """The whole mini-batch, given what `add` returned."""
        head = self._first()
        kind = self.label_kind
        return Payload(
            head.device, head.batch, kind, self.lengths, self.labels, torch.cat(list(rows))
        )

    def _first(self) -> _Header:
        _expect("number of messages", self._head is not None, "at least one", 0)
        assert self._head is not None
        return self._head

    def _open(self, message: bytes, head: _Header) -> int:
        """Read what only the first message brings: where its taps start."""
        self.lengths, labels, start = _read_front(message, head, self.num_classes)
        padded_length = _padded_length(self.lengths, head)
        # Before anything is made of these sizes: a few bytes can claim billions of tokens.
        _check_size(message, start, head, self.layout)
        self._slots, _ = _slots(self.lengths, padded_length)
        per_token = _LABEL_KINDS[head.label_kind] == "token"
        self.labels = labels[self._slots.numpy()] if per_token else labels
        self._head = head
        return start


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


def front(payload: Payload, padded_length: int | None) -> bytes:
    """What only the first message of a mini-batch brings: lengths and labels."""
    labels = payload.labels
    slots, num_sent = _slots(payload.lengths, padded_length)
    if payload.label_kind == "token":
        labels = np.full(num_sent, NO_LABEL, dtype=np.int64)
        labels[slots.numpy()] = payload.labels
    if int(payload.lengths.max(initial=0)) > np.iinfo(np.uint16).max:
        raise InputError("a sample has more than 65535 tokens", got=f"{payload.lengths.max()}")
    sort = "<f4" if payload.label_kind == "residual" else "<i4"
    return payload.lengths.astype("<u2").tobytes() + labels.astype(sort).tobytes()


def _header(
    payload: Payload, layout: TapFormat, first_tap: int, num_taps: int, num_sent: int
) -> bytes:
    return header(
        payload.device,
        payload.batch,
        num_samples=len(payload.lengths),
        num_tokens=num_sent,
        label_kind=payload.label_kind,
        codec=layout.codec,
        taps=(first_tap, num_taps),
    )


def header(
    device: int,
    batch: int,
    *,
    num_samples: int,
    num_tokens: int,
    label_kind: LabelKind = "sample",
    codec: str = "fp32",
    taps: tuple[int, int] = (1, 0),
) -> bytes:
    """The first 32 bytes of a message; `taps` are the first one's number and how many there are."""
    kind, number = _LABEL_KINDS.index(label_kind), _CODEC_NAMES.index(codec)
    return _HEADER.pack(
        MAGIC, VERSION, kind, number, device, batch, *taps, num_samples, num_tokens
    )  # fmt: skip


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
    _expect("number of taps", header.num_taps > 0, "at least one", 0)
    return header


def _read_front(
    message: bytes, head: _Header, num_classes: int
) -> tuple[NDArray[np.int64], Labels, int]:
    """Lengths and labels, and where the taps start."""
    middle = HEADER_BYTES + 2 * head.num_samples
    end = middle + 4 * head.num_labels(num_classes)
    _expect("first message", len(message) >= end, f">= {end} bytes", len(message))
    lengths = np.frombuffer(message[HEADER_BYTES:middle], "<u2").astype(np.int64)
    labels = _labels(message[middle:end], head)
    _expect("lengths", bool(len(lengths)) and bool(lengths.min()), "a token in each sample", "none")
    return lengths, labels, end


def _labels(content: bytes, head: _Header) -> Labels:
    if _LABEL_KINDS[head.label_kind] == "residual":
        return np.frombuffer(content, "<f4").astype(np.float32).reshape(head.num_samples, -1)
    return np.frombuffer(content, "<i4").astype(np.int64)


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
    _check_size(message, start, header, layout)
    size = layout.num_bytes(header.num_tokens)
    body = torch.frombuffer(bytearray(message), dtype=torch.uint8)[start:]
    return [body[i * size : (i + 1) * size] for i in range(header.num_taps)]


def _check_size(message: bytes, start: int, header: _Header, layout: TapFormat) -> None:
    expected = start + header.num_taps * layout.num_bytes(header.num_tokens)
    _expect("message length", len(message) == expected, f"{expected} bytes", len(message))


def _expect(what: str, holds: bool, expected: object, got: object) -> None:
    if not holds:
        raise InputError(f"corrupt uplink message: {what}", expected=str(expected), got=str(got))
