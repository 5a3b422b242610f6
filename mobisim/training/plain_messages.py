"""Messages without activations: data as they are, slopes of a loss, and updates of what trains.

Each has the header of all messages, and values of four bytes; data have lengths as activations do.

Axes: G samples, T positions, K slopes.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mobisim.training.backbone import padded
from mobisim.training.message import Payload, front, header
from mobisim.training.tokens import Tokens


def pack_tokens(payload: Payload, ids: Sequence[Tokens], padded_length: int | None) -> bytes:
    """A mini-batch's tokens, lengths and labels; with `padded_length` so many tokens a sample."""
    ids_GT, mask_GT = padded(ids, 0, padded_length)
    sent = ids_GT[mask_GT.bool()] if padded_length is None else ids_GT.flatten()
    head = header(
        payload.device,
        payload.batch,
        num_samples=len(ids),
        num_tokens=len(sent),
        label_kind=payload.label_kind,
    )
    return head + front(payload, padded_length) + sent.numpy().astype("<i4").tobytes()


def pack_slopes(batch: int, slopes_K: Tensor) -> bytes:
    """The slopes of the loss of a mini-batch."""
    return header(0, batch, num_samples=0, num_tokens=0) + _floats([slopes_K])


def pack_update(batch: int, values: Sequence[Tensor]) -> bytes:
    """What trains, as it is after a mini-batch's step."""
    return header(0, batch, num_samples=0, num_tokens=0) + _floats(values)


def _floats(values: Sequence[Tensor]) -> bytes:
    return b"".join(value.detach().numpy().astype("<f4").tobytes() for value in values)
