"""Predicted bytes on the wire against messages that were really packed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mobisim.cost.wire import CODEC_BITS, payload_parts
from mobisim.cost.work import BatchShape
from mobisim.scenario.method_options import Codec
from mobisim.scenario.schema import Wire
from mobisim.training.codec import TapFormat, encode_rows
from mobisim.training.message import Granularity, LabelKind, Payload, pack

TAPS = 3
LENGTHS = [5, 9, 2, 7]


@pytest.mark.parametrize("codec", list(CODEC_BITS))
@pytest.mark.parametrize("width", [96, 100])
@pytest.mark.parametrize("granularity", ["batch", "layer"])
@pytest.mark.parametrize("padded_length", [None, 12])
@pytest.mark.parametrize("label_kind", ["sample", "token"])
def test_predicted_bytes_are_the_packed_ones(
    codec: Codec,
    width: int,
    granularity: Granularity,
    padded_length: int | None,
    label_kind: LabelKind,
) -> None:
    """Every message has exactly the predicted length, whatever the codec, width and padding."""
    layout = TapFormat(codec, 64, width)
    real = sum(LENGTHS)
    rows = torch.stack([encode_rows(torch.randn(real, width), layout) for _ in range(TAPS)])
    labels = np.zeros(real if label_kind == "token" else len(LENGTHS), dtype=np.int64)
    payload = Payload(0, 0, label_kind, np.array(LENGTHS), labels, rows)
    packed = pack(payload, layout, granularity=granularity, padded_length=padded_length)
    sent = LENGTHS if padded_length is None else [padded_length] * len(LENGTHS)
    shape = BatchShape.of_lengths(sent, num_labels=sum(sent) if label_kind == "token" else None)
    predicted = payload_parts(
        Wire(codec=codec), shape, width, TAPS, by_layer=granularity == "layer"
    )
    assert [len(message) for message in packed] == list(predicted)
