from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mobisim.errors import InputError
from mobisim.training.codec import CODECS, TapFormat, encode_rows
from mobisim.training.message import (
    NO_LABEL,
    Granularity,
    LabelKind,
    Payload,
    num_bytes,
    pack,
    unpack,
)

LAYOUT = TapFormat("nf4", 4, 6)


def payload(
    lengths: list[int], layout: TapFormat = LAYOUT, kind: LabelKind = "sample", taps: int = 3
) -> Payload:
    """A payload of random activations with labels 0, 1, 2, …"""
    num_tokens = sum(lengths)
    values = torch.randn(taps, num_tokens, layout.width, generator=torch.Generator().manual_seed(0))
    labels = np.arange(len(lengths) if kind == "sample" else num_tokens)
    rows = torch.stack([encode_rows(tap, layout) for tap in values])
    return Payload(7, 2**40, kind, np.array(lengths), labels, rows)


def assert_equal(left: Payload, right: Payload) -> None:
    for field in dataclasses.fields(Payload):
        a, b = getattr(left, field.name), getattr(right, field.name)
        assert np.array_equal(a, b), field.name


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    codec=st.sampled_from(sorted(CODECS)),
    width=st.integers(1, 9),
    kind=st.sampled_from(["sample", "token"]),
    granularity=st.sampled_from(["batch", "layer"]),
    padding=st.none() | st.integers(0, 4),
)
def test_what_is_packed_comes_out(
    *,
    lengths: list[int],
    codec: str,
    width: int,
    kind: LabelKind,
    granularity: Granularity,
    padding: int | None,
) -> None:
    """Every payload survives the wire whole, in as many bytes as predicted."""
    layout = TapFormat(codec, 4, width)
    sent = payload(lengths, layout, kind)
    padded = None if padding is None else max(lengths) + padding
    messages = pack(sent, layout, granularity=granularity, padded_length=padded)
    assert_equal(unpack(messages, layout), sent)
    num_tokens = sum(lengths) if padded is None else padded * len(lengths)
    assert sum(map(len, messages)) == num_bytes(
        layout,
        num_taps=3,
        num_samples=len(lengths),
        num_tokens=num_tokens,
        num_labels=len(lengths) if kind == "sample" else num_tokens,
        granularity=granularity,
    )


def test_bytes_of_one_message_by_hand() -> None:
    """Header, lengths, labels, then scales and codes of each tap: counted out once on paper."""
    # 32 + 2·2 + 4·2 + 3 taps · (5 tokens · 2 blocks · 4 + 5·6·4/8)
    assert len(pack(payload([2, 3]), LAYOUT)[0]) == 32 + 4 + 8 + 3 * (40 + 15)


def test_header_starts_as_documented() -> None:
    """Magic, version and the counts stand where the format says."""
    head = pack(payload([2, 3]), LAYOUT)[0][:32]
    assert head[:6] == b"MBSM\x01\x00"
    assert int.from_bytes(head[8:12], "little") == 7
    assert int.from_bytes(head[12:20], "little") == 2**40
    assert [int.from_bytes(head[i : i + 4], "little") for i in (24, 28)] == [2, 5]


def test_each_layer_has_its_message_and_the_first_carries_the_labels() -> None:
    """Per layer there are as many messages as taps; lengths and labels cross once."""
    sizes = [len(message) for message in pack(payload([2, 3]), LAYOUT, granularity="layer")]
    assert sizes == [32 + 12 + 55, 32 + 55, 32 + 55]


def test_padding_carries_no_label() -> None:
    """The labels of padded positions cross as NO_LABEL."""
    message = pack(payload([1, 2], kind="token"), LAYOUT, padded_length=2)[0]
    labels = np.frombuffer(message[36 : 36 + 16], "<i4")
    assert labels.tolist() == [0, NO_LABEL, 1, 2]


def corrupt(messages: list[bytes], at: int, value: int, which: int = 0) -> list[bytes]:
    broken = bytearray(messages[which])
    broken[at] = value
    return [*messages[:which], bytes(broken), *messages[which + 1 :]]


@pytest.mark.parametrize(
    ("at", "value", "what"),
    [
        (0, 0, "magic and version"),
        (4, 9, "magic and version"),
        (5, 9, "kind of labels"),
        (6, 0, "codec"),
        (20, 2, "first tap"),
        (24, 200, "first message"),
        (28, 7, "number of tokens"),
        (22, 4, "message length"),
    ],
)
def test_corrupt_header_is_refused(at: int, value: int, what: str) -> None:
    """A changed byte in the header is named by the field that it breaks."""
    messages = corrupt(pack(payload([2, 3]), LAYOUT), at, value)
    with pytest.raises(InputError, match=f"corrupt uplink message: {what}"):
        unpack(messages, LAYOUT)


@pytest.mark.parametrize("length", [0, 31, 40, 100])
def test_cut_message_is_refused(length: int) -> None:
    """A message that ends too early is never read as a shorter one."""
    with pytest.raises(InputError, match="corrupt uplink message"):
        unpack([pack(payload([2, 3]), LAYOUT)[0][:length]], LAYOUT)


def test_messages_of_two_batches_do_not_mix() -> None:
    """Layers of different mini-batches are not joined."""
    messages = corrupt(pack(payload([2, 3]), LAYOUT, granularity="layer"), 12, 1, which=1)
    with pytest.raises(InputError, match="mini-batch"):
        unpack(messages, LAYOUT)


def test_missing_layer_is_noticed() -> None:
    """A gap among the taps is refused."""
    messages = pack(payload([2, 3]), LAYOUT, granularity="layer")
    with pytest.raises(InputError, match="first tap"):
        unpack([messages[0], messages[2]], LAYOUT)


def test_no_message_is_no_payload() -> None:
    """Nothing received is not an empty mini-batch."""
    with pytest.raises(InputError, match="number of messages"):
        unpack([], LAYOUT)


def test_sample_longer_than_the_padding_is_refused() -> None:
    """Padding never cuts a sample silently."""
    with pytest.raises(InputError, match="longer than the padded length"):
        pack(payload([2, 3]), LAYOUT, padded_length=2)


def test_lengths_stop_at_sixteen_bits() -> None:
    """A sample whose length the format cannot say is refused."""
    with pytest.raises(InputError, match="65535"):
        pack(payload([70_000], TapFormat("int2", 4, 1), taps=1), TapFormat("int2", 4, 1))
