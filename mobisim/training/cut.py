"""A cut through a backbone: what crosses between device and server in split learning.

Axes: N real tokens, G samples, T positions, D width, R bytes of one encoded token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mobisim.training.codec import TapFormat, decode_rows, encode_rows
from mobisim.training.tuned import Tuned


class Cut:
    """The wire after one block: its output goes up through a codec, the gradient comes down.

    Padding does not cross: it is zero on the other side. Without gradients, as in an evaluation,
    nothing is cut.

    Attributes:
        up: the encoded activations of the last forward, [N, R].
        down: the encoded gradients of the last backward, [N, R].
    """

    def __init__(self, tuned: Tuned, layer: int, layout: TapFormat) -> None:
        self.tuned, self.layout = tuned, layout
        self.up = self.down = torch.empty(0, layout.row_bytes, dtype=torch.uint8)
        tuned.blocks[layer - 1].register_forward_hook(self._cross)

    def _cross(self, _block: nn.Module, _inputs: object, out: Any) -> Any:
        if not torch.is_grad_enabled():
            return None
        hidden = out[0] if isinstance(out, tuple) else out
        crossed = _Crossing.apply(hidden, self)  # type: ignore[no-untyped-call]
        return (crossed, *out[1:]) if isinstance(out, tuple) else crossed

    def carry(self, values_GTD: Tensor) -> tuple[Tensor, Tensor]:
        """What crosses, [N, R], and what comes out of it, [G, T, D]."""
        real_GT = self.tuned.real_GT
        rows_NR = encode_rows(values_GTD[real_GT], self.layout)
        carried_GTD = torch.zeros_like(values_GTD)
        carried_GTD[real_GT] = decode_rows(rows_NR, self.layout)
        return rows_NR, carried_GTD


class _Crossing(torch.autograd.Function):
    """The codec both ways: its rounding counts as the identity for gradients."""

    @staticmethod
    def forward(ctx: Any, hidden_GTD: Tensor, cut: Cut) -> Tensor:
        ctx.cut = cut
        cut.up, carried_GTD = cut.carry(hidden_GTD)
        return carried_GTD

    @staticmethod
    def backward(ctx: Any, gradient_GTD: Tensor) -> tuple[Tensor, None]:
        ctx.cut.down, carried_GTD = ctx.cut.carry(gradient_GTD)
        return carried_GTD, None
