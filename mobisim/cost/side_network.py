"""The side network counted: parameters, FLOPs and bytes of forward, backward and update.

Source of the equations: papers' parallel adapters with learned gates, see DESIGN.md.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from mobisim.cost.work import BatchShape, Work

FLOAT_BYTES = 4  # the side network trains in fp32
# Passes over a [num_tokens, width] array per tap: gate, two products, activation, residual.
FORWARD_PASSES, BACKWARD_PASSES = 8, 16
FORWARD_OPS, BACKWARD_OPS, UPDATE_OPS = 7, 14, 12
ADAMW_STATES = 2


@dataclass(frozen=True)
class SideCost:
    """Counts of a side network of `num_taps` adapters, width d and bottleneck r.

    `head_width` is the number of classes, or the vocabulary for a next-token head, which is the
    backbone's own, copied to the server and frozen. `projected` are the projections that the
    activations at hand go through, each with the width that it begins with and the share of the
    tokens that need it; `projections` are the widths of all that there are. A head `averages` where
    it reads the mean of a sample's tokens.
    """

    num_taps: int
    width: int
    bottleneck: int
    head_width: int
    head_trains: bool = True
    optimizer_states: int = ADAMW_STATES
    projected: tuple[tuple[int, float], ...] = ()
    projections: tuple[int, ...] = ()
    averages: bool = True

    @property
    def adapter_parameters(self) -> int:
        """Parameters of one adapter: two matrices and a gate."""
        return 2 * self.width * self.bottleneck + 1

    @property
    def head_parameters(self) -> int:
        """Trainable parameters of the head."""
        return (self.width + 1) * self.head_width if self.head_trains else 0

    @property
    def shared_parameters(self) -> int:
        """Trainable parameters that all devices' activations go through."""
        return self.num_taps * self.adapter_parameters + self.head_parameters

    def _projection(self, width: int) -> int:
        return self.num_taps * width * self.width

    @property
    def projection_parameters(self) -> int:
        """Parameters of all projections."""
        return sum(map(self._projection, self.projections))

    @property
    def trainable_parameters(self) -> int:
        """All trainable parameters."""
        return self.shared_parameters + self.projection_parameters

    @property
    def own_parameters(self) -> int:
        """Trainable parameters that the activations at hand go through."""
        return self.shared_parameters + sum(self._projection(wide) for wide, _ in self.projected)

    @property
    def trained_tensors(self) -> Counter[int]:
        """The sizes of the tensors that a step updates, and how many there are of each.

        The adapters' matrices and gates, and the projections, are stacked over the taps.
        """
        matrix = self.num_taps * self.width * self.bottleneck
        head = [self.width * self.head_width, self.head_width] if self.head_trains else []
        projections = [self._projection(wide) for wide, _ in self.projected]
        return Counter([matrix, matrix, self.num_taps, *head, *projections])

    @property
    def download_bytes(self) -> int:
        """Bytes that deliver to a device what its activations go through: parameters in fp32."""
        return FLOAT_BYTES * self.own_parameters

    def tap_forward(self, shape: BatchShape) -> Work:
        """The forward of one adapter, and of the projection before it."""
        adapter = Work(
            flop=4.0 * shape.num_tokens * self.width * self.bottleneck,
            num_bytes=self._tap_bytes(shape, FORWARD_PASSES),
            num_ops=FORWARD_OPS,
        )
        return adapter + self._projecting(shape)

    def _projecting(self, shape: BatchShape) -> Work:
        """A tap's projections, or the gradients of their weights: none goes further back."""
        return Work.total(
            self._product(wide, shape.num_tokens * share) for wide, share in self.projected
        )

    def _product(self, wide: int, num_tokens: float) -> Work:
        values = wide * self.width
        moved = num_tokens * (wide + self.width) + values
        return Work(2.0 * num_tokens * values, FLOAT_BYTES * moved, 1)

    def backward_and_update(self, shape: BatchShape) -> Work:
        """Head forward, all backward, and the optimiser's update."""
        taps = Work(
            flop=8.0 * shape.num_tokens * self.width * self.bottleneck,
            num_bytes=self._tap_bytes(shape, BACKWARD_PASSES),
            num_ops=BACKWARD_OPS,
        )
        taps += self._projecting(shape)
        return taps * self.num_taps + self._head(shape) + self._update()

    def step(self, shape: BatchShape) -> Work:
        """A whole training step."""
        return self.tap_forward(shape) * self.num_taps + self.backward_and_update(shape)

    def _tap_bytes(self, shape: BatchShape, passes: int) -> float:
        weights = 2 * self.width * self.bottleneck
        return float(FLOAT_BYTES * (passes * shape.num_tokens * self.width + weights))

    def _head(self, shape: BatchShape) -> Work:
        products = 3 if self.head_trains else 2  # a frozen head needs no weight gradient
        product = 2.0 * self._head_rows(shape) * self.width * self.head_width
        return Work(products * product, FLOAT_BYTES * self.width * self.head_width, 10)

    def _head_rows(self, shape: BatchShape) -> int:
        return shape.num_samples if self.head_trains else shape.num_tokens

    def _update(self) -> Work:
        touched = self.own_parameters * (2 + 2 * self.optimizer_states)
        return Work(0.0, float(FLOAT_BYTES * touched), UPDATE_OPS)

    def stored_bytes(self, shape: BatchShape) -> int:
        """Bytes that the forward keeps for the backward, decoded activations included.

        Per tap: the decoded activation and s_{i-1} for the gate, x_i for the down-projection,
        the bottleneck before and after its activation; where it is projected, both of it. The
        first decoded activation is s_0 as well. Of the head, what it reads, or its norm does,
        also before this is averaged, and the logarithms of the probabilities.
        """
        own = sum(wide * share for wide, share in self.projected)
        per_token = 3 * self.width + 2 * self.bottleneck + own
        taps = per_token * self.num_taps - self.width
        averaged = self.width if self.averages and self.head_trains else 0
        head = self._head_rows(shape) * (self.width + self.head_width)
        return round(FLOAT_BYTES * (shape.num_tokens * (taps + averaged) + head))

    def logit_bytes(self, shape: BatchShape) -> int:
        """Logits and their gradient, which live within a step."""
        return 2 * FLOAT_BYTES * self._head_rows(shape) * self.head_width

    @property
    def state_bytes(self) -> int:
        """Bytes of parameters, gradients and optimiser states."""
        return FLOAT_BYTES * self.trainable_parameters * (2 + self.optimizer_states)
